"""Columns of numbers and words as compressed bytes, which the page's script reads into typed arrays.

A block is zlib's, in base64: letters that can't end a script element. Numbers are float32 whose last bits are rounded
away, byte plane by byte plane: two bytes a number are left after compression, and four digits.
"""

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

ROUNDED = 9  # of 23 bits after the point: what stays differs by at most 1 in 30,000
MOST_WORDS = 1 << 16


def packed(content: bytes) -> str:
    """Bytes as the text of a data block."""
    return base64.b64encode(zlib.compress(content, 6)).decode("ascii")


def packed_json(content: Any) -> str:
    """A value as the text of a data block."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return packed(text.encode("utf-8", errors="replace"))


def packed_columns(
    numbers: Mapping[str, np.ndarray], words: Mapping[str, Sequence[str | None]], ids: Sequence[str]
) -> str:
    """A table as a data block: the length of its head, the head in JSON, then the bytes of each column in order.

    numbers: NaN where one is unknown. words: columns of few distinct values, coded by their place in a list; 0: none.
    """
    columns, body = [], []
    for name, values in numbers.items():
        columns.append({"name": name, "kind": "number"})
        body.append(_planes(_rounded(np.asarray(values, dtype=np.float32))))
    for name, values in words.items():
        known = sorted({value for value in values if value is not None})
        if len(known) >= MOST_WORDS:  # as good as one for each row: nobody filters by them
            continue
        codes = {None: 0, **{word: place for place, word in enumerate(known, 1)}}
        columns.append({"name": name, "kind": "word", "words": known})
        body.append(_planes(np.array([codes[value] for value in values], dtype="<u2")))
    head = {"rows": len(ids), "columns": columns, "ids": list(ids)}
    text = json.dumps(head, ensure_ascii=False, separators=(",", ":")).encode("utf-8", errors="replace")
    return packed(len(text).to_bytes(4, "little") + text + b"".join(body))


def _rounded(values: np.ndarray) -> np.ndarray:
    """float32 with the last bits zero, to the nearest; NaN stays what it is."""
    bits = values.astype("<f4").view("<u4")
    half, mask = np.uint32(1 << (ROUNDED - 1)), np.uint32(0xFFFFFFFF << ROUNDED & 0xFFFFFFFF)
    return np.where(np.isfinite(values), (bits + half) & mask, np.uint32(0x7FC00000)).astype("<u4")


def _planes(values: np.ndarray) -> bytes:
    """All first bytes, then all second ones and so on: alike bytes lie together."""
    return values.reshape(-1, 1).view(np.uint8).T.tobytes()
