"""Rows of a local file: json lines, csv or parquet. A line that can't be read is handed on as such, never skipped."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from alignment.types import UserError


def read_file(key: str, path: str) -> Iterator[tuple[int, dict | str]]:
    """Line number and row, or line number and what is wrong with the line. `key` is the setting that named the file."""
    readers = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet}
    file = Path(path)
    if not file.is_file():
        raise UserError(key, f"{path} is {'a folder' if file.is_dir() else 'not there'}", "give a file")
    if file.suffix not in readers:
        raise UserError(key, f"{path} is of an unknown kind", f"give one of {', '.join(readers)}")
    return readers[file.suffix](key, file)


def _jsonl(key: str, file: Path) -> Iterator[tuple[int, dict | str]]:
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield number, _json_row(line)


def _json_row(line: bytes) -> dict | str:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return "not valid UTF-8"
    except json.JSONDecodeError as error:
        return f"not valid json: {error.msg}"
    return row if isinstance(row, dict) else "not a json object"


def _json(key: str, file: Path) -> Iterator[tuple[int, dict | str]]:
    try:
        rows = json.loads(file.read_text(encoding="utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        remedy = "give a list of objects; a file with one object per line is named .jsonl"
        raise UserError(key, f"{file} is not valid json: {error}", remedy) from error
    if not isinstance(rows, list):
        raise UserError(key, f"{file} holds no list", "give a list of objects, or json lines")
    for number, row in enumerate(rows, start=1):
        yield number, row if isinstance(row, dict) else "not a json object"


def _csv(key: str, file: Path) -> Iterator[tuple[int, dict | str]]:
    csv.field_size_limit(2**31 - 1)
    with open(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        reader = csv.DictReader(lines)
        for row in reader:
            if None in row or None in row.values():
                yield reader.line_num, "the number of fields differs from the header's"
            elif any("\udc80" <= character <= "\udcff" for value in row.values() for character in value):
                yield reader.line_num, "not valid UTF-8"
            else:
                yield reader.line_num, row


def _parquet(key: str, file: Path) -> Iterator[tuple[int, dict | str]]:
    try:
        batches = pq.ParquetFile(file).iter_batches(batch_size=1000)
        yield from enumerate((row for batch in batches for row in batch.to_pylist()), start=1)
    except pa.ArrowInvalid as error:
        raise UserError(key, f"{file} is not valid parquet: {error}", "write it again") from error
