"""Answers of an OpenAI-compatible chat service over HTTP: tried again, kept on disk, within a rate and a budget.

Every answer is on disk before the next is counted, under a hash of all that was asked: a killed run asks only for what
it has not had. The key comes from an environment variable and goes into one request header, nowhere else.
"""

import email.utils
import hashlib
import json
import os
import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from alignment.runs import stopping
from alignment.runs.artifacts import atomic_file
from alignment.types import Message, StageFailed, Stopped, UserError

KEY = "judge.api"
PASSING = {408, 409, 425, 429, 500, 502, 503, 504, 529}  # worth another try
REFUSED = {400, 403, 413, 422, 451}  # of a request that isn't taken: by a content filter, or as too long
# What a service refuses only if it isn't the conversations' fault: said at a first refusal, and after five in a row.
HELLO, IN_A_ROW = [{"role": "user", "content": "Hello."}], 5
LONGEST_WAIT = 600.0  # seconds; a service that asks for more is out for today


@dataclass(frozen=True)
class Reply:
    """What the model said (None: nothing), and the tokens that were paid for. refused: why it was not asked."""

    text: str | None
    tokens_in: int
    tokens_out: int
    cached: bool = False
    refused: str | None = None


class _TryAgain(Exception):
    """A failure that may pass; `wait` seconds, if the service said so."""

    def __init__(self, what: str, wait: float | None = None) -> None:
        super().__init__(what)
        self.wait = wait


class _Refused(Exception):
    """This request isn't taken, in the service's words; others may be. misused: what it means if none is."""

    def __init__(self, what: str, misused: UserError) -> None:
        super().__init__(what)
        self.misused = misused


