"""Corrections of preference pairs, as a reader of the report page exports them: labels turned round, pairs left out.

A line of the file names a pair by its id, and its source where two have the same, and an action: flip, drop or
reweight. A weight is how often a training pair is learned from: 2 is twice, 0.5 is drawn by the id, once or not.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import pyarrow as pa

from alignment.data.columns import Loaded
from alignment.data.row_table import RowTable
from alignment.types import UserError

KEY = "data.corrections"
ACTIONS = {"flip": "flipped", "drop": "dropped", "reweight": "reweighted"}
SIDES = ("", "_severity", "_safe", "_helpfulness")  # columns that both answers have
REMEDY = "export the flags of the page again, or mend the line"


@dataclass(frozen=True)
class Correction:
    """line: where it stands in the file. source: None where the id alone says which pair it is."""

    line: int
    id: str
    source: str | None
    action: str
    weight: float = 1.0


def read_corrections(path: str) -> list[Correction]:
    """The corrections of a file; lines with a note alone are none. UserError on the first line that is wrong."""
    file = Path(path)
    if not file.is_file():
        remedy = "check the path; relative ones start where the command was given"
        raise UserError(KEY, f"there is no file {path}", remedy)
    found: dict[tuple, Correction] = {}
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            correction = _read(number, json.loads(line))
        except (ValueError, TypeError) as error:
            why = "it is no json" if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)) else str(error)
            raise UserError(KEY, f"{path}, line {number}: {why}", REMEDY) from error
        if correction is None:
            continue
        key = correction.source, correction.id
        if key in found:
            problem = f"{path}, line {number}: {correction.id!r} is corrected in line {found[key].line} already"
            raise UserError(KEY, problem, "keep one of them")
        found[key] = correction
    return list(found.values())


def _read(number: int, row: Any) -> Correction | None:
    """A line's correction; ValueError says what is wrong with it."""
    if not isinstance(row, dict):
        raise ValueError("it is no object with id and action")
    name, source, action = row.get("id"), row.get("source"), row.get("action")
    if not isinstance(name, str) or not isinstance(source, str | None):
        raise ValueError("id must be text, and source, too, where there is one")
    if action is None:
        return None
    if action not in ACTIONS:
        raise ValueError(f"action is {action!r}, and not one of {', '.join(ACTIONS)}")
    if row.get("set") == "built":
        raise ValueError(f"{name!r} was built of the policy's samples, and isn't among the given pairs")
    if action != "reweight":
        return Correction(number, name, source, action)
    weight = row.get("weight")
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not isfinite(weight) or weight < 0:
        raise ValueError(f"weight is {weight!r}, and not a number of 0 or more")
    return Correction(number, name, source, action, float(weight))


def in_words(corrections: Iterable[Correction]) -> str:
    """How many there are of each kind."""
    counts = Counter(correction.action for correction in corrections)
    return ", ".join(f"{counts[action]} {word}" for action, word in ACTIONS.items())


def digest(corrections: Iterable[Correction]) -> str:
    """A hash of what they do: notes and the order of lines change no result."""
    told = sorted((made.id, made.source or "", made.action, made.weight) for made in corrections)
    return hashlib.sha256(repr(told).encode()).hexdigest()[:16]


def corrected(train: Loaded, heldout: Loaded, corrections: Sequence[Correction]) -> tuple[Loaded, Loaded]:
    """Both parts with their corrections. UserError names the first that is of no pair, or has no effect."""
    if not corrections:
        return train, heldout
    parts = train, heldout
    places = [_places(part.rows) for part in parts]
    changes: tuple[dict[int, Correction], ...] = {}, {}
    for correction in corrections:
        part, row = _row_of(correction, places)
        if correction.action == "reweight" and parts[part] is heldout:
            problem = f"line {correction.line}: {correction.id!r} is held out, where every pair counts once"
            raise UserError(KEY, problem, "flip it, drop it, or leave it")
        changes[part][row] = correction
    return tuple(Loaded(_applied(part.rows, made), part.quarantined) for part, made in zip(parts, changes, strict=True))


def _places(rows: Any) -> dict[tuple[str, int], dict[str, int]]:
    """By id, and by how many of the same source have it before, the row's number for each source."""
    names = rows.column("id") if isinstance(rows, RowTable) else [row["id"] for row in rows]
    sources = rows.column("source") if isinstance(rows, RowTable) else [row["source"] for row in rows]
    seen: Counter = Counter()
    places: dict[tuple[str, int], dict[str, int]] = {}
    for number, key in enumerate(zip(names, sources, strict=True)):
        places.setdefault((key[0], seen[key]), {})[key[1]] = number
        seen[key] += 1
    return places


def _row_of(correction: Correction, places: Sequence[Mapping]) -> tuple[int, int]:
    """The part and the number of the corrected row. The page writes id#2 where an id stands twice in a source."""
    name, _, occurrence = correction.id.rpartition("#")
    named = [(correction.id, 0), *([(name, int(occurrence) - 1)] if occurrence.isdecimal() else [])]
    for key in named:
        rows = [
            (part, row)
            for part, of_part in enumerate(places)
            for source, row in of_part.get(key, {}).items()
            if correction.source in (None, source)
        ]
        if len(rows) == 1:
            return rows[0]
        if rows:
            problem = f"line {correction.line}: {len(rows)} pairs have the id {correction.id!r}"
            raise UserError(KEY, problem, "add their source")
    source = f" of source {correction.source!r}" if correction.source is not None else ""
    problem = f"line {correction.line}: no given pair{source} has the id {correction.id!r}"
    raise UserError(KEY, problem, "give the data that the page was of, or leave the line out")


def _applied(rows: Any, changes: Mapping[int, Correction]) -> Any:
    """The rows as they are learned from."""
    if not changes:
        return rows
    turned = {number: flipped(rows[number]) for number, made in changes.items() if made.action == "flip"}
    order = [number for number in range(len(rows)) for _ in range(_times(changes.get(number)))]
    if not isinstance(rows, RowTable):
        return [turned.get(number, rows[number]) for number in order]
    added = {number: len(rows) + place for place, number in enumerate(turned)}
    table = pa.concat_tables([rows.table, pa.Table.from_pylist(list(turned.values()), schema=rows.table.schema)])
    return RowTable(table).take(added.get(number, number) for number in order)


def _times(correction: Correction | None) -> int:
    """How often a pair is learned from: the whole part of its weight, and once more as often as the rest says."""
    if correction is None or correction.action == "flip":
        return 1
    if correction.action == "drop":
        return 0
    whole = int(correction.weight)
    drawn = int.from_bytes(hashlib.sha256(correction.id.encode()).digest()[:8], "big") / 2**64
    return whole + (drawn < correction.weight - whole)


def flipped(row: dict) -> dict:
    """The pair with its answers exchanged, and with them all that is said of either."""
    turned = {**row}
    for column in SIDES:
        turned[f"chosen{column}"], turned[f"rejected{column}"] = row[f"rejected{column}"], row[f"chosen{column}"]
    if row["confidence"] is not None:
        turned["confidence"] = 1 - row["confidence"]
    if row["given_margin"] is not None:
        turned["given_margin"] = -row["given_margin"]
    return turned
