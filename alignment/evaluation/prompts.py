"""The prompts that are evaluated on: those of the data that is trained on, and sets of prompts by name."""

import hashlib
from collections.abc import Callable, Iterable

from alignment.data.columns import Loaded
from alignment.data.prompt_sets import prompt_set, set_name
from alignment.data.same_prompts import prompt_text
from alignment.evaluation.answers import Asked

DATA = "data"  # in evaluation.sets it stands for the world's evaluation sets, or for the held-out prompts of a file


def all_prompts(
    sets: Iterable[str], folder: str, count: int, seed: int, own: Callable[[], list[Asked]]
) -> tuple[list[Asked], list[dict]]:
    """All that is asked; and which rows of the sets can't be asked, and why. own: the prompts of the data, if asked."""
    asked: list[Asked] = []
    set_aside: list[dict] = []
    for name in sets:
        if name == DATA:
            asked += own()
        else:
            prompts, read = prompts_of(name, folder, count, seed=seed)
            asked += prompts
            set_aside += read.quarantined
    return asked, set_aside


def prompts_of(name: str, folder: str, count: int, *, seed: int) -> tuple[list[Asked], Loaded]:
    """At most `count` prompts of a set, drawn by `seed` and in the set's own order; and the set as it was read."""
    loaded = prompt_set(name, folder)
    return first_drawn([_asked(set_name(name), row) for row in loaded.rows], count, seed), loaded


def heldout_prompts(rows: Iterable[dict], count: int, *, seed: int) -> list[Asked]:
    """At most `count` prompts of held-out pairs, drawn likewise.

    A prompt of several pairs is asked once, as its first pair has it: answers to the same question are no independent
    evidence.
    """
    prompts: dict[str, Asked] = {}
    for row in rows:
        if (text := prompt_text(row["prompt"])) not in prompts:
            prompts[text] = _asked("heldout", row)
    return first_drawn(list(prompts.values()), count, seed)


def _asked(name: str, row: dict) -> Asked:
    return Asked(name, row["id"], row["prompt"], row["harmful"], row["category"])


def first_drawn(asked: list[Asked], count: int, seed: int) -> list[Asked]:
    """At most `count` of the prompts, drawn by `seed`, in the order they have."""
    first = {prompt.id for prompt in sorted(asked, key=lambda prompt: rank(prompt.id, seed))[:count]}
    return [prompt for prompt in asked if prompt.id in first]


def rank(name: str, seed: int) -> bytes:
    """A prompt's place in the draw, which depends on no other prompt: a set that grows keeps most that were drawn."""
    return hashlib.sha256(f"{seed}/{name}".encode()).digest()


def asks(asked: Asked) -> str:
    """What the prompt asks for, as a column that is never null, so that filters can name its values."""
    return {True: "harmful", False: "harmless", None: "unknown"}[asked.harmful]
