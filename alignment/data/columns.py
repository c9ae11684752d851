"""The columns every preference data set is brought to, and what makes a row unusable.

They have TRL's explicit-prompt conversational form, so that TRL and load_dataset("parquet") read a stage's files as
they are. `harmful` says whether the prompt asks for something harmful; it and every column after it is null where
unknown. `confidence` is how sure the preference is, from 0 to 1; `given_margin` is a margin that came with the data.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice, takewhile
from typing import Any, TypeVar

import pyarrow as pa

from alignment.data.cells import (
    BadRow,
    as_level,
    as_name,
    as_number,
    as_share,
    check_characters,
    no_column,
    true_or_false,
)
from alignment.types import Message

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
PAIR_COLUMNS = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("prompt", MESSAGES),
        ("chosen", MESSAGES),
        ("rejected", MESSAGES),
        ("category", pa.string()),
        ("harmful", pa.bool_()),
        ("chosen_severity", pa.int8()),
        ("rejected_severity", pa.int8()),
        ("chosen_safe", pa.bool_()),
        ("rejected_safe", pa.bool_()),
        ("chosen_helpfulness", pa.int8()),
        ("rejected_helpfulness", pa.int8()),
        ("confidence", pa.float64()),
        ("given_margin", pa.float64()),
    ]
)
MARGIN_COLUMNS = pa.schema([*PAIR_COLUMNS, ("margin", pa.float64()), ("margin_raw", pa.float64())])
CONTRAST_COLUMNS = pa.schema(
    [
        ("id", pa.string()),
        ("prompt", MESSAGES),
        ("positive", MESSAGES),
        ("negative", MESSAGES),
        ("positive_finished", pa.bool_()),
        ("negative_finished", pa.bool_()),
    ]
)
LABELLED_COLUMNS = pa.schema([*CONTRAST_COLUMNS, ("negative_prompt", MESSAGES)])  # each side has a prompt of its own
_ROLES = {"user", "assistant", "system"}
Row, Item = TypeVar("Row"), TypeVar("Item")


@dataclass
class Loaded:
    """The usable rows of a data set; the others, with source, line and reason, are quarantined."""

    rows: Any = field(default_factory=list)  # a list, or a RowTable of rows on disk
    quarantined: list[dict] = field(default_factory=list)

    @property
    def read(self) -> int:
        return len(self.rows) + len(self.quarantined)

    def keep(self, numbers: list[int]) -> None:
        """Keeps the rows with these numbers alone, in this order."""
        if len(numbers) < len(self.rows):
            rows = self.rows
            self.rows = [rows[i] for i in numbers] if isinstance(rows, list) else rows.take(numbers)

    def quarantine(self, source: str, line: int | None, reason: str) -> None:
        """Notes an unusable row. line: None if that came out after it was read; the reason then names the row's id."""
        self.quarantined.append({"source": source, "line": line, "reason": reason})

    def readable(self, make: Callable[[dict], Item], source: str = "", most: int | None = None) -> list[Item]:
        """What `make` makes of the first rows that it can use, at most `most`. Only these rows stay; those on which
        `make` raises BadRow are quarantined. source: where rows come from that don't name their source.
        """
        kept, items = [], []  # numbers, not rows: a table makes its rows when they are looked at
        for number, row in enumerate(self.rows):
            if len(items) == most:
                break
            try:
                items.append(make(row))
                kept.append(number)
            except BadRow as error:
                self.quarantine(row.get("source", source), None, f"{row['id']}: {error}")
        self.keep(kept)
        return items


def renamed(row: dict, columns: Mapping[str, str]) -> dict:
    """The row under our names; `columns` says which of its columns is which of ours: {"prompt": "question"}."""
    if missing := [theirs for theirs in columns.values() if theirs not in row]:
        raise no_column(missing[0], row)
    return {**row, **{ours: row[theirs] for ours, theirs in columns.items()}}


def readable(
    rows: Iterable[Row], make: Callable[[Row], Item], set_aside: Callable[[Row, str], object] = lambda row, why: None
) -> Iterator[tuple[Row, Item]]:
    """Each row with what `make` makes of it. Where `make` raises BadRow, `set_aside` gets the row and the reason."""
    for row in rows:
        try:
            item = make(row)
        except BadRow as error:
            set_aside(row, str(error))
        else:
            yield row, item


