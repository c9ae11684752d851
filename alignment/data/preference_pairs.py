"""Preference pairs of any origin, read once: brought to the same columns, split by prompt, without evaluation prompts.

A folder is made that holds train.arrow, heldout.arrow, quarantine.jsonl and data.json with the counts. Rows go from the
source's files to these one after the other, so that a set may be larger than memory. Every line read is used or
quarantined.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TextIO, get_args

import numpy as np

from alignment.data.columns import PAIR_COLUMNS, BadRow, intact, pair, readable, shown
from alignment.data.files import files_at, read_file
from alignment.data.places import files_of, hub_file
from alignment.data.preference_sets import RANKED, SETS, Lines, Made, file
from alignment.data.row_table import RowTable, RowWriter
from alignment.data.same_prompts import all_asked, asked, share, text_hash
from alignment.runs.run_files import QUARANTINE
from alignment.types import Preference, UserError

PARTS = ("train", "heldout")
COLUMNS = ("margin", *(name for name in PAIR_COLUMNS.names if name not in ("source", "given_margin")))


@dataclass(frozen=True)
class Source:
    """A data set, or a file of one's own: what the settings say of it."""

    name: str  # of preference_sets.SETS, or "file"
    path: str | None = None  # of a file; "*" stands for several. None: a set's own
    columns: Mapping[str, str] = field(default_factory=dict)
    split: str | None = None
    preference: Preference | None = None  # of sets that are ranked by more than one; None: safety
    weight: float = 1.0

    @property
    def made(self) -> Callable[..., Iterator[Made]]:
        if self.name == "file":
            return partial(file, columns=self.columns)
        function = SETS[self.name]
        return partial(function, preference=self.preference or "safety") if self.name in RANKED else function

    def files(self, folder: str) -> list[Path]:
        if self.path is None:
            return files_of(self.name, folder, self.split)
        return [hub_file("data.path", self.path)] if self.path.startswith("hf://") else files_at("data.path", self.path)


@dataclass(frozen=True)
class Wanted:
    """What becomes of the sources: the settings that shape the result."""

    heldout: float
    seed: int
    rows: int | None = None  # at most so many training pairs


def prepare(
    sources: Sequence[Source],
    folder: str,
    wanted: Wanted,
    kept_out: Mapping[str, set[int]],
    out: Path,
    watch: Callable[[Iterable, str], Iterable] = lambda lines, what: lines,
) -> dict:
    """Reads everything into `out`; the counts, as in data.json. `kept_out`: what evaluation sets ask, by set.

    watch: is given the lines of a file and what they are, and passes them on; for a progress bar.
    """
    out.mkdir(parents=True, exist_ok=True)
    with open(out / QUARANTINE, "w", encoding="utf-8") as quarantine:
        readings = [
            _Reading(source, number, folder, wanted, kept_out, quarantine, out).read(watch)
            for number, source in enumerate(sources)
        ]
        counts = _put_together(readings, wanted, out)
    kept = {name: len(keys) for name, keys in kept_out.items()}
    described = {"sources": [reading.counts() for reading in readings], "kept_out": kept, **counts}
    (out / "data.json").write_text(json.dumps(described, indent=2, sort_keys=True) + "\n")
    return described


