"""What is asked: the data's own prompts, and sets of prompts by name."""

import hashlib
from collections.abc import Iterable

from alignment.data.columns import Loaded
from alignment.data.prompt_sets import prompt_set
from alignment.data.same_prompts import prompt_text
from alignment.evaluation.answers import Asked

DATA = "data"  # among evaluation.sets: the world's evaluation sets, or the held-out prompts of a file


def prompts_of(name: str, folder: str, count: int, *, seed: int) -> tuple[list[Asked], Loaded]:
    """At most `count` prompts of a set, drawn by `seed` and in the set's own order; and the set as it was read."""
    read = prompt_set(name, folder)
    return _drawn([_asked(name, row) for row in read.rows], count, seed), read


def heldout_prompts(rows: Iterable[dict], count: int, *, seed: int) -> list[Asked]:
    """At most `count` of the prompts of held-out pairs, likewise. Many pairs may have one prompt: it is asked once, as
    its first pair has it, for answers to the same question are no independent evidence.
    """
    prompts: dict[str, Asked] = {}
    for row in rows:
        if (text := prompt_text(row["prompt"])) not in prompts:
            prompts[text] = _asked("heldout", row)
    return _drawn(list(prompts.values()), count, seed)


def _asked(name: str, row: dict) -> Asked:
    return Asked(name, row["id"], row["prompt"], row["harmful"], row["category"])


def _drawn(asked: list[Asked], count: int, seed: int) -> list[Asked]:
    first = {one.id for one in sorted(asked, key=lambda one: rank(one.id, seed))[:count]}
    return [one for one in asked if one.id in first]


def rank(name: str, seed: int) -> bytes:
    """An order that no other prompt changes: a set that grows keeps most of those that were drawn."""
    return hashlib.sha256(f"{seed}/{name}".encode()).digest()


def asks(asked: Asked) -> str:
    """As a column that filters can name: nothing is null in it."""
    return {True: "harmful", False: "harmless", None: "unknown"}[asked.harmful]
