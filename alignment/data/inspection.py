"""What is in a set of preference pairs: how many, how long, what is there twice, and what contradicts itself.

One pass over the rows; of a text only its hash is kept, so that a million pairs take a hundred megabytes.
"""

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from heapq import nsmallest

import numpy as np
import pyarrow as pa

from alignment.data.columns import PAIR_COLUMNS
from alignment.data.same_prompts import prompt_text, text_hash

SIDES = ("prompt", "chosen", "rejected")
MOST_CATEGORIES = 20


def inspect(rows: Iterable[dict]) -> dict:
    """Of pairs in the columns of PAIR_COLUMNS."""
    found = _Pass()
    for row in rows:
        found.see(row)
    return found.summary()


class _Pass:
    def __init__(self) -> None:
        self.words = {side: array("l") for side in SIDES}
        self.characters = {side: array("l") for side in SIDES}
        self.turns = array("l")
        self.prompts, self.pairs, self.turned = array("Q"), array("Q"), array("Q")
        self.safe, self.unsafe = array("Q"), array("Q")
        self.there: Counter = Counter()
        self.categories: Counter = Counter()
        self.harmful: Counter = Counter()

    def see(self, row: dict) -> None:
        texts = {side: " ".join(message["content"] for message in row[side]) for side in SIDES}
        for side, text in texts.items():
            self.characters[side].append(len(text))
            self.words[side].append(len(text.split()))
        self.turns.append(len(row["prompt"]))
        prompt = text_hash(prompt_text(row["prompt"]))
        chosen, rejected = (text_hash(texts[side], prompt % 2**62) for side in ("chosen", "rejected"))
        self.prompts.append(prompt)
        self.pairs.append(_both(chosen, rejected))
        self.turned.append(_both(rejected, chosen))
        for side, answer in (("chosen", chosen), ("rejected", rejected)):
            if row[f"{side}_safe"] is not None:
                (self.safe if row[f"{side}_safe"] else self.unsafe).append(answer)
        self.there.update(name for name, value in row.items() if value is not None)
        if row["category"] is not None:
            self.categories[row["category"]] += 1
        self.harmful[str(row["harmful"]).lower()] += 1

    def summary(self) -> dict:
        pairs, turned = np.array(self.pairs, dtype=np.uint64), np.array(self.turned, dtype=np.uint64)
        both_ways = np.isin(np.unique(pairs), turned).sum() // 2
        safe, unsafe = (np.unique(np.array(one, dtype=np.uint64)) for one in (self.safe, self.unsafe))
        longer = np.sign(np.array(self.words["chosen"]) - np.array(self.words["rejected"]))
        return {
            "pairs": len(pairs),
            "prompts": len(np.unique(np.array(self.prompts, dtype=np.uint64))),
            "columns": {field.name: self.there[field.name] for field in PAIR_COLUMNS},
            "lengths": {
                unit: {side: distribution(counts[side]) for side in SIDES}
                for unit, counts in (("words", self.words), ("characters", self.characters))
            },
            "histogram": {side: _histogram(self.words[side]) for side in SIDES},
            "turns": distribution(self.turns),
            "chosen_is_longer": None if not len(pairs) else float((longer > 0).mean() + (longer == 0).mean() / 2),
            "repeated_pairs": len(pairs) - len(np.unique(pairs)),
            "pairs_both_ways": int(both_ways),
            "answers_safe_and_unsafe": len(np.intersect1d(safe, unsafe, assume_unique=True)),
            "categories": dict(self.categories.most_common(MOST_CATEGORIES)),
            "harmful": dict(sorted(self.harmful.items())),
        }


def _both(first: int, second: int) -> int:
    return (first * 3 + second) % 2**64


def distribution(values: Sequence[int]) -> dict | None:
    """Smallest, median, nine tenths, largest, mean."""
    if not len(values):
        return None
    low, median, most, high = np.percentile(values, [0, 50, 90, 100])
    named = {"min": int(low), "median": float(median), "p90": float(most), "max": int(high)}
    return {**named, "mean": float(np.mean(values))}


def _histogram(words: Sequence[int]) -> list[int]:
    """How many texts have from 1, 2, 4, 8, ... words, each up to the next."""
    powers = np.floor(np.log2(np.maximum(np.array(words, dtype=np.int64), 1))).astype(int)
    return np.bincount(powers).tolist() if len(powers) else []


def examples(rows: Iterable[dict], count: int, seed: int) -> list[dict]:
    """Some rows, the same ones whatever else is there."""
    return nsmallest(count, rows, key=lambda row: text_hash(row["id"], seed))


def schema() -> dict[str, str]:
    """Our columns and their types, in words."""
    messages = PAIR_COLUMNS.field("prompt").type
    return {field.name: "messages" if field.type == messages else _kind(field.type) for field in PAIR_COLUMNS}


def _kind(kind: pa.DataType) -> str:
    return {"string": "text", "bool": "true or false", "int8": "0 to 3", "double": "number"}[str(kind)]