class _Reading:
    """One source on its way into files of its own."""

    def __init__(
        self, source: Source, number: int, folder: str, wanted: Wanted, kept_out: Mapping[str, set[int]],
        quarantine: TextIO, out: Path,
    ) -> None:  # fmt: skip
        self.source, self.files, self.wanted, self.quarantine = source, source.files(folder), wanted, quarantine
        self.asked_in: dict[int, list[str]] = {}
        for name, keys in kept_out.items():
            for key in keys:
                self.asked_in.setdefault(key, []).append(name)
        self.paths = {part: out / f".{number}-{part}.arrow" for part in PARTS}
        self.read_lines = self.used_lines = self.quarantined = 0
        self.leaked: Counter = Counter()
        self.ids: set[int] = set()
        self.pairs = dict.fromkeys(PARTS, 0)
        self.drawn = dict.fromkeys(PARTS, 0)

    def read(self, watch: Callable[[Iterable, str], Iterable]) -> "_Reading":
        with ExitStack() as stack:
            writers = {part: stack.enter_context(RowWriter(path, PAIR_COLUMNS)) for part, path in self.paths.items()}
            for path in self.files:
                self._read_file(path, writers, watch)
        self.pairs = {part: writer.count for part, writer in writers.items()}
        if self.read_lines != self.used_lines + self.quarantined:
            raise RuntimeError(f"{self.source.name}: {self.read_lines} lines read, others accounted for")
        return self

    def _read_file(self, path: Path, writers: dict[str, RowWriter], watch: Callable[[Iterable, str], Iterable]) -> None:
        offset, used, bad = self.read_lines, _Lines(), _Lines()

        def counted() -> Iterator:
            for number, row in watch(read_file("data.path", str(path)), f"reading {path.name}"):
                self.read_lines += 1
                yield number, row

        def checked(made: Made) -> dict:
            row = pair(intact(made[1]), self._name(made[0], offset), self._label(path))
            self._check(row)
            return row

        def set_aside(made: Made, why: str) -> None:
            self._quarantine(path, bad.new(made[0]), why)

        for (lines, _), row in readable(self.source.made(counted()), checked, set_aside):
            part = "heldout" if share(row["prompt"], self.wanted.seed) < self.wanted.heldout else "train"
            writers[part].write(row)
            self.used_lines += len(used.new(lines))

    def _name(self, lines: Lines, offset: int) -> str:
        numbers = "-".join(f"{offset + number:09d}" for number in lines)
        return f"line-{numbers}" if self.source.name == "file" else f"{self.source.name}-{numbers}"

    def _label(self, path: Path) -> str:
        return str(path) if self.source.name == "file" else self.source.name

    def _check(self, row: dict) -> None:
        key = text_hash(row["id"])
        if key in self.ids:
            raise BadRow(f"id {shown(row['id'])} was there before")
        self.ids.add(key)
        if self.asked_in:
            found = sorted({name for turn in asked(row["prompt"]) for name in self.asked_in.get(turn, ())})
            if found:
                self.leaked.update(found)
                raise BadRow(f"its prompt is asked in {', '.join(found)}, kept for evaluation")

    def _quarantine(self, path: Path, lines: Lines, reason: str) -> None:
        for line in lines:
            row = {"source": str(path), "line": line, "reason": reason}
            self.quarantine.write(json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n")
        self.quarantined += len(lines)

    def counts(self) -> dict:
        return {
            "name": self.source.name,
            "files": [path.name for path in self.files],
            "read": self.read_lines,
            "used": self.used_lines,
            "quarantined": self.quarantined,
            "leaked": dict(self.leaked),
            "pairs": self.pairs,
            "drawn": self.drawn,
        }


class _Lines:
    """Lines of a file that pairs were made of; one line may stand in several pairs."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def new(self, lines: Lines) -> Lines:
        """Those that no pair had yet."""
        if len(lines) == 1:  # then it stands in this one only
            return lines
        found = tuple(line for line in lines if line not in self._seen)
        self._seen.update(found)
        return found


# ---- from sources to one data set -----------------------------------------------------------------------------------


def _put_together(readings: list[_Reading], wanted: Wanted, out: Path) -> dict:
    """Of several sources as many pairs as their weights say, none twice: the most for which all have enough."""
    total = sum(reading.source.weight for reading in readings)
    labels = _labels([reading.source for reading in readings])
    seen: set[int] = set()
    counts: dict[str, Any] = {"not_drawn": {}, "repeated_across_sources": {}}
    for part in PARTS:
        most = wanted.rows if part == "train" else None
        sizes = [reading.pairs[part] for reading in readings]
        if len(readings) == 1 and (most is None or sizes[0] <= most):
            readings[0].paths[part].rename(out / f"{part}.arrow")
            drawn, repeated = sizes, 0
        else:
            weights = [reading.source.weight / total for reading in readings]
            whole = min(size / weight for size, weight in zip(sizes, weights, strict=True))
            whole = whole if most is None else min(whole, most)
            drawn, repeated = [round(whole * weight) for weight in weights], 0
            with RowWriter(out / f"{part}.arrow", PAIR_COLUMNS) as writer:
                for reading, label, count in zip(readings, labels, drawn, strict=True):
                    repeated += _draw(reading, part, count, label, seen, writer)
                    reading.paths[part].unlink()
        for reading, count in zip(readings, drawn, strict=True):
            reading.drawn[part] = count
        counts["not_drawn"][part] = sum(sizes) - sum(drawn)
        counts["repeated_across_sources"][part] = repeated
        counts[part] = sum(drawn) - repeated
    return counts


def _labels(sources: Sequence[Source]) -> list[str | None]:
    """What makes ids of several sources different ones."""
    if len(sources) == 1:
        return [None]
    names = [source.name if source.path is None else Path(source.path).stem for source in sources]
    return [name if names.count(name) == 1 else f"{name}-{i}" for i, name in enumerate(names)]


def _draw(reading: _Reading, part: str, count: int, label: str | None, seen: set[int], writer: RowWriter) -> int:
    """The pairs whose ids have the lowest hashes: the same ones whatever else is there, in their old order.

    How many another source had already, which are left out.
    """
    rows = RowTable.open(reading.paths[part])
    taken = np.ones(len(rows), dtype=bool)
    if count < len(rows):
        hashes = np.array([text_hash(one, reading.wanted.seed) for one in rows.column("id")], dtype=np.uint64)
        taken[np.argsort(hashes, kind="stable")[count:]] = False
    own: set[int] = set()
    repeated = 0
    for row, wanted in zip(rows, taken, strict=True):
        if not wanted:
            continue
        if label is not None:
            content = text_hash(json.dumps([row["prompt"], row["chosen"], row["rejected"]]))
            if content in seen:
                repeated += 1
                continue
            own.add(content)
            row["id"] = f"{label}/{row['id']}"
        writer.write(row)
    seen |= own
    return repeated


def check_sources(sources: Sequence[Source]) -> None:
    """Before anything is read."""
    for source in sources:
        for name in source.columns:
            if name not in COLUMNS:
                raise UserError("data.columns", f"{name!r} is no column of ours", f"choose from {', '.join(COLUMNS)}")
        if source.name != "file" and source.name not in SETS:
            raise UserError("data.parts", f"there is no set {source.name!r}", f"choose file or {', '.join(SETS)}")
        if source.preference is not None and source.name not in RANKED:
            raise UserError(
                "data.parts",
                f"preference would have no effect on {source.name}: it is ranked by one alone",
                "leave it out",
            )
        known = get_args(Preference)
        if source.preference not in (None, *known):
            raise UserError(
                "data.preference", f"{source.preference!r} is not a choice", f"choose one of {', '.join(known)}"
            )
        if source.path is not None and source.split is not None:
            raise UserError(
                "data.split", "it would have no effect: data.path says which files", "leave one of them out"
            )
        if source.name == "file" and not source.path:
            raise UserError("data.parts", "a part with set=file has no path", "say which file")
        if not 0 < source.weight < float("inf"):
            raise UserError("data.parts", f"weight {source.weight} of {source.name}", "give a positive number")


def kept_out_of(prompts: Mapping[str, Sequence[Sequence[dict]]]) -> dict[str, set[int]]:
    """Evaluation prompts by their sets, as prepare wants them."""
    return {name: all_asked(many) for name, many in prompts.items()}
