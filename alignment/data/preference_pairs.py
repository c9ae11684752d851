"""Preference pairs of any origin, read once: brought to the same columns, split by prompt, without evaluation prompts.

They go into a folder with train.arrow, heldout.arrow, quarantine.jsonl and, with the counts, data.json. Rows are read
and written one after the other, so that a set may be larger than memory. Every line read is used or quarantined.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO, get_args

import numpy as np

from alignment.data.cells import BadRow, shown
from alignment.data.columns import PAIR_COLUMNS, intact, pair
from alignment.data.files import Line, files_at, read_file
from alignment.data.places import files_of, hub_file
from alignment.data.preference_sets import RANKED, SETS, Lines, RawPair, file, release_of
from alignment.data.row_table import RowTable, RowWriter
from alignment.data.same_prompts import KeptOut, kept_out_dialogues, split_position, text_hash, turn_hashes
from alignment.runs.manifest import hash_file
from alignment.runs.run_files import QUARANTINE
from alignment.types import Preference, UserError

PARTS = ("train", "heldout")
COLUMNS = ("margin", *(name for name in PAIR_COLUMNS.names if name not in ("source", "given_margin")))


@dataclass(frozen=True)
class Source:
    """A data set, or a file of the user's, as the settings describe it."""

    name: str  # a name in preference_sets.SETS, or "file"
    path: str | None = None  # of a file, or with "*" of several; None: where the set has its files
    columns: Mapping[str, str] = field(default_factory=dict)
    split: str | None = None
    preference: Preference | None = None  # for the sets in RANKED; None: safety
    weight: float = 1.0
    key: str = "data.path"  # the setting that names the path

    def raw_pairs(self, lines: Iterator[Line]) -> Iterator[RawPair]:
        """The pairs that are made of a file's lines."""
        if self.name == "file":
            return file(lines, self.columns)
        if self.name in RANKED:
            return SETS[self.name](lines, self.preference or "safety")
        return SETS[self.name](lines)

    def files(self, folder: str) -> list[Path]:
        if self.path is None:
            yours = ", or give pairs of yours: data=file data.path=pairs.jsonl"
            return files_of(self.name, folder, self.split, instead=yours)
        return [hub_file(self.key, self.path)] if self.path.startswith("hf://") else files_at(self.key, self.path)


@dataclass(frozen=True)
class Wanted:
    """What is to be made of the sources."""

    heldout: float | Source  # the share of prompts that is kept from training; or the pairs that are, and no others
    seed: int
    rows: int | None = None  # the largest number of training pairs


def prepare(
    sources: Sequence[Source],
    folder: str,
    wanted: Wanted,
    kept_out: Mapping[str, KeptOut],
    out: Path,
    watch: Callable[[Iterable, str], Iterable] = lambda lines, what: lines,
) -> dict:
    """Reads everything into `out`, and returns the counts, as in data.json.

    kept_out: evaluation prompts, by set. watch: passes a file's lines on, and shows how far it is; its
    second argument says what they are.
    """
    out.mkdir(parents=True, exist_ok=True)
    with open(out / QUARANTINE, "w", encoding="utf-8") as quarantine:

        def read(number: int, source: Source) -> _Reading:
            return _Reading(source, number, folder, wanted, kept_out, quarantine, out).read(watch)

        own = []
        if isinstance(wanted.heldout, Source):
            own = [read(len(sources), wanted.heldout)]
            kept_out = {
                **kept_out,
                wanted.heldout.key: kept_out_dialogues(row["prompt"] for row in RowTable.open(own[0].paths["heldout"])),
            }
        readings = [read(number, source) for number, source in enumerate(sources)]
        counts = _put_together({"train": readings, "heldout": own or readings}, wanted, out)
        for path in out.glob(".*.arrow"):
            path.unlink()
    kept = {name: of_set.prompts for name, of_set in kept_out.items()}
    all_counts = {"sources": [reading.counts() for reading in [*readings, *own]], "kept_out": kept, **counts}
    (out / "data.json").write_text(json.dumps(all_counts, indent=2, sort_keys=True) + "\n")
    return all_counts


