"""A scorecard to look at: the table of a terminal, and a model card's in Markdown."""

import re

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from alignment.data.rewardbench import SECTIONS
from alignment.evaluation.vocabulary import METRICS
from alignment.reports.tables import with_interval

SMALL_P = 0.001
QUIET = f"{METRICS['unparsed'].says}, %"  # in the table only where there are any


def card_tables(card: dict) -> list[Table]:
    """A table for every system that is compared with the first; whole sets only, categories are in the file."""
    before, *later = (one["name"] for one in card["systems"])
    tables = [_table(card, before, after) for after in later] or [_table(card, before, None)]
    if card["sections"]:
        heads, *rows = _section_cells(card["sections"])
        tables.append(Table(*heads, box=SIMPLE_HEAD))
        for name, *cells in rows:
            tables[-1].add_row(Text(name), *cells)
    if card["gates"]:
        tables.append(_gate_table(card["gates"]))
    return tables


def _table(card: dict, before: str, after: str | None) -> Table:
    heads = [before] if after is None else [before, after, "difference", "p"]
    table = Table("scorecard", "n", *heads, box=SIMPLE_HEAD)
    for title, group in _rows(card, before, after).items():
        if group[0][0] == QUIET and all(cell.startswith("0.0 ") for row in group for cell in row[4:6]):
            continue  # nothing to say
        table.add_row(Text(title))
        for _, name, judge, *cells in group:
            table.add_row(Text(f"  {name}" + (f" by {judge}" if judge else "")), *cells)
    return table


def _rows(card: dict, before: str, after: str | None, categories: bool = False) -> dict[str, list[list[str]]]:
    """By metric: what it is, set, judge, n, and the figures as they are printed."""
    found: dict[str, list[list[str]]] = {}
    for key, one in _entries(card, categories).items():
        metric, name, judge, category = key
        mine = [one.get(system) for system in (before, after)]
        if not any(mine):
            mine = [next(iter(one.values())), None]  # a reward model, of which there is one
        rate, says = METRICS[metric].rate, METRICS[metric].says
        change = difference(card, key, after)
        if METRICS[metric].alone:
            says, category = f"{says} {category}", None
        n = next(entry for entry in mine if entry)["n"] if change is None else change["n"]
        where = name if category is None else f"{name}: {category}"
        cells = [f"{says}{', %' if rate else ''}", where, judge or "", f"{n:,}"]
        cells += [_figure(entry, rate) for entry in (mine if after else mine[:1])]
        if after is not None:
            cells += ["", ""] if change is None else [_figure(change, rate, True), _p(change)]
        found.setdefault(cells[0], []).append(cells)
    return found


def _entries(card: dict, categories: bool) -> dict[tuple, dict[str, dict]]:
    """(metric, set, judge, category) -> system -> number."""
    found: dict[tuple, dict[str, dict]] = {}
    for one in card["numbers"]:
        part = one["category"] is not None and not METRICS[one["metric"]].alone
        if part == categories:
            key = one["metric"], one["set"], one["judge"], one["category"]
            found.setdefault(key, {})[one["system"]] = one
    return found


def difference(card: dict, key: tuple, after: str | None) -> dict | None:
    """How a number (metric, set, judge, category) of a system differs from that of the first."""
    for one in card["differences"]:
        if (one["metric"], one["set"], one["judge"], one["category"]) == key and one["system"] == after:
            return one
    return None


def _figure(entry: dict | None, rate: bool, signed: bool = False) -> str:
    if entry is None:
        return ""
    form = ("+" if signed else "") + ("z.1f" if rate else "z.2f")
    return with_interval(entry["value"], entry["interval"], form, scale=100 if rate else 1, apart=" ")


def _p(difference: dict) -> str:
    p = difference.get("mcnemar_p")
    if p is None:
        return ""
    return f"<{SMALL_P:g}" if p < SMALL_P else f"{p:.3f}"


