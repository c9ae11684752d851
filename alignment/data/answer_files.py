"""Files of prompts and responses: read to be judged, and written again with columns for the verdicts.

The rows keep their columns and their order. The suffix of a file's name says of what kind it is.
"""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from alignment.data.columns import BadRow, Loaded, answer, messages, usable_lines
from alignment.data.files import read_file
from alignment.data.thinking import answer_of
from alignment.types import Message, UserError


@dataclass(frozen=True)
class Answer:
    """One row of a file. response: what is judged, without thoughts; an empty one ("") is not judged."""

    line: int
    row: dict
    prompt: list[Message]
    response: str
    has_thoughts: bool = False


def read_answers(key: str, path: str) -> tuple[list[Answer], Loaded]:
    """The rows that can be judged, and the counts, with the rows that can't."""
    loaded = usable_lines(path, read_file(key, path), _answer)
    return loaded.rows, loaded


def _answer(line: int, row: dict) -> Answer:
    for column in ("prompt", "response"):
        if column not in row:
            raise BadRow(f"there is no {column}")
    prompt = messages(row["prompt"], "prompt", "user")
    response = "" if _is_empty(row["response"]) else answer(row["response"], "response", prompt)[0]["content"]
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


def refuse_columns(key: str, path: str, answers: Sequence[Answer], added: Sequence[str]) -> None:
    """UserError if the file has one of the columns that are to be added."""
    for column in added:
        if any(column in answer.row for answer in answers):
            raise UserError(key, f"{path} has a column {column} already", f"rename it: {column} is what is added")


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