def usable_lines(
    file: str, lines: Iterable[tuple[int, dict | str]], make: Callable[[int, dict], Any], most: int | None = None
) -> Loaded:
    """What `make` makes of the first lines of a file that it can use, at most `most`; bad lines are quarantined."""
    loaded = Loaded()
    usable = readable(
        lines, lambda line: make(line[0], intact(line[1])), lambda line, why: loaded.quarantine(file, line[0], why)
    )
    loaded.rows = [row for _, row in islice(usable, most)]
    return loaded


def intact(row: dict | str) -> dict:
    """The row, if it could be read; text in its place says why it couldn't, and BadRow is raised with it."""
    if isinstance(row, str):
        raise BadRow(row)
    return row


def text_message(role: str, content: str) -> list[Message]:
    return [{"role": role, "content": content}]


def messages(value: object, column: str, role: str) -> list[Message]:
    """Text becomes one message; messages are checked to be what chat templates take."""
    if isinstance(value, str):
        value = text_message(role, value)
    if not isinstance(value, list) or not value:
        raise BadRow(f"{column} is {'empty' if value in (None, '', []) else 'neither text nor messages'}")
    value = [_without_nulls(message) for message in value]
    for message in value:
        if not isinstance(message, dict) or set(message) != {"role", "content"} or message["role"] not in _ROLES:
            raise BadRow(f"{column} holds something that is not a message with role and content")
        content = message["content"]
        if not isinstance(content, str) or not content.strip():
            raise BadRow(f"{column} is empty")
        check_characters(content, column)
    return value


def _without_nulls(message: object) -> object:
    """The message without empty fields: tables give every message the fields that any has, as tool_calls: null."""
    if not isinstance(message, dict) or len(message) == 2:
        return message
    return {name: value for name, value in message.items() if value is not None}


def pair(row: dict, name: str, source: str) -> dict:
    """A raw row with text or messages, as a row of PAIR_COLUMNS; raises BadRow."""
    for column in ("chosen", "rejected"):
        if column not in row:
            raise no_column(column, row)
    if row.get("prompt") is None and isinstance(row["chosen"], list) and isinstance(row["rejected"], list):
        row = {**row, "prompt": _shared_opening(row["chosen"], row["rejected"])}
    if "prompt" not in row:
        raise BadRow(
            f"{no_column('prompt', row)}, and chosen and rejected are not two conversations (lists of messages)"
        )
    prompt = messages(row["prompt"], "prompt", "user")
    columns = {
        "id": as_name(row.get("id"), "id") or name,
        "source": source,
        "prompt": prompt,
        "chosen": answer(row.get("chosen"), "chosen", prompt),
        "rejected": answer(row.get("rejected"), "rejected", prompt),
    }
    if columns["chosen"] == columns["rejected"]:
        raise BadRow("chosen and rejected are the same")
    columns["category"] = as_name(row.get("category"), "category")
    columns["harmful"] = true_or_false(row.get("harmful"), "harmful")
    for column in ("chosen_severity", "rejected_severity", "chosen_helpfulness", "rejected_helpfulness"):
        columns[column] = as_level(row.get(column), column)
    for side in ("chosen", "rejected"):
        safe, severity = true_or_false(row.get(f"{side}_safe"), f"{side}_safe"), columns[f"{side}_severity"]
        if safe is not None and severity is not None and safe != (severity == 0):
            raise BadRow(f"{side}_safe is {safe}, and {side}_severity {severity}")
        columns[f"{side}_safe"] = safe if severity is None else severity == 0
    columns["confidence"] = as_share(row.get("confidence"), "confidence")
    columns["given_margin"] = as_number(row.get("margin"), "margin")
    return columns


def _shared_opening(chosen: list, rejected: list) -> list:
    """The prompt of two whole conversations, as TRL's implicit prompts are: the messages that both begin with.

    Texts are not taken apart likewise: "I can" and "I can't" would share a prompt, too.
    """
    shared = list(takewhile(lambda both: both[0] == both[1], zip(chosen, rejected, strict=False)))
    if not shared:
        raise BadRow("has no column prompt, and chosen and rejected don't begin with the same message")
    if len(shared) == len(chosen) == len(rejected):
        raise BadRow("chosen and rejected are the same")
    return [message for message, _ in shared]


def answer(value: object, column: str, prompt: list[Message]) -> list[Message]:
    """The assistant's message; of a conversation that begins with the prompt, the message after the prompt."""
    turns = messages(value, column, "assistant")
    if len(turns) > len(prompt) and turns[: len(prompt)] == prompt:
        turns = turns[len(prompt) :]
    if len(turns) != 1 or turns[0]["role"] != "assistant":
        raise BadRow(f"{column} is not one message of the assistant (after the prompt)")
    return turns
