"""Asks an OpenAI-compatible chat service over HTTP: tries again, keeps replies on disk, holds to a rate and a budget.

Every reply is on disk before the next is counted, under a hash of the whole request: a killed run asks only for replies
that it hasn't had. The key comes from an environment variable and goes into one request header, nowhere else.
"""

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

from alignment.judges.chat_completion import KEY, Refused, Reply, TryAgain, complete
from alignment.runs import stopping
from alignment.runs.artifacts import atomic_file
from alignment.types import Message, StageFailed, Stopped, UserError

# A service that refuses HELLO refuses everything. It is asked after a first refusal, and after every five in a row.
HELLO, IN_A_ROW = [{"role": "user", "content": "Hello."}], 5
LONGEST_WAIT = 600.0  # seconds; if a service asks for a longer pause, the run ends


@dataclass
class ChatService:
    """Prices are in dollars for a million tokens; the budget is in dollars. key: None if the service wants none.

    spent: dollars for all replies that this object gave, whether they were paid for now or by an earlier run.
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
        """A reply to each conversation, in order; for a reply that was given before the service isn't asked again."""
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
        """A reply to every request. The first failure ends this; requests under way are waited for, and kept."""
        over = threading.Event()
        headers = {} if self.key is None else {"Authorization": f"Bearer {self.key}"}
        replies: dict[str, Reply] = {}
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
                        replies[under_way[future]] = reply
            finally:
                over.set()
                threads.shutdown(cancel_futures=True)
        if len(replies) < len(missing):
            raise Stopped("judging")
        return replies

    def _ask_unless_over(self, client: httpx.Client, name: str, request: dict, over: threading.Event) -> Reply | None:
        """A reply, or None once all is over: a thread that fails keeps the others from beginning anything new."""
        try:
            return self._ask_one(client, name, request, over)
        except BaseException:
            over.set()
            raise

    def _ask_one(self, client: httpx.Client, name: str, request: dict, over: threading.Event) -> Reply | None:
        try:
            reply = self._answer(client, request, over)
        except Refused as error:
            self._require_others_taken(client, error, over)
            return Reply(None, 0, 0, refused=str(error))  # not kept: it may be taken another day
        if reply is not None:
            self._refused_in_a_row = IN_A_ROW
            self._keep(name, reply)
        return reply

    def _answer(self, client: httpx.Client, request: dict, over: threading.Event) -> Reply | None:
        """The reply after as many tries as it takes; None once all is over."""
        last = ""
        for attempt in range(self.tries):
            if over.is_set() or stopping.asked():
                return None
            self._wait_for_slot(over)
            most = self._reserve(request)
            try:
                return complete(client, self.url, self.key, request, most)
            except TryAgain as error:
                last = str(error)
                if attempt + 1 < self.tries:
                    over.wait(self._pause(attempt, error.wait))
            finally:
                self._release(most)
        raise StageFailed(
            KEY, f"no answer after {self.tries} tries: {last}", "the same command goes on with what it has"
        )

    def _require_others_taken(self, client: httpx.Client, error: Refused, over: threading.Event) -> None:
        """Raises `error.misused` if the service refuses HELLO, too: then the settings are wrong, not a conversation."""
        with self._greeting:
            if self._refused_in_a_row < IN_A_ROW:
                self._refused_in_a_row += 1
                return
            request = self._request(HELLO)
            try:
                reply = self._answer(client, request, over)
            except Refused as refused:
                raise refused.misused from refused
            if reply is not None:
                self._refused_in_a_row = 1
                self._count(_name(self.url, request), reply)

    # ---- how fast ----

    def _pause(self, attempt: int, retry_after: float | None) -> float:
        """The pause that the service asks for; or one that doubles with every try, and differs between threads."""
        if retry_after is not None and retry_after > LONGEST_WAIT:
            raise StageFailed(KEY, f"the service asks to wait {retry_after:.0f} s", "run the same command again then")
        return retry_after if retry_after is not None else self.first_wait * 2**attempt * random.uniform(0.5, 1.0)

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
        """The largest number of tokens that a request can cost: no tokenizer makes more than one of a byte."""
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

    # ---- replies on disk ----

    def _kept(self, name: str) -> Reply | None:
        try:
            reply = Reply(**{**json.loads(self._path(name).read_text(encoding="utf-8")), "cached": True})
        except (FileNotFoundError, ValueError, TypeError):
            return None
        self._count(name, reply)
        return reply

    def _keep(self, name: str, reply: Reply) -> None:
        with atomic_file(self._path(name)) as file:
            content = {"text": reply.text, "tokens_in": reply.tokens_in, "tokens_out": reply.tokens_out}
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