def _section_cells(sections: list[dict]) -> list[list[str]]:
    """Heads and rows. The score is of all four sections, or there is none."""
    return [["pairs ranked right, %", *SECTIONS, "score"]] + [
        [one["set"], *(_share(one["sections"].get(name)) for name in SECTIONS), _share(one["score"])]
        for one in sections
    ]


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _gate_table(gates: list[dict]) -> Table:
    table = Table("gate", "set", "judge", "limit", "measured", "", box=SIMPLE_HEAD)
    for one in gates:
        *names, limit, value = _gate_cells(one)
        table.add_row(*map(Text, names), limit, value, "held" if one["passed"] else "MISSED")  # of files: no markup
    return table


def _gate_cells(gate: dict) -> list[str]:
    names = [gate[key] or "" for key in ("gate", "set", "judge")]
    return [*names, f"{gate['limit']:g}", "not measured" if gate["value"] is None else f"{gate['value']:.4g}"]


# ---- Markdown -------------------------------------------------------------------------------------------------------


def card_markdown(card: dict) -> str:
    """For a model's README: figures, and what they were measured with."""
    before, *later = (one["name"] for one in card["systems"])
    models = "; ".join(f"{one['name']}: {_escaped(one['model'])}" for one in card["systems"])
    lines = ["# Scorecard", "", f"{models[0].upper()}{models[1:]}.", ""]
    for after in later or [None]:
        lines += _markdown_table(_rows(card, before, after), before, after)
        if by_category := _rows(card, before, after, categories=True):
            lines += ["", "By category:", "", *_markdown_table(by_category, before, after)]
    if card["sections"]:
        heads, *rows = _section_cells(card["sections"])
        lines += ["", "RewardBench's sections:", "", _line(heads), "|" + "---|" * len(heads)]
        lines += [_line([_escaped(name), *cells]) for name, *cells in rows]
    lines += ["", "## How it was measured", ""]
    lines += [f"- {name}: {_settings(settings)}" for name, settings in card["decoding"].items()]
    for name, record in card["judges"].items():
        lines.append(f"- judge {name}: {_settings({key: value for key, value in record.items() if key != 'judge'})}")
    lines += [f"- set {_escaped(name)}: {_settings(counts)}" for name, counts in card["sets"].items()]
    lines += [
        "- Intervals are 95%: Wilson's of rates; of differences, a bootstrap over prompts. p: McNemar's exact test.",
        "- A difference pairs the answers of both models to the same prompt, drawn with the same noise.",
        "- Of twenty differences that are none, one has an interval that leaves 0 out: there are many categories.",
    ]
    if card["gates"]:
        lines += ["", "| gate | set | judge | limit | measured | |", "|---|---|---|---|---|---|"]
        for one in card["gates"]:
            *names, limit, value = _gate_cells(one)
            verdict = "held" if one["passed"] else "**missed**"
            lines.append(_line([*map(_escaped, names), limit, value, verdict]))
    return "\n".join(lines) + "\n"


def _markdown_table(groups: dict[str, list[list[str]]], before: str, after: str | None) -> list[str]:
    heads = ["", "set", "judge", "n", before, *([] if after is None else [after, "difference", "p"])]
    rows = [[*map(_escaped, cells[:3]), *cells[3:]] for group in groups.values() for cells in group]
    return [_line(heads), "|" + "---|" * len(heads), *(_line(cells) for cells in rows)]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escaped(text: str) -> str:
    """Text in data is text: it ends no cell, and begins no tag, link, picture or code."""
    text = re.sub(r"([\\|`*\[\]!])", r"\\\1", " ".join(text.split()))
    return text.replace("<", "&lt;").replace("://", "&#58;//")


def _settings(settings: dict) -> str:
    return _escaped(", ".join(f"{key} {_plain(value)}" for key, value in settings.items()))


def _plain(value: object) -> str:
    return "none" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)
