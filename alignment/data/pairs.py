"""Preference pairs: one function per data set, all to the same columns; a split is by prompt, never by row."""

import hashlib
import json

from alignment.data.columns import BadRow, Loaded, pair, unique_ids
from alignment.data.files import read_file
from alignment.world import grammar


def world_pairs(train: int, heldout: int, *, seed: int, noise: float) -> tuple[Loaded, Loaded]:
    """Training and held-out pairs of the embedded world, labelled with noise."""
    return (
        _world(grammar.training_pairs(train, seed=seed, noise=noise)),
        _world(grammar.heldout_pairs(heldout, seed=seed, noise=noise)),
    )


def world_evaluation_pairs(count: int, *, seed: int) -> dict[str, Loaded]:
    """The world's clean evaluation sets, by name."""
    return {name: _world(grammar.evaluation_pairs(name, count, seed=seed)) for name in grammar.EVALUATION_SETS}


def file_pairs(path: str, heldout: float, *, seed: int) -> tuple[Loaded, Loaded]:
    """A file's pairs: prompts are drawn into the held-out part by their content, so that the split never moves."""
    train, kept = Loaded(), Loaded()
    usable: list[tuple[int, dict]] = []
    for line, row in read_file("data.path", path):
        if isinstance(row, str):
            train.quarantine(path, line, row)
            continue
        try:
            usable.append((line, pair(row, f"line-{line:09d}", path)))
        except BadRow as error:
            train.quarantine(path, line, str(error))
    for row in unique_ids(usable, train, path):
        (kept if _share(row["prompt"], seed) < heldout else train).rows.append(row)
    return train, kept


def _world(raw: object) -> Loaded:
    loaded = Loaded()
    for row in raw:
        loaded.rows.append(pair(row, row["id"], "world"))
    return loaded


def _share(prompt: list[dict], seed: int) -> float:
    """A number in [0, 1) that depends on the prompt alone: white space and case aside."""
    text = " ".join(" ".join(message["content"].lower().split()) for message in prompt)
    digest = hashlib.sha256(json.dumps([seed, text]).encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64
