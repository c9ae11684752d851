"""Files of prompts and responses, read to be judged and written again with what was said of them.

The rows keep their columns and their order. The kind of the written file follows its name, like that of the read one.
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
    """One row of a file as it is, and what is judged of it, without thoughts; of an empty response ("") nothing is."""

    line: int
    row: dict
    prompt: list[Message]
    response: str
    has_thoughts: bool = False


def read_answers(key: str, path: str) -> tuple[list[Answer], Loaded]:
    """The rows that can be judged, and the count of all with those that can't."""
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
    """Null in any of its ways, blank text, no message, or a last message of the assistant that says nothing."""
    if isinstance(response, list):
        last = response[-1] if response else {"role": "assistant", "content": ""}
        response = last.get("content") if isinstance(last, dict) and last.get("role") == "assistant" else response
    return response is None or response != response or (isinstance(response, str) and not response.strip())


def refuse_columns(key: str, path: str, answers: Sequence[Answer], added: Sequence[str]) -> None:
    """UserError if a column that is to be added is there."""
    for column in added:
        if any(column in one.row for one in answers):
            raise UserError(key, f"{path} has a column {column} already", f"rename it: {column} is what is added")


def refuse_kind(suffix: str, source: Path, rows: Sequence[dict], added: pa.Schema) -> None:
    """UserError if these rows can't be written as a file of this kind."""
    if suffix == ".parquet":
        _parquet_schema(source, rows, added)


def write_answers(path: Path, suffix: str, source: Path, rows: Sequence[dict], added: pa.Schema) -> None:
    """Rows of `source` with the columns of `added` at their end, as a file of the kind that `suffix` names."""
    writers = {".jsonl": _write_lines, ".json": _write_json, ".csv": _write_csv, ".parquet": _write_parquet}
    writers[suffix](path, source, rows, added)


def _write_lines(file: Path, source: Path, rows: Sequence[dict], added: pa.Schema) -> None:
    with open(file, "w", encoding="utf-8", newline="\n") as lines:
        for row in rows:
            lines.write(_json(row) + "\n")


def _write_json(file: Path, source: Path, rows: Sequence[dict], added: pa.Schema) -> None:
    file.write_text(_json(list(rows), indent=1) + "\n", encoding="utf-8")


def _json(value: object, indent: int | None = None) -> str:
    """NaN and infinite numbers, which JSON hasn't, are null."""
    try:
        return json.dumps(value, ensure_ascii=False, indent=indent, default=str, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), ensure_ascii=False, indent=indent, default=str)


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def _write_csv(file: Path, source: Path, rows: Sequence[dict], added: pa.Schema) -> None:
    columns = _columns(rows, added)
    with open(file, "w", encoding="utf-8", newline="") as lines:
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_cell(row.get(column)) for column in columns] for row in rows)


def _cell(value: object) -> object:
    return _json(value) if isinstance(value, list | dict) else value


def _write_parquet(file: Path, source: Path, rows: Sequence[dict], added: pa.Schema) -> None:
    pq.write_table(pa.Table.from_pylist(list(rows), schema=_parquet_schema(source, rows, added)), file)


def _parquet_schema(source: Path, rows: Sequence[dict], added: pa.Schema) -> pa.Schema:
    """The types of a parquet file stay what they were; those of others are what their values are."""
    if source.suffix == ".parquet":
        schema = pq.read_schema(source)
        for field in added:
            schema = schema.append(field)
        return schema
    columns = [name for name in _columns(rows, added) if name not in added.names]
    found = {name: [row.get(name) for row in rows] for name in columns}
    try:
        schema = pa.schema([*((name, pa.array(values).type) for name, values in found.items()), *added])
        pq.write_table(schema.empty_table(), io.BytesIO())  # there are types that it can't hold: {} has no column
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError) as error:
        raise UserError(
            "judge.output", f"{source} holds values that parquet can't: {' '.join(str(error).split())}", "write jsonl"
        ) from error
    return schema


def _columns(rows: Sequence[dict], added: pa.Schema) -> list[str]:
    """All there are, in the order in which they first come up; what is added comes last."""
    names = dict.fromkeys(name for row in rows for name in row if name not in added.names)
    return [*names, *added.names]
