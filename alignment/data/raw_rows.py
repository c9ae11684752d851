"""Raw rows of a published set to columns: each is used or quarantined.

Where a set gives no ids, one is made of what the row says, not of where a copy has it. Only rows that say the same (an
answer that several people labelled) are told apart by a number, in the copy's order.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from alignment.data.columns import BadRow, Loaded, as_float, intact, messages, readable, true_or_false
from alignment.types import UserError

Read = Iterable[tuple[Path, int, dict | str]]  # file, line, and the row or what is wrong with it


def load(name: str, read: Read, make: Callable[[dict, Path], dict], *, repeats: bool) -> Loaded:
    """`make` turns a raw row into columns or raises BadRow. A row with an id that was there before is one more
    (`repeats`: another person's label of the same answer), or is set aside.
    """
    loaded = Loaded()
    times: dict[str, int] = {}

    def once(place: tuple[Path, int, dict | str]) -> dict:
        file, _, raw = place
        row = make(intact(raw), file)
        times[row["id"]] = times.get(row["id"], 0) + 1
        if times[row["id"]] > 1:
            if not repeats:
                raise BadRow("the same prompt or id was there before")
            row["id"] += f"-{times[row['id']]}"
        return row

    made = readable(read, once, lambda place, why: loaded.quarantine(str(place[0]), place[1], why))
    loaded.rows = [row for _, row in made]
    if not loaded.rows:
        first = f" (the first: {loaded.quarantined[0]['reason']})" if loaded.quarantined else ""
        raise UserError(name, f"none of {loaded.read} rows can be used{first}", "docs/data.md names the columns it has")
    return loaded


def text(row: dict, *columns: str) -> str:
    """The text of the first of these columns that the row has: the hub's name for it, or the authors'."""
    found = next((column for column in columns if column in row), None)
    if found is None:
        raise BadRow(f"has no column {' or '.join(columns)}")
    if isinstance(row[found], list):
        raise BadRow(f"{found} is not text")
    return messages(row[found], found, "user")[0]["content"]


def optional_text(row: dict, *columns: str) -> str | None:
    """None where there is none, or something else than text."""
    found = next((column for column in columns if column in row), None)
    if found is None or not isinstance(row[found], str) or row[found].strip() in ("", "null"):
        return None
    return text(row, found)


def yes_or_no(row: dict, column: str) -> bool | None:
    """A label: true or false, or 1 or 0, as json, csv and parquet write them; None where there is none."""
    number = as_float(row.get(column))
    return number == 1 if number in (0, 1) else true_or_false(row.get(column), column)


def content_id(name: str, *content: str | list[str] | None) -> str:
    """Named after what it says: the same in every copy of a set, in any order and under any column names."""
    return f"{name}-{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]}"


def unfolded(read: Read, unfold: Callable[[dict], Iterable[dict]]) -> Iterator[tuple[Path, int, dict | str]]:
    """Rows that hold several answers, one row an answer; a broken line stays one."""
    for file, line, raw in read:
        for part in [raw] if isinstance(raw, str) else unfold(raw):
            yield file, line, part