@dataclass
class ChatService:
    """Prices are in dollars for a million tokens; budget in dollars, or None. key: None if the service wants none.

    `spent` counts everything asked for by this object, whether it was asked now or by a run before it.
    """

    url: str
    model: str
    key: str | None = field(repr=False)
    cache: Path
    max_tokens: int = 200
    price_in: float = 0.0
    price_out: float = 0.0
    budget: float | None = None
    requests_per_minute: float | None = None
    concurrency: int = 4
    timeout_seconds: float = 60.0
    tries: int = 6
    first_wait: float = 1.0
    spent: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._reserved, self._next_slot, self._known = 0.0, 0.0, set()
        self._greeting, self._refused_in_a_row = threading.Lock(), IN_A_ROW

    def ask(self, conversations: Sequence[list[Message]]) -> list[Reply]:
        """A reply to each, in order; one that was given before is not asked for again."""
        requests = [self._request(messages) for messages in conversations]
        names = [_name(self.url, request) for request in requests]
        replies: dict[str, Reply] = {}
        missing: dict[str, dict] = {}
        for name, request in zip(names, requests, strict=True):
            if name not in replies and name not in missing:
                kept = self._kept(name)
                if kept is None:
                    missing[name] = request
                else:
                    replies[name] = kept
        if missing:
            replies |= self._ask_all(missing)
        return [replies[name] for name in names]

    def _request(self, messages: list[Message]) -> dict[str, Any]:
        return {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": self.max_tokens}

    def _ask_all(self, missing: dict[str, dict]) -> dict[str, Reply]:
        """The first failure ends it; what is under way is still waited for, and kept."""
        over = threading.Event()
        headers = {} if self.key is None else {"Authorization": f"Bearer {self.key}"}
        found: dict[str, Reply] = {}
        with (
            httpx.Client(headers=headers, timeout=self.timeout_seconds) as client,
            ThreadPoolExecutor(self.concurrency) as threads,
        ):
            under_way = {
                threads.submit(self._ask_unless_over, client, name, request, over): name
                for name, request in missing.items()
            }
            try:
                for future in as_completed(under_way):
                    if (reply := future.result()) is not None:
                        found[under_way[future]] = reply
            finally:
                over.set()
                threads.shutdown(cancel_futures=True)
        if len(found) < len(missing):
            raise Stopped("judging")
        return found

    def _ask_unless_over(self, client: httpx.Client, name: str, request: dict, over: threading.Event) -> Reply | None:
        """None: it isn't asked any more. Whoever fails ends it for the others, before they begin anything new."""
        try:
            return self._ask_one(client, name, request, over)
        except BaseException:
            over.set()
            raise

    def _ask_one(self, client: httpx.Client, name: str, request: dict, over: threading.Event) -> Reply | None:
        try:
            reply = self._answer(client, request, over)
        except _Refused as error:
            self._require_others_taken(client, error, over)
            return Reply(None, 0, 0, refused=str(error))  # not kept: it may be taken another day
        if reply is not None:
            self._refused_in_a_row = IN_A_ROW
            self._keep(name, reply)
        return reply

    def _answer(self, client: httpx.Client, request: dict, over: threading.Event) -> Reply | None:
        """As often as it takes; None: it isn't asked any more."""
        last = ""
        for attempt in range(self.tries):
            if over.is_set() or stopping.asked():
                return None
            self._wait_for_slot(over)
            most = self._reserve(request)
            try:
                return self._send(client, request, most)
            except _TryAgain as error:
                last = str(error)
                if attempt + 1 < self.tries:
                    over.wait(self._pause(attempt, error.wait))
            finally:
                self._release(most)
        raise StageFailed(
            KEY, f"no answer after {self.tries} tries: {last}", "the same command goes on with what it has"
        )

    def _require_others_taken(self, client: httpx.Client, error: _Refused, over: threading.Event) -> None:
        """One conversation is refused, or all are: something is wrong with the settings then, and it ends at once."""
        with self._greeting:
            if self._refused_in_a_row < IN_A_ROW:
                self._refused_in_a_row += 1
                return
            request = self._request(HELLO)
            try:
                reply = self._answer(client, request, over)
            except _Refused as again:
                raise again.misused from again
            if reply is not None:
                self._refused_in_a_row = 1
                self._count(_name(self.url, request), reply)

    # ---- one request ----

    def _send(self, client: httpx.Client, request: dict, most: tuple[int, int]) -> Reply:
        try:
            response = client.post(f"{self.url.rstrip('/')}/chat/completions", json=request)
        except httpx.TimeoutException as error:
            raise _TryAgain(f"nothing within {self.timeout_seconds:g} s") from error
        except httpx.TransportError as error:
            raise _TryAgain(f"the connection failed ({type(error).__name__})") from error
        if response.status_code in PASSING:
            raise _TryAgain(f"status {response.status_code}", _asked_to_wait(response))
        if response.status_code == 200:
            return self._read(response, most)
        said = f"status {response.status_code}: {self._said(response)}"
        if response.status_code in (401, 403):
            misused = UserError(
                f"{KEY}.key_variable",
                f"the service refuses the key ({said})",
                "check the key in that environment variable",
            )
        else:
            misused = UserError(f"{KEY}.url", f"the service answers {said}", "check judge.api.url and judge.api.model")
        raise _Refused(said, misused) if response.status_code in REFUSED else misused

    def _read(self, response: httpx.Response, most: tuple[int, int]) -> Reply:
        try:
            return _reply(response.json(), most)
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise _TryAgain("an answer that is no chat completion") from error

    def _said(self, response: httpx.Response) -> str:
        """The service's words in one line, without the key should it repeat it."""
        words = " ".join(response.text.split())
        return (words.replace(self.key, "***") if self.key else words)[:200]

    def _pause(self, attempt: int, asked: float | None) -> float:
        """As long as the service asks for, or twice as long every time; never all requests at once."""
        if asked is not None and asked > LONGEST_WAIT:
            raise StageFailed(KEY, f"the service asks to wait {asked:.0f} s", "run the same command again then")
        return asked if asked is not None else self.first_wait * 2**attempt * random.uniform(0.5, 1.0)

    def _wait_for_slot(self, over: threading.Event) -> None:
        if self.requests_per_minute is None:
            return
        with self._lock:
            now = time.monotonic()
            slot = max(now, self._next_slot)
            self._next_slot = slot + 60 / self.requests_per_minute
        over.wait(slot - now)

    # ---- money ----

    def _cost(self, tokens_in: int, tokens_out: int) -> float:
        return (tokens_in * self.price_in + tokens_out * self.price_out) / 1e6

    def _reserve(self, request: dict) -> tuple[int, int]:
        """The most tokens a request can be paid for: one for each byte of it is more than any tokenizer makes."""
        most = (len(json.dumps(request["messages"], ensure_ascii=False).encode()), self.max_tokens)
        with self._lock:
            if self.budget is not None and self.spent + self._reserved + self._cost(*most) > self.budget:
                raise StageFailed(
                    f"{KEY}.budget", f"another request could pass {self.budget:g}: {self.spent:.4g} is spent",
                    "give more; the answers so far are kept",
                )  # fmt: skip
            self._reserved += self._cost(*most)
        return most

    def _release(self, most: tuple[int, int]) -> None:
        with self._lock:
            self._reserved -= self._cost(*most)

    # ---- what was said before ----

    def _kept(self, name: str) -> Reply | None:
        try:
            reply = Reply(**{**json.loads(self._path(name).read_text(encoding="utf-8")), "cached": True})
        except (FileNotFoundError, ValueError, TypeError):
            return None
        self._count(name, reply)
        return reply

    def _keep(self, name: str, reply: Reply) -> None:
        with atomic_file(self._path(name)) as file:
            content = {**vars(reply)}
            del content["cached"], content["refused"]
            file.write_text(json.dumps(content, ensure_ascii=True) + "\n", encoding="utf-8")
        self._count(name, reply)

    def _count(self, name: str, reply: Reply) -> None:
        with self._lock:
            if name not in self._known:
                self._known.add(name)
                self.spent += self._cost(reply.tokens_in, reply.tokens_out)

    def _path(self, name: str) -> Path:
        return self.cache / name[:2] / f"{name}.json"


def key_from(variable: str | None) -> str | None:
    """The key in an environment variable; UserError, which never quotes it, if there is none or it can't be one."""
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UserError(f"{KEY}.key_variable", f"the environment has no {variable}", f"export {variable}=...")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UserError(f"{KEY}.key_variable", f"what {variable} holds is no key", "give one word of plain characters")
    return key


def _name(url: str, request: dict) -> str:
    return hashlib.sha256(json.dumps([url, request], sort_keys=True).encode()).hexdigest()


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
