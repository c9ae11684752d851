"""Rows of a local file, one after the other, however large it is: json lines, json, csv (each also as .gz or .xz),
parquet, arrow. A line that can't be read is replaced by the reason; a file that isn't whole is refused."""

import codecs
import csv
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from alignment.data.packed_files import PACKED, in_one_line, unpacked
from alignment.types import UserError

Line = tuple[int, dict | str]  # a line's number, and its row or what is wrong with it
TEXT = ".txt"  # of prompts alone
BATCH = 1000  # rows of a table that are turned into Python's objects at once
UNREADABLE = (UnicodeDecodeError, pa.ArrowException, ValueError, OverflowError)  # what broken values in a table raise


def read_file(key: str, path: str, columns: Sequence[str] | None = None) -> Iterator[Line]:
    """Number and content of every line. key: the setting that named the file. columns: the names of a csv's columns,
    where it has no heading."""
    file = Path(path)
    reader = _reader(key, file)
    if columns is not None:
        reader = partial(_csv, columns=columns)
    return _watched(key, file, reader)


def read_lines(key: str, file: Path) -> Iterator[Line]:
    """The lines of a text that aren't blank, as prompts: rows of one column."""
    with unpacked(key, file) as content:
        for number, line in _lines(content):
            try:
                yield number, {"prompt": line.decode("utf-8-sig").strip()}
            except UnicodeDecodeError:
                yield number, "not valid UTF-8"


def files_at(key: str, path: str) -> list[Path]:
    """The file of this name, or the files that a pattern names, in the order of their names."""
    files = [Path(path)]
    if "*" in path:
        folder, _, pattern = path.rpartition("/")
        files = sorted(Path(folder or ".").glob(pattern))
        if not files:
            raise UserError(key, f"no file is named like {path}", "check the pattern")
    for file in files:
        _reader(key, file)
    return files


def _reader(key: str, file: Path) -> Callable[[str, Path], Iterator[Line]]:
    if not file.is_file():
        raise UserError(key, f"{file} is {'a folder' if file.is_dir() else 'not there'}", "give a file")
    kind = file.with_suffix("").suffix if file.suffix in PACKED else file.suffix
    if kind not in READERS or (file.suffix in PACKED and kind in (".parquet", ".arrow")):
        raise UserError(
            key, f"{file} is of an unknown kind", f"give one of {', '.join(READERS)}; text also as .gz or .xz"
        )
    if not os.access(file, os.R_OK):
        raise UserError(key, f"{file} may not be read", "change its permissions")
    return READERS[kind]


def _watched(key: str, file: Path, reader: Callable[[str, Path], Iterator[Line]]) -> Iterator[Line]:
    """The lines of a file; one that changes while it is read is refused."""
    before = _state(file)
    try:
        yield from reader(key, file)
    except UserError:
        if _state(file) == before:
            raise
    if _state(file) != before:
        raise UserError(key, f"{file} changed while it was read", "wait until it is written, and start again")


def _state(file: Path) -> tuple[int, ...] | None:
    try:
        status = file.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


# ---- text -----------------------------------------------------------------------------------------------------------


def _jsonl(key: str, file: Path) -> Iterator[Line]:
    """An object a line. Some published files of this name hold one list instead."""
    with unpacked(key, file) as content:
        lines = _lines(content)
        first = next(lines, None)
        if first is None:
            return
        if first[1].removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
            lines = list(lines)
            whole = b"\n".join([first[1], *(line for _, line in lines)])
            try:
                yield from _listed(key, file, whole, "write an object a line")
                return
            except UserError:
                if not lines or isinstance(_json_row(lines[0][1]), str):
                    raise  # else only the first line is wrong
        yield from ((number, _json_row(line)) for number, line in chain([first], lines))


