"""What is in a set of preference pairs: counts, lengths, repetitions and contradictions.

The rows are read once, and of a text only its hash is kept: a million pairs take a hundred megabytes.
"""

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from heapq import nsmallest

import numpy as np
import pyarrow as pa

from alignment.data.columns import MESSAGES, PAIR_COLUMNS
from alignment.data.same_prompts import prompt_text, text_hash

SIDES = ("prompt", "chosen", "rejected")
MOST_CATEGORIES = 20


def inspect(rows: Iterable[dict]) -> dict:
    """The summary of pairs that have the columns of PAIR_COLUMNS."""
    inspection = _Inspection()
    for row in rows:
        inspection.add(row)
    return inspection.summary()


class _Inspection:
    """Counts and hashes of the pairs so far. swapped: each pair's hash if chosen and rejected changed places."""

    def __init__(self) -> None:
        self.words = {side: array("l") for side in SIDES}
        self.characters = {side: array("l") for side in SIDES}
        self.turns = array("l")
        self.prompts, self.pairs, self.swapped = array("Q"), array("Q"), array("Q")
        self.safe, self.unsafe = array("Q"), array("Q")
        self.filled: Counter = Counter()  # rows in which a column isn't null
        self.categories: Counter = Counter()
        self.harmful: Counter = Counter()

    def add(self, row: dict) -> None:
        texts = {side: " ".join(message["content"] for message in row[side]) for side in SIDES}
        for side, text in texts.items():
            self.characters[side].append(len(text))
            self.words[side].append(len(text.split()))
        self.turns.append(len(row["prompt"]))
        prompt = text_hash(prompt_text(row["prompt"]))
        chosen, rejected = (text_hash(texts[side], prompt % 2**62) for side in ("chosen", "rejected"))
        self.prompts.append(prompt)
        self.pairs.append(_pair_hash(chosen, rejected))
        self.swapped.append(_pair_hash(rejected, chosen))
        for side, answer in (("chosen", chosen), ("rejected", rejected)):
            if row[f"{side}_safe"] is not None:
                (self.safe if row[f"{side}_safe"] else self.unsafe).append(answer)
        self.filled.update(name for name, value in row.items() if value is not None)
        if row["category"] is not None:
            self.categories[row["category"]] += 1
        self.harmful[str(row["harmful"]).lower()] += 1

    def summary(self) -> dict:
        pairs, swapped = np.array(self.pairs, dtype=np.uint64), np.array(self.swapped, dtype=np.uint64)
        both_ways = np.isin(np.unique(pairs), swapped).sum() // 2
        safe, unsafe = (np.unique(np.array(answers, dtype=np.uint64)) for answers in (self.safe, self.unsafe))
        longer = np.sign(np.array(self.words["chosen"]) - np.array(self.words["rejected"]))
        return {
            "pairs": len(pairs),
            "prompts": len(np.unique(np.array(self.prompts, dtype=np.uint64))),
            "columns": {field.name: self.filled[field.name] for field in PAIR_COLUMNS},
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


def _pair_hash(first: int, second: int) -> int:
    return (first * 3 + second) % 2**64


def distribution(values: Sequence[int]) -> dict | None:
    """Smallest value, median, 90th percentile, largest value and mean; None if there are no values."""
    if not len(values):
        return None
    low, median, p90, high = np.percentile(values, [0, 50, 90, 100])
    quantiles = {"min": int(low), "median": float(median), "p90": float(p90), "max": int(high)}
    return {**quantiles, "mean": float(np.mean(values))}


def _histogram(words: Sequence[int]) -> list[int]:
    """The number of texts of 1 word, of 2 to 3, of 4 to 7, of 8 to 15, ..."""
    powers = np.floor(np.log2(np.maximum(np.array(words, dtype=np.int64), 1))).astype(int)
    return np.bincount(powers).tolist() if len(powers) else []


def examples(rows: Iterable[dict], count: int, seed: int) -> list[dict]:
    """`count` rows, drawn by the hashes of their ids: whether one is drawn doesn't depend on the order of the rows."""
    return nsmallest(count, rows, key=lambda row: text_hash(row["id"], seed))


def schema() -> dict[str, str]:
    """The columns of preference pairs and their types, in words."""
    words = {
        MESSAGES: "messages", pa.string(): "text", pa.bool_(): "true or false", pa.int8(): "0 to 3",
        pa.float64(): "number",
    }  # fmt: skip
    return {field.name: words[field.type] for field in PAIR_COLUMNS}
