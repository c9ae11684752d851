"""One request to an OpenAI-compatible chat service: the answer, or what its failure means."""

import email.utils
import time
from dataclasses import dataclass

import httpx

from alignment.types import UserError

KEY = "judge.api"
PASSING = {408, 409, 425, 429, 500, 502, 503, 504, 529}  # worth another try
REFUSED = {400, 403, 413, 422, 451}  # this request isn't taken: by a content filter, or because it is too long


@dataclass(frozen=True)
class Reply:
    """The model's text (None: it wrote none), and the tokens that were paid for. refused: why it wasn't asked."""

    text: str | None
    tokens_in: int
    tokens_out: int
    cached: bool = False
    refused: str | None = None


class TryAgain(Exception):
    """A failure that may pass. wait: how many seconds the service asks to wait, if it does."""

    def __init__(self, what: str, wait: float | None = None) -> None:
        super().__init__(what)
        self.wait = wait


class Refused(Exception):
    """The service doesn't take this request, but may take others; says so in its words. misused: the error if it takes
    none."""

    def __init__(self, what: str, misused: UserError) -> None:
        super().__init__(what)
        self.misused = misused


def complete(client: httpx.Client, url: str, key: str | None, request: dict, most: tuple[int, int]) -> Reply:
    """The reply to a request, which is sent once. key: never quoted in an error. most: the largest number of tokens, in
    and out, that the request can cost."""
    try:
        response = client.post(f"{url.rstrip('/')}/chat/completions", json=request)
    except httpx.TimeoutException as error:
        raise TryAgain(f"nothing within {client.timeout.read:g} s") from error
    except httpx.TransportError as error:
        raise TryAgain(f"the connection failed ({type(error).__name__})") from error
    if response.status_code in PASSING:
        raise TryAgain(f"status {response.status_code}", _retry_after(response))
    if response.status_code == 200:
        return _read(response, most)
    problem = f"status {response.status_code}: {_in_one_line(response.text, key)}"
    if response.status_code in (401, 403):
        refusal = f"the service refuses the key ({problem})"
        misused = UserError(f"{KEY}.key_variable", refusal, "check the key in that environment variable")
    else:
        misused = UserError(f"{KEY}.url", f"the service answers {problem}", "check judge.api.url and judge.api.model")
    raise Refused(problem, misused) if response.status_code in REFUSED else misused


def _in_one_line(text: str, key: str | None) -> str:
    """A service's words without the key, which it may repeat."""
    words = " ".join(text.split())
    return (words.replace(key, "***") if key else words)[:200]


def _read(response: httpx.Response, most: tuple[int, int]) -> Reply:
    """The reply in a chat completion; where that doesn't count its tokens, `most` is taken."""
    try:
        body = response.json()
        text = body["choices"][0]["message"].get("content")
        if text is not None and not isinstance(text, str):
            raise TypeError("content is no text")
        usage = body.get("usage") or {}
        counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise TryAgain("an answer that is no chat completion") from error
    used = [count if isinstance(count, int) and count >= 0 else top for count, top in zip(counts, most, strict=True)]
    return Reply(text, *used)


def _retry_after(response: httpx.Response) -> float | None:
    """The header Retry-After, in seconds or as a date; None if there is none that can be read."""
    header = response.headers.get("Retry-After", "")
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except (TypeError, ValueError):
        return None
