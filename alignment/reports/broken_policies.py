"""How sound the answers of each policy are, and which policies are broken and why (evaluation/soundness.py)."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from rich.table import Table
from rich.text import Text

from alignment.reports.markdown import escaped
from alignment.reports.tables import share

WORDS = {
    "empty": "{value:.0%} of its answers are empty (more than {limit:.0%})",
    "unfinished": "{value:.0%} of its answers don't end (more than {limit:.0%})",
    "repeating": "{value:.0%} of its answers repeat themselves (more than {limit:.0%})",
    "odd": "{value:.0%} of its answers are nonsense to the untouched model (more than {limit:.0%})",
    "displaced": "the answers it was to learn lost {lost:.1f} nats a token (more than {most:.1f})",
}


def soundness_table(rows: Sequence[Mapping]) -> Table:
    """A row for each system, of all its seeds; below it why it is broken, if it is."""
    heads = ("words", "repetition, %", "empty, %", "cut off, %", "repeating, %", "odd, %", "chosen, nats a token")
    table = Table("how sound the answers are", "n", *heads)
    for system, own in _by_system(rows).items():
        means = {name: _mean(own, name) for name in own[0] if name not in ("system", "broken")}
        moved = means["chosen_log_ratio"]
        table.add_row(
            Text(system), f"{sum(row['answers'] for row in own):,}", f"{means['words']:.1f}",
            *(share(means[name]) for name in ("repetition", "empty", "unfinished", "repeating", "odd")),
            "" if moved is None else f"{moved:+.2f}",
        )  # fmt: skip
    table.caption = Text("\n".join(broken_lines(rows))) if broken_lines(rows) else None
    return table


def broken_lines(rows: Sequence[Mapping]) -> list[str]:
    """A line for every broken policy."""
    several = len({row["seed"] for row in rows}) > 1
    lines = []
    for row in rows:
        if row["broken"]:
            policy = f"{row['system']}, seed {row['seed']}" if several else row["system"]
            lines.append(f"BROKEN: {policy}: {'; '.join(map(_in_words, row['broken']))}")
    return lines


def broken_markdown(rows: Sequence[Mapping]) -> list[str]:
    """The same lines for a card, each a paragraph."""
    return [part for line in broken_lines(rows) for part in (f"**{escaped(line)}.**", "")]


def _in_words(reason: Mapping) -> str:
    numbers = {"lost": -reason["value"], "most": -reason["limit"]}
    return WORDS[reason["reason"]].format(value=reason["value"], limit=reason["limit"], **numbers)


def _by_system(rows: Sequence[Mapping]) -> dict[str, list[Mapping]]:
    return {name: [row for row in rows if row["system"] == name] for name in dict.fromkeys(r["system"] for r in rows)}


def _mean(rows: Sequence[Mapping], name: str) -> float | None:
    known = [row[name] for row in rows if row[name] is not None]
    return fmean(known) if known else None
