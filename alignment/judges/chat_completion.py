"""One request to an OpenAI-compatible chat service: the answer, or what its failure means."""

import email.utils
import time
from dataclasses import dataclass

import httpx

from alignment.types import UserError

KEY = "judge.api"
PASSING = {408, 409, 425, 429, 500, 502, 503, 504, 529}  # worth another try
REFUSED = {400, 403, 413, 422, 451}  # of a request that isn't taken: by a content filter, or as too long


@dataclass(frozen=True)
class Reply:
    """What the model said (None: nothing), and the tokens that were paid for. refused: why it was not asked."""

    text: str | None
    tokens_in: int
    tokens_out: int
    cached: bool = False
    refused: str | None = None


class TryAgain(Exception):
    """A failure that may pass; `wait` seconds, if the service said so."""

    def __init__(self, what: str, wait: float | None = None) -> None:
        super().__init__(what)
        self.wait = wait


class Refused(Exception):
    """This request isn't taken, in the service's words; others may be. misused: what it means if none is."""

    def __init__(self, what: str, misused: UserError) -> None:
        super().__init__(what)
        self.misused = misused


def complete(client: httpx.Client, url: str, key: str | None, request: dict, most: tuple[int, int]) -> Reply:
    """The answer to a request, sent once. key: never to be quoted. most: the tokens, in and out, it can have cost."""
    try:
        response = client.post(f"{url.rstrip('/')}/chat/completions", json=request)
    except httpx.TimeoutException as error:
        raise TryAgain(f"nothing within {client.timeout.read:g} s") from error
    except httpx.TransportError as error:
        raise TryAgain(f"the connection failed ({type(error).__name__})") from error
    if response.status_code in PASSING:
        raise TryAgain(f"status {response.status_code}", _asked_to_wait(response))
    if response.status_code == 200:
        return _read(response, most)
    said = f"status {response.status_code}: {_said(response, key)}"
    if response.status_code in (401, 403):
        misused = UserError(
            f"{KEY}.key_variable", f"the service refuses the key ({said})", "check the key in that environment variable"
        )
    else:
        misused = UserError(f"{KEY}.url", f"the service answers {said}", "check judge.api.url and judge.api.model")
    raise Refused(said, misused) if response.status_code in REFUSED else misused


def _read(response: httpx.Response, most: tuple[int, int]) -> Reply:
    try:
        return _reply(response.json(), most)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise TryAgain("an answer that is no chat completion") from error


def _said(response: httpx.Response, key: str | None) -> str:
    """The service's words in one line, without the key should it repeat it."""
    words = " ".join(response.text.split())
    return (words.replace(key, "***") if key else words)[:200]


def _reply(body: dict, most: tuple[int, int]) -> Reply:
    """Of a chat completion; one that doesn't say what it used counts as the most it can have been."""
    choice = body["choices"][0]
    text = choice["message"].get("content")
    if text is not None and not isinstance(text, str):
        raise TypeError("content is no text")
    usage = body.get("usage") or {}
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    used = [count if isinstance(count, int) and count >= 0 else top for count, top in zip(counts, most, strict=True)]
    return Reply(text, *used)


def _asked_to_wait(response: httpx.Response) -> float | None:
    """Retry-After, in seconds or as a date."""
    header = response.headers.get("Retry-After", "")
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except (TypeError, ValueError):
        return None
