"""Files of prompts and responses: read to be judged, and written again with columns for the verdicts.

The rows keep their columns and their order. The suffix of a file's name says of what kind it is.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from alignment.data.cells import BadRow, no_column
from alignment.data.columns import Loaded, answer, messages, renamed, usable_lines
from alignment.data.files import read_file
from alignment.data.thinking import answer_of
from alignment.types import Message, UserError

ANSWER_COLUMNS = ("prompt", "response")  # what is read of a file


@dataclass(frozen=True)
class Answer:
    """One row of a file. response: what is judged, without thoughts; an empty one ("") is not judged."""

    line: int
    row: dict
    prompt: list[Message]
    response: str
    has_thoughts: bool = False


def read_answers(key: str, path: str, columns: Mapping[str, str] | None = None) -> tuple[list[Answer], Loaded]:
    """The rows that can be judged, and the counts, with the rows that can't. columns: what the file calls the two
    that are read: {"prompt": "question"}; a row keeps its own names."""
    loaded = usable_lines(path, read_file(key, path), lambda line, row: _answer(line, row, columns or {}))
    return loaded.rows, loaded


def _answer(line: int, row: dict, columns: Mapping[str, str]) -> Answer:
    ours = renamed(row, columns)
    for column in ANSWER_COLUMNS:
        if column not in ours:
            raise no_column(column, row)
    prompt = messages(ours["prompt"], "prompt", "user")
    response = "" if _is_empty(ours["response"]) else answer(ours["response"], "response", prompt)[0]["content"]
    try:
        json.dumps(row, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:
        raise BadRow("it holds half a character (a lone surrogate)") from error
    judged = answer_of(response)
    return Answer(line, row, prompt, judged, has_thoughts=judged != response)


def _is_empty(response: object) -> bool:
    """Is it null in any of the ways to write that, blank, no message, or an assistant's message that says nothing?"""
    if isinstance(response, list):
        last = response[-1] if response else {"role": "assistant", "content": ""}
        response = last.get("content") if isinstance(last, dict) and last.get("role") == "assistant" else response
    return response is None or response != response or (isinstance(response, str) and not response.strip())


def present(answers: Sequence[Answer], columns: Sequence[str]) -> list[str]:
    """Those of these columns that the file has already."""
    return [column for column in columns if any(column in answer.row for answer in answers)]


def refuse_kind(suffix: str, source: Path, rows: Sequence[dict], added: pa.Schema) -> None:
    """UserError if these rows can't be written as a file of this kind."""
    if suffix == ".parquet":
        _parquet_schema(source, rows, added)


def write_answers(path: Path, suffix: str, source: Path, rows: Sequence[dict], added: pa.Schema) -> None:
    """Writes rows of `source`, with the columns of `added` last, as a file of the kind that `suffix` names."""
    if suffix == ".parquet":
        table = pa.Table.from_pylist(list(rows), schema=_parquet_schema(source, rows, added))
        pq.write_table(table, path)
        return
    with open(path, "w", encoding="utf-8", newline="") as file:
        if suffix == ".csv":
            columns = _columns(rows, added)
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows([_cell(row.get(column)) for column in columns] for row in rows)
        elif suffix == ".json":
            file.write(_json(list(rows), indent=1) + "\n")
        else:
            file.writelines(_json(row) + "\n" for row in rows)


def _cell(value: object) -> object:
    return _json(value) if isinstance(value, list | dict) else value


def _json(value: object, indent: int | None = None) -> str:
    return json.dumps(_finite(value), ensure_ascii=False, indent=indent, default=str)


def _finite(value: object) -> object:
    """NaN and infinite numbers, which JSON hasn't, are null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def _parquet_schema(source: Path, rows: Sequence[dict], added: pa.Schema) -> pa.Schema:
    """The columns of a parquet file keep their types; columns of other files have the types of their values."""
    if source.suffix == ".parquet":
        schema = pq.read_schema(source)
        for field in added:
            schema = schema.append(field)
        return schema
    names = [name for name in _columns(rows, added) if name not in added.names]
    try:
        types = [(name, pa.array([row.get(name) for row in rows]).type) for name in names]
        schema = pa.schema([*types, *added])
        pq.write_table(schema.empty_table(), io.BytesIO())  # there are types that it can't hold: {} has no column
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError) as error:
        raise UserError(
            "judge.output", f"{source} holds values that parquet can't: {' '.join(str(error).split())}", "write jsonl"
        ) from error
    return schema


def _columns(rows: Sequence[dict], added: pa.Schema) -> list[str]:
    """All columns in the order in which they first come up; those of `added` come last."""
    names = dict.fromkeys(name for row in rows for name in row if name not in added.names)
    return [*names, *added.names]
