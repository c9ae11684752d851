"""The pairs of a run as the page explores them: every number that a stage says of a pair, in one row."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from alignment.data.row_table import RowTable
from alignment.runs.run_files import RunDir

Text = list  # [prompt, chosen, rejected]; a prompt of several messages is a list of [role, text]
# name: what it is, as the page's list of fields has it
NUMBERS = {
    "gamma": "confidence that the label is right, 0 to 1, by a reward that never saw the pair",
    "gap": "reward of the chosen answer less that of the rejected one, by the same reward",
    "margin": "how much safer the chosen answer is, binned, as reward models learn it",
    "margin_raw": "the same before binning",
    "score_gap": "score of the chosen sample less that of the rejected one, of pairs built from samples",
    "against": "how many of these would have chosen the other answer",
    "harmful": "1: the prompt asks for something harmful, 0: it doesn't",
    "chosen_severity": "how severe the harm of the chosen answer is, by the data",
    "rejected_severity": "the same of the rejected answer",
    "severity_gap": "severity of the rejected answer less that of the chosen one",
    "chosen_helpfulness": "how helpful the chosen answer is, by the data",
    "rejected_helpfulness": "the same of the rejected answer",
    "given_margin": "a margin that came with the data",
    "confidence": "a confidence that came with the data",
    "chosen_words": "words of the chosen answer",
    "rejected_words": "words of the rejected answer",
    "words_gap": "words of the chosen answer less those of the rejected one",
}
WORDS = {
    "set": "training, held out, or built (of the policy's own samples)",
    "category": "what the pair is about, by the data",
    "source": "where it is from",
}
SCORERS = ("gap", "margin_raw", "score_gap")  # below 0: the other answer would have been chosen
OF_DATA = ("harmful", "chosen_severity", "rejected_severity", "chosen_helpfulness", "rejected_helpfulness",
           "given_margin", "confidence")  # fmt: skip
SIDES = ("chosen", "rejected")


@dataclass(frozen=True)
class ExploredPairs:
    """numbers, words: a value for each pair. files: of each set the file that has its rows. places: table and row."""

    ids: list[str]
    numbers: dict[str, np.ndarray]
    words: dict[str, list[str | None]]
    files: dict[str, str]
    tables: list[pa.Table]
    places: np.ndarray

    def texts(self, rows: Sequence[int]) -> list[Text]:
        """Prompt and answers of these rows, in this order."""
        found: list[Text] = [[] for _ in rows]
        places = self.places[np.asarray(rows, dtype=int)]
        for number, table in enumerate(self.tables):
            wanted = np.flatnonzero(places[:, 0] == number)
            chosen = table.select(["prompt", *SIDES]).take(pa.array(places[wanted, 1]))
            for at, row in zip(wanted.tolist(), chosen.to_pylist(), strict=True):
                found[at] = [_prompt(row["prompt"]), *(row[side][-1]["content"] for side in SIDES)]
        return found

    def doubtful_first(self) -> np.ndarray:
        """The rows in the order in which they are worth a look: least believed, and most scorers against the label."""
        gamma = self.numbers.get("gamma", np.full(len(self.ids), np.nan))
        doubt = np.where(np.isnan(gamma), 0.5, gamma) - 0.1 * np.nan_to_num(self.numbers.get("against", 0.0))
        return np.argsort(doubt, kind="stable")


def explored_pairs(run: RunDir, usable: Callable[[str], bool]) -> ExploredPairs | None:
    """All pairs that the run keeps a row of; None if it keeps none. usable: may this stage be read?"""
    sets = {
        "training": [
            path for stage, path in (("annotate", run.pairs), ("fit_reward", run.fitted_pairs)) if usable(stage)
        ],
        "held out": [run.heldout_pairs] if usable("annotate") else [],
        "built": [run.built_pairs] if usable("build_pairs") else [],
    }  # fmt: skip
    if usable("inspect") and not sets["training"] and run.data.exists():
        sets["training"], sets["held out"] = [run.data / "train.arrow"], [run.data / "heldout.arrow"]
    parts = [_part(name, paths) for name, paths in sets.items() if paths]
    parts = [part for part in parts if part.ids]
    if not parts:
        return None
    tables: list[pa.Table] = []
    places = []
    for part in parts:
        places.append(part.places + np.array([len(tables), 0]))
        tables += part.tables
    numbers = {name: np.concatenate([part.numbers[name] for part in parts]) for name in NUMBERS}
    return ExploredPairs(
        [name for part in parts for name in part.ids],
        {name: values for name, values in numbers.items() if not np.isnan(values).all()},
        {name: [word for part in parts for word in part.words[name]] for name in WORDS},
        {name: str(paths[0].relative_to(run.root)) for name, paths in sets.items() if paths},
        tables,
        np.concatenate(places),
    )


def _part(name: str, paths: list[Path]) -> ExploredPairs:
    """One set: the rows of all its files, joined by source and id; what stands twice is told apart by a number."""
    tables = [RowTable.open(path).table if path.suffix == ".arrow" else pq.read_table(path) for path in paths]
    keys = [_keys(table) for table in tables]
    rows = {key: row for row, key in enumerate(dict.fromkeys(key for of_table in keys for key in of_table))}
    numbers = {column: np.full(len(rows), np.nan) for column in NUMBERS}
    words: dict[str, list[str | None]] = {column: [None] * len(rows) for column in WORDS}
    places = np.zeros((len(rows), 2), dtype=int)
    for number in reversed(range(len(tables))):  # where two have a column, the first one's stays
        table, at = tables[number], np.array([rows[key] for key in keys[number]], dtype=int)
        places[at] = np.column_stack([np.full(len(at), number), np.arange(len(at))])
        for column, values in _numbers(table).items():
            numbers[column][at] = values
        for column in ("category", "source"):
            for row, word in zip(at.tolist(), table[column].to_pylist(), strict=True):
                words[column][row] = word
    words["set"] = [name] * len(rows)
    if not all(np.isnan(numbers[scorer]).all() for scorer in SCORERS):
        numbers["against"] = sum((np.nan_to_num(numbers[scorer]) < 0).astype(float) for scorer in SCORERS)
    ids = [f"{key[1]}#{key[2] + 1}" if key[2] else key[1] for key in rows]
    return ExploredPairs(ids, numbers, words, {}, tables, places)


def _keys(table: pa.Table) -> list[tuple]:
    """Of each row its source, its id, and how many rows before it have both."""
    seen: dict[tuple, int] = {}
    keys = []
    for source, name in zip(table["source"].to_pylist(), table["id"].to_pylist(), strict=True):
        count = seen[source, name] = seen.get((source, name), -1) + 1
        keys.append((source, name, count))
    return keys


def _numbers(table: pa.Table) -> dict[str, np.ndarray]:
    """What a file says of its rows in numbers."""
    of_file = [name for name in (*OF_DATA, *NUMBERS) if name in table.column_names]
    numbers = {name: table[name].cast(pa.float64()).to_numpy(zero_copy_only=False) for name in of_file}
    for side in SIDES:
        last = pc.struct_field(pc.list_element(table[side], 0), "content")
        numbers[f"{side}_words"] = pc.count_substring_regex(last, r"\S+").to_numpy().astype(float)
    numbers["words_gap"] = numbers["chosen_words"] - numbers["rejected_words"]
    numbers["severity_gap"] = numbers["rejected_severity"] - numbers["chosen_severity"]
    if "chosen_score" in table.column_names:
        scores = [table[f"{side}_score"].cast(pa.float64()).to_numpy(zero_copy_only=False) for side in SIDES]
        numbers["score_gap"] = scores[0] - scores[1]
    return numbers


def _prompt(messages: list[dict]) -> str | list[list[str]]:
    if len(messages) == 1 and messages[0]["role"] == "user":
        return messages[0]["content"]
    return [[message["role"], message["content"]] for message in messages]