class _Reading:
    """Reads one source into files of its own, one for each part."""

    def __init__(
        self, source: Source, number: int, folder: str, wanted: Wanted, kept_out: Mapping[str, KeptOut],
        quarantine: TextIO, out: Path,
    ) -> None:  # fmt: skip
        self.source, self.files, self.wanted, self.quarantine = source, source.files(folder), wanted, quarantine
        self.share = wanted.heldout  # of the prompts in this source that is kept from training
        if isinstance(self.share, Source):
            self.share = 1.0 if source is wanted.heldout else 0.0
        self.asked_in: dict[int, list[str]] = {}
        for name, of_set in kept_out.items():
            for prompt_hash in of_set.hashes:
                self.asked_in.setdefault(prompt_hash, []).append(name)
        self.paths = {part: out / f".{number}-{part}.arrow" for part in PARTS}
        self.read_lines = self.used_lines = self.quarantined = 0
        self.leaked: Counter = Counter()
        self.releases: Counter = Counter()  # of the lines read, where a set has several
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

        def counted() -> Iterator[Line]:
            for number, row in watch(read_file(self.source.key, str(path)), f"reading {path.name}"):
                self.read_lines += 1
                if self.source.name in RANKED and isinstance(row, dict):
                    self.releases[release_of(row)] += 1
                yield number, row

        source, prefix = (str(path), "line") if self.source.name == "file" else (self.source.name, self.source.name)
        for lines, raw in self.source.raw_pairs(counted()):
            name = "-".join([prefix, *(f"{offset + number:09d}" for number in lines)])
            try:
                row = pair(intact(raw), name, source)
                self._check(row)
            except BadRow as error:
                self._quarantine(path, bad.new(lines), str(error))
                continue
            part = "heldout" if split_position(row["prompt"], self.wanted.seed) < self.share else "train"
            writers[part].write(row)
            self.used_lines += len(used.new(lines))

    def _check(self, row: dict) -> None:
        id_hash = text_hash(row["id"])
        if id_hash in self.ids:
            raise BadRow(f"id {shown(row['id'])} was there before")
        self.ids.add(id_hash)
        if self.asked_in:
            sets = sorted({name for turn in turn_hashes(row["prompt"]) for name in self.asked_in.get(turn, ())})
            if sets:
                self.leaked.update(sets)
                raise BadRow(f"its prompt is asked in {', '.join(sets)}, kept for evaluation")

    def _quarantine(self, path: Path, lines: Lines, reason: str) -> None:
        for line in lines:
            row = {"source": str(path), "line": line, "reason": reason}
            self.quarantine.write(json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n")
        self.quarantined += len(lines)

    def counts(self) -> dict:
        return {
            "name": self.source.name,
            "files": [path.name for path in self.files],
            "hashes": [hash_file(path) for path in self.files],
            "releases": dict(self.releases),
            "read": self.read_lines,
            "used": self.used_lines,
            "quarantined": self.quarantined,
            "leaked": dict(self.leaked),
            "pairs": self.pairs,
            "drawn": self.drawn,
        }


class _Lines:
    """The lines of a file that pairs were made of; a line may stand in several pairs."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def new(self, lines: Lines) -> Lines:
        """The lines of a pair that stand in no earlier pair."""
        if len(lines) == 1:  # a single line stands in one pair only
            return lines
        new = tuple(line for line in lines if line not in self._seen)
        self._seen.update(new)
        return new


# ---- from sources to one data set -----------------------------------------------------------------------------------


def _put_together(by_part: Mapping[str, list[_Reading]], wanted: Wanted, out: Path) -> dict:
    """Draws pairs from the sources in the shares that their weights say, as many as the sources have; none twice."""
    seen: set[int] = set()
    counts: dict[str, Any] = {"not_drawn": {}, "repeated_across_sources": {}}
    for part, readings in by_part.items():
        total = sum(reading.source.weight for reading in readings)
        labels = _labels([reading.source for reading in readings])
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
        for reading, count in zip(readings, drawn, strict=True):
            reading.drawn[part] = count
        counts["not_drawn"][part] = sum(sizes) - sum(drawn)
        counts["repeated_across_sources"][part] = repeated
        counts[part] = sum(drawn) - repeated
    return counts


def _labels(sources: Sequence[Source]) -> list[str | None]:
    """What is put before the ids of each source, so that those of several sources differ."""
    if len(sources) == 1:
        return [None]
    names = [source.name if source.path is None else Path(source.path).stem for source in sources]
    return [name if names.count(name) == 1 else f"{name}-{i}" for i, name in enumerate(names)]


def _draw(reading: _Reading, part: str, count: int, label: str | None, seen: set[int], writer: RowWriter) -> int:
    """Writes the `count` pairs whose ids have the lowest hashes, in their old order.

    Pairs that an earlier source had already are left out; returns how many.
    """
    rows = RowTable.open(reading.paths[part])
    drawn = np.ones(len(rows), dtype=bool)
    if count < len(rows):
        hashes = np.array([text_hash(name, reading.wanted.seed) for name in rows.column("id")], dtype=np.uint64)
        drawn[np.argsort(hashes, kind="stable")[count:]] = False
    own: set[int] = set()
    repeated = 0
    for row, is_drawn in zip(rows, drawn, strict=True):
        if not is_drawn:
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
    """Raises UserError for a source that can't be read as it is described, before anything is read."""
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
