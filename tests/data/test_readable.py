"""Rows that can be used stay with what was made of them, the others are set aside with the reason."""

import pyarrow as pa
import pytest

from alignment.data.columns import BadRow, Loaded, readable, usable_lines
from alignment.data.row_table import RowTable

ROWS = [{"id": f"row-{number}", "number": number} for number in range(6)]


def half(row: dict) -> int:
    if row["number"] % 2:
        raise BadRow(f"{row['number']} is odd")
    return row["number"] // 2


@pytest.mark.parametrize("rows", [ROWS, RowTable(pa.Table.from_pylist(ROWS))], ids=["list", "table"])
def test_rows_on_disk_and_in_memory_are_kept_alike(rows):
    loaded = Loaded(rows)
    assert loaded.readable(half, "own") == [0, 1, 2]
    assert list(loaded.rows) == ROWS[::2] and loaded.read == 6
    assert loaded.quarantined == [
        {"source": "own", "line": None, "reason": f"row-{number}: {number} is odd"} for number in (1, 3, 5)
    ]


def test_nothing_is_looked_at_after_the_last_row_that_is_wanted():
    loaded = Loaded([{**row, "source": "theirs"} for row in ROWS])
    assert loaded.readable(half, "own", most=2) == [0, 1]
    assert [row["reason"] for row in loaded.quarantined] == ["row-1: 1 is odd"]  # row 3 comes after the second
    assert loaded.quarantined[0]["source"] == "theirs"
    assert Loaded(ROWS).readable(half, most=0) == []


def test_without_anybody_to_tell_unusable_rows_are_passed_over():
    assert list(readable(ROWS, half)) == [(ROWS[0], 0), (ROWS[2], 1), (ROWS[4], 2)]


def test_another_error_is_nobodys_row():
    with pytest.raises(KeyError):
        list(readable([{}], half))


def test_a_broken_line_is_set_aside_with_its_number_and_the_readers_reason():
    lines = [(1, ROWS[0]), (2, "not valid json"), (4, ROWS[1]), (5, ROWS[2])]
    loaded = usable_lines("a.jsonl", lines, lambda number, row: (number, half(row)))
    assert loaded.rows == [(1, 0), (5, 1)]
    assert loaded.quarantined == [
        {"source": "a.jsonl", "line": 2, "reason": "not valid json"},
        {"source": "a.jsonl", "line": 4, "reason": "1 is odd"},
    ]
