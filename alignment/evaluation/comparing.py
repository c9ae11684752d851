"""Which of two systems' answers to the same harmless prompt is more useful, by a chat model behind an API."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from alignment.judges.chat_service import ChatService
from alignment.judges.pairwise import BETTER, USEFULNESS_RUBRIC, comparisons
from alignment.types import Message

COMPARISON_COLUMNS = pa.schema(
    [
        ("system", pa.string()), ("than", pa.string()), ("seed", pa.int64()), ("set", pa.string()), ("id", pa.string()),
        ("asks", pa.string()), ("judge", pa.string()), ("preferred", pa.float64()), ("flipped", pa.bool_()),
    ]
)  # fmt: skip


def comparison_rows(
    judge: str,
    service: ChatService,
    answers: Sequence[Mapping[str, Any]],
    prompts: Sequence[list[Message]],
) -> list[dict]:
    """A row for every answer that the first system has one beside, to the same prompt with the same seed.

    answers: rows of evaluate's answers, those of the first system before the others; prompts: of each.
    """
    before = {_place(row): row for row in answers if row["system"] == answers[0]["system"]}
    later = [
        (row, prompt) for row, prompt in zip(answers, prompts, strict=True) if row["system"] != answers[0]["system"]
    ]
    pairs = [(before[_place(row)], row, prompt) for row, prompt in later if _place(row) in before]
    found = comparisons(
        service, [prompt for *_, prompt in pairs], [first["answer"] for first, *_ in pairs],
        [row["answer"] for _, row, _ in pairs],
    )  # fmt: skip
    return [
        {
            "system": row["system"], "than": first["system"], "seed": row["seed"], "set": row["set"], "id": row["id"],
            "asks": row["asks"], "judge": judge, **vars(one),
        }
        for (first, row, _), one in zip(pairs, found, strict=True)
    ]  # fmt: skip


def comparison_record(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the figures rest on, for the scorecard."""
    prompt = hashlib.sha256(f"{USEFULNESS_RUBRIC}\0{BETTER.pattern}".encode()).hexdigest()[:16]
    pairs = {
        "pairs": len(rows),
        "same_text": sum(row["preferred"] == 0.5 and row["flipped"] is None for row in rows),
        "changed_with_the_order": sum(row["flipped"] is True for row in rows),
        "unparsed": sum(row["preferred"] is None for row in rows),
    }
    return {"asked": "in both orders; a verdict that changes with the order is a tie", "prompt_hash": prompt, **pairs}


def _place(row: Mapping[str, Any]) -> tuple:
    return row["set"], row["id"], row["seed"]
