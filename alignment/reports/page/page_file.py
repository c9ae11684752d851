"""Writes the page: one HTML file with its script, style and data inside, and files beside it for what has no room.

Nothing of a run is markup or script in it: all data are blocks of base64, and the script writes them as text. The
page's policy allows its own script and style alone, by their hashes, and no request to anywhere.
"""

import base64
import hashlib
import html
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from alignment.reports.page.packed_columns import packed_columns, packed_json
from alignment.reports.page.page_pairs import NUMBERS, WORDS, ExploredPairs
from alignment.runs.artifacts import atomic_file

SCRIPTS = (
    "text", "blocks", "texts", "flags", "address", "fields", "filters", "search", "charts", "distributions", "figures",
    "summary", "list", "differences", "pair", "explorer", "answers", "configuration", "keys", "start",
)  # fmt: skip
INSIDE = 10_000  # pairs whose texts are in the page itself; a tenth of them by chance, the others the most doubtful
ROOM = 5_000_000  # bytes that these texts may take
PART = 10_000  # pairs of a file beside the page
TRIED = 250  # pairs that are packed at a time, to see how many there is room for
OUTSIDE = "<!-- outside -->"  # where the page at the top of a run's folder has what isn't part of a stage's result


def write_page(
    path: Path, content: Mapping[str, Any], pairs: ExploredPairs | None, answers: Mapping[str, Any] | None
) -> None:
    """The page, and beside it pairs-1.js and so on for the texts of pairs that it has no room for.

    content: what page_content.py gathers; what the page holds of pairs and answers is added to it.
    """
    blocks, parts = {}, {}
    told = dict(content)
    if pairs is not None:
        inside, others = _inside(pairs)
        parts = {f"pairs-{n}.js": rows for n, rows in enumerate(_chunks(others, PART), 1)}
        part = np.zeros(len(pairs.ids))
        for number, rows in enumerate(parts.values(), 1):
            part[rows] = number
        blocks["pairs"] = packed_columns({**pairs.numbers, "part": part}, pairs.words, pairs.ids)
        blocks["texts"] = _texts(pairs, inside)
        meanings = {**NUMBERS, **WORDS}
        told["pairs"] = {
            "fields": {name: meanings[name] for name in (*pairs.numbers, *pairs.words)},
            "files": pairs.files,
            "parts": len(parts),
            "key": hashlib.sha256(blocks["pairs"].encode()).hexdigest()[:16],
        }
    if answers is not None:
        blocks["answers"] = packed_json(answers)
    blocks["run"] = packed_json(told)
    for name, rows in parts.items():
        with atomic_file(path.parent / name) as file:
            file.write_text(f'repalignTexts("{name}","{_texts(pairs, rows)}")\n', encoding="ascii")
    with atomic_file(path) as file:
        file.write_text(page_text(content["recipe"], blocks), encoding="utf-8")


def with_outside(page: str, outside: Mapping[str, Any]) -> str:
    """The page with what isn't a stage's result: the seconds that stages took, the settings as they were composed."""
    return page.replace(OUTSIDE, _block("outside", packed_json(outside)), 1)


def page_text(title: str, blocks: Mapping[str, str]) -> str:
    """The whole file. blocks: data by name, as packed_columns.py writes them."""
    files = resources.files(__package__)
    style = (files / "page.css").read_text(encoding="utf-8")
    search, licence = (
        (files / "vendor" / f"uFuzzy.{end}").read_text(encoding="utf-8") for end in ("min.js", "LICENSE")
    )
    own = "\n".join((files / "script" / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS)
    script = f'/*\n{licence}*/\n{search}\n(() => {{\n"use strict";\n{own}\n}})();\n'
    policy = f"script-src 'strict-dynamic' '{_hash(script)}'; style-src '{_hash(style)}'"
    page = (files / "page.html").read_text(encoding="utf-8")
    filled = {
        "policy": f"default-src 'none'; {policy}; img-src data:; base-uri 'none'; form-action 'none'",
        "title": html.escape(title),
        "heading": html.escape(title),
        "style": style,
        "blocks": "\n".join(_block(name, block) for name, block in blocks.items()),
        "script": script,
    }
    for name, text in filled.items():
        page = page.replace(f"<!--{name}-->", text, 1)
    return page


def _hash(text: str) -> str:
    """As a policy names what it allows."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"


def _block(name: str, content: str) -> str:
    return f'<script type="text/plain" id="data-{name}">{content}</script>'


def _texts(pairs: ExploredPairs, rows: Sequence[int]) -> str:
    """Texts as a data block: rows, and of each its prompt and both answers."""
    return packed_json({"rows": list(rows), "texts": pairs.texts(rows)})


def _inside(pairs: ExploredPairs) -> tuple[list[int], list[int]]:
    """The rows whose texts the page has room for, and the others, both in the order in which they are worth a look."""
    order = pairs.doubtful_first().tolist()
    if len(order) > INSIDE:
        by_chance = set(np.random.default_rng(0).permutation(len(order))[: INSIDE // 10].tolist())
        first = [row for row in order if row not in by_chance][: INSIDE - len(by_chance)]
        wanted = [
            row for pair in zip(_chunks(first, 9), sorted(by_chance), strict=False) for row in (*pair[0], pair[1])
        ]
    else:
        wanted = order
    taken, room = 0, ROOM
    while taken < len(wanted):
        some = wanted[taken : taken + TRIED]
        room -= len(_texts(pairs, some))
        if room < 0:
            break
        taken += len(some)
    inside = set(wanted[:taken])
    return wanted[:taken], [row for row in order if row not in inside]


def _chunks(rows: list[int], size: int) -> list[list[int]]:
    return [rows[first : first + size] for first in range(0, len(rows), size)]
