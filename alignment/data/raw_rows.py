"""Raw rows of a published set, brought to columns: each row is used or quarantined.

Where a set has no ids, a row's id is a hash of its content, not its place in a copy of the set. Only rows of the same
content (an answer that several people labelled) are told apart by a number, in the copy's order.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from alignment.data.cells import BadRow, as_float, no_column, true_or_false
from alignment.data.columns import Loaded, intact, messages, readable
from alignment.types import UserError

ReadRow = tuple[Path, int, dict | str]  # file, line, and the row or what is wrong with it
Read = Iterable[ReadRow]


def load(name: str, read: Read, make: Callable[[dict, Path], dict], *, repeats: bool) -> Loaded:
    """`make` turns a raw row into columns or raises BadRow. repeats: may an id occur again, as with another person's
    label of the same answer? If not, its row is quarantined.
    """
    loaded = Loaded()
    times: dict[str, int] = {}

    def make_once(read_row: ReadRow) -> dict:
        file, _, raw = read_row
        row = make(intact(raw), file)
        times[row["id"]] = times.get(row["id"], 0) + 1
        if times[row["id"]] > 1:
            if not repeats:
                raise BadRow("the same prompt or id was there before")
            row["id"] += f"-{times[row['id']]}"
        return row

    usable = readable(read, make_once, lambda read_row, why: loaded.quarantine(str(read_row[0]), read_row[1], why))
    loaded.rows = [row for _, row in usable]
    if not loaded.rows:
        first = f" (the first: {loaded.quarantined[0]['reason']})" if loaded.quarantined else ""
        raise UserError(name, f"none of {loaded.read} rows can be used{first}", "docs/data.md names the columns it has")
    return loaded


def text(row: dict, *columns: str) -> str:
    """The text of the first of these columns that the row has: the hub names some otherwise than the authors."""
    column = next((column for column in columns if column in row), None)
    if column is None:
        raise no_column(" or ".join(columns), row)
    if isinstance(row[column], list):
        raise BadRow(f"{column} is not text")
    return messages(row[column], column, "user")[0]["content"]


def optional_text(row: dict, *columns: str) -> str | None:
    """As `text`; None where the row has none of these columns, or the first has no text."""
    value = next((row[column] for column in columns if column in row), None)
    if not isinstance(value, str) or value.strip() in ("", "null"):
        return None
    return text(row, *columns)


def yes_or_no(row: dict, column: str) -> bool | None:
    """A label: true or false, or 1 or 0, as json, csv and parquet write them; None where it is empty."""
    number = as_float(row.get(column))
    return number == 1 if number in (0, 1) else true_or_false(row.get(column), column)


def content_id(name: str, *content: str | list[str] | None) -> str:
    """An id made of a row's content: the same in every copy of a set, in any order and under any column names."""
    return f"{name}-{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]}"


def unfolded(read: Read, unfold: Callable[[dict], Iterable[dict]]) -> Iterator[ReadRow]:
    """A row for each answer of rows that hold several; a broken line stays one."""
    for file, line, raw in read:
        for part in [raw] if isinstance(raw, str) else unfold(raw):
            yield file, line, part