def _lines(content: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The lines that aren't blank, whatever ends them."""
    number = 0
    for line in content:
        for part in line.replace(b"\r\n", b"\n").split(b"\r") if b"\r" in line else (line,):
            number += 1
            if part.strip():
                yield number, part


def _json_row(line: bytes) -> dict | str:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return "not valid UTF-8"
    except json.JSONDecodeError as error:
        return f"not valid json: {error.msg}"
    except RecursionError:
        return "not valid json: nested too deeply"
    except ValueError as error:  # a number of thousands of digits
        return f"not valid json: {error}"
    return row if isinstance(row, dict) else "not a json object"


def _json(key: str, file: Path) -> Iterator[Line]:
    with unpacked(key, file) as content:
        whole = content.read()
    return _listed(key, file, whole, "give a list of objects; a file with one object per line is named .jsonl")


def _listed(key: str, file: Path, content: bytes, remedy: str) -> Iterator[Line]:
    """The objects of a list, which is read at once; they are numbered by their places in it."""
    try:
        rows = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(key, f"{file} is not valid json: {in_one_line(error)}", remedy) from error
    if not isinstance(rows, list):
        raise UserError(key, f"{file} holds no list", "give a list of objects, or json lines")
    return ((number, row if isinstance(row, dict) else "not a json object") for number, row in enumerate(rows, start=1))


def _csv(key: str, file: Path, columns: Sequence[str] | None = None) -> Iterator[Line]:
    """The rows of a csv. columns: their names, where the first line doesn't have them."""
    csv.field_size_limit(2**31 - 1)
    with unpacked(key, file) as content:
        text = io.TextIOWrapper(content, encoding="utf-8-sig", errors="surrogateescape", newline="")
        first = text.readline()
        reader = csv.reader(chain([first], text), delimiter=_delimiter(first), strict=True)
        names = _header(key, file, reader) if columns is None else columns
        while True:
            number = reader.line_num + 1
            try:
                fields = next(reader, None)
            except csv.Error as error:
                if "end of data" in str(error):
                    problem = f"{file}: a quote that opens in line {number} is never closed"
                    raise UserError(key, problem, "close it, or write it as two") from error
                yield number, f"not valid csv: {error}"
                continue
            if fields is None:
                return
            if fields:
                yield number, _csv_row(names, fields)


def _delimiter(heading: str) -> str:
    """A comma, or where the first line has none what spreadsheets write instead: a semicolon or a tab."""
    return next((character for character in ",;\t" if character in heading), ",")


def _header(key: str, file: Path, reader: Any) -> list[str]:
    try:
        names = next(reader, [])
    except csv.Error as error:
        raise UserError(key, f"{file}: its first line is not valid csv: {error}", "name the columns there") from error
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(key, f"{file} has two columns named {twice[0]!r}", "rename one")
    return names


def _csv_row(names: Sequence[str], fields: list[str]) -> dict | str:
    if len(fields) != len(names):
        return f"{len(fields)} fields for {len(names)} columns"
    if any("\udc80" <= character <= "\udcff" for field in fields if not field.isascii() for character in field):
        return "not valid UTF-8"
    return dict(zip(names, fields, strict=True))


# ---- tables ---------------------------------------------------------------------------------------------------------


def _parquet(key: str, file: Path) -> Iterator[Line]:
    with _whole(key, file, "parquet"):
        table = pq.ParquetFile(file)
        number = 0
        for number, row in _numbered(table.iter_batches(batch_size=BATCH)):
            yield number, row
        if number != table.metadata.num_rows:
            raise pa.ArrowInvalid(f"it holds {number} rows and says {table.metadata.num_rows}")


def _arrow(key: str, file: Path) -> Iterator[Line]:
    """An arrow file, or an arrow stream as datasets writes it."""
    with _whole(key, file, "arrow"), pa.OSFile(str(file)) as content:
        try:
            table = pa.ipc.open_file(content)
            batches: Iterator[pa.RecordBatch] = (table.get_batch(i) for i in range(table.num_record_batches))
        except pa.ArrowInvalid:
            content.seek(0)
            batches = iter(pa.ipc.open_stream(content))
        yield from _numbered(
            batch.slice(start, BATCH) for batch in batches for start in range(0, batch.num_rows, BATCH)
        )


def _numbered(batches: Iterator[pa.RecordBatch]) -> Iterator[Line]:
    return enumerate((row for batch in batches for row in _rows(batch)), start=1)


def _rows(batch: pa.RecordBatch) -> list[dict | str]:
    """A broken value spoils its own row only. Arrow believes what an arrow file says of itself: it is checked first."""
    try:
        batch.validate(full=True)
        return batch.to_pylist()
    except UNREADABLE as error:
        if batch.num_rows != 1:
            return [row for i in range(batch.num_rows) for row in _rows(batch.slice(i, 1))]
        broken_text = isinstance(error, UnicodeDecodeError) or "UTF8" in str(error)
        return ["not valid UTF-8" if broken_text else f"can't be read: {in_one_line(error)}"]


@contextmanager
def _whole(key: str, file: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, MemoryError, UnicodeDecodeError) as error:  # the last from a column's name
        raise UserError(key, f"{file} is not a sound {kind} file: {in_one_line(error)}", "write it again") from error


READERS: dict[str, Callable[[str, Path], Iterator[Line]]] = {
    ".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet, ".arrow": _arrow,
}  # fmt: skip
