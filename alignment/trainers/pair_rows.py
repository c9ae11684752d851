"""A data set's row of token ids as a pair, cut where a text is too long."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from alignment.models.packing import Item


def pair_of(row: Mapping[str, Any], limit: int | None = None) -> Item:
    """limit: of tokens in a text; answers are cut at their end."""
    room = None if limit is None else limit - len(row["prompt_ids"])
    return Item(row["prompt_ids"], [row["chosen_ids"][:room], row["rejected_ids"][:room]])


def cut(rows: Sequence[Mapping[str, Any]], batch: dict[str, Tensor], limit: int | None) -> dict[str, list[bool]]:
    """Which pairs have an answer cut at its end. The host has to know: no tensor, which would go to the device."""
    return {"cut": [limit is not None and pair_of(row).longest > limit for row in rows]}
