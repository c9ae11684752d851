"""Text and tables of Markdown. What stands in data is shown, and is never markup."""

import re
from collections.abc import Sequence


def escaped(text: str) -> str:
    """The text in one line, none of whose characters ends a cell or begins a tag, link, picture or code."""
    text = re.sub(r"([\\|`*\[\]!])", r"\\\1", " ".join(text.split()))
    return text.replace("<", "&lt;").replace("://", "&#58;//")


def quoted(text: str) -> str:
    """What a model or a person wrote, as `escaped`; nor does it begin emphasis, a formula, an entity or a mention."""
    text = escaped(text.replace("&", "&amp;")).replace("www.", "www&#46;").replace("@", "&#64;")
    return re.sub(r"([_~$])", r"\\\1", text)


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]], named: int) -> list[str]:
    """The lines of a table. The first `named` cells of a row are names, whose characters mean nothing in Markdown."""
    rows = [[*map(escaped, cells[:named]), *cells[named:]] for cells in rows]
    lines = [f"| {' | '.join(cells)} |" for cells in [heads, *rows]]
    return [lines[0], "|" + "---|" * len(heads), *lines[1:]]
