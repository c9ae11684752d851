"""The columns every preference data set is brought to, and what makes a row unusable.

TRL's explicit-prompt conversational form, so that what one stage writes, TRL and load_dataset("parquet") read as it is.
`harmful` says whether the prompt asks for something harmful; it and everything after it is null where unknown.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import pyarrow as pa

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
        ("chosen_helpfulness", pa.int8()),
        ("rejected_helpfulness", pa.int8()),
    ]
)
MARGIN_COLUMNS = pa.schema([*PAIR_COLUMNS, ("margin", pa.float64()), ("margin_raw", pa.float64())])
CONTRAST_COLUMNS = pa.schema(
    [
        ("id", pa.string()),
        ("prompt", MESSAGES),
        ("positive", MESSAGES),
        ("negative", MESSAGES),
        ("finished", pa.bool_()),
    ]
)
_ROLES = {"user", "assistant", "system"}


@dataclass
class Loaded:
    """Usable rows, and the others with source, line and reason; used + quarantined = read."""

    rows: list[dict] = field(default_factory=list)
    quarantined: list[dict] = field(default_factory=list)

    @property
    def read(self) -> int:
        return len(self.rows) + len(self.quarantined)

    def quarantine(self, source: str, line: int, reason: str) -> None:
        self.quarantined.append({"source": source, "line": line, "reason": reason})


class BadRow(ValueError):
    """Why a row can't be used."""


def messages(value: object, column: str, role: str) -> list[Message]:
    """Text becomes one message; messages are checked to be what chat templates take."""
    if isinstance(value, str):
        value = [{"role": role, "content": value}]
    if not isinstance(value, list) or not value:
        raise BadRow(f"{column} is {'empty' if value in (None, '', []) else 'neither text nor messages'}")
    for message in value:
        if not isinstance(message, dict) or set(message) != {"role", "content"} or message["role"] not in _ROLES:
            raise BadRow(f"{column} holds something that is not a message with role and content")
        if not isinstance(message["content"], str) or not message["content"].strip():
            raise BadRow(f"{column} is empty")
    return value


def pair(row: dict, name: str, source: str) -> dict:
    """A raw row with text or messages, as a row of PAIR_COLUMNS; raises BadRow."""
    made = {
        "id": str(row["id"]) if row.get("id") is not None else name,
        "source": source,
        "prompt": messages(row.get("prompt"), "prompt", "user"),
        "chosen": messages(row.get("chosen"), "chosen", "assistant"),
        "rejected": messages(row.get("rejected"), "rejected", "assistant"),
    }
    if made["chosen"] == made["rejected"]:
        raise BadRow("chosen and rejected are the same")
    for column, kinds in {"category": str, "harmful": bool}.items():
        made[column] = _optional(row, column, kinds)
    for column in ("chosen_severity", "rejected_severity", "chosen_helpfulness", "rejected_helpfulness"):
        value = _optional(row, column, int)
        if value is not None and not 0 <= value <= 3:
            raise BadRow(f"{column} is {value}, not between 0 and 3")
        made[column] = value
    return made


def _optional(row: dict, column: str, kind: type) -> object:
    value = row.get(column)
    if value is not None and type(value) is not kind:
        raise BadRow(f"{column} is {value!r}, not of type {kind.__name__}")
    return value


def unique_ids(rows: Iterable[tuple[int, dict]], loaded: Loaded, source: str) -> Iterator[dict]:
    """Rows whose id is new; later ones with the same id are quarantined, since results are joined by id."""
    seen: set[str] = set()
    for line, row in rows:
        if row["id"] in seen:
            loaded.quarantine(source, line, f"id {row['id']!r} was there before")
        else:
            seen.add(row["id"])
            yield row
