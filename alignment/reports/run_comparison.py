"""The report of stage compare_runs: a row for each run, and what later ones changed where both can be paired."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from alignment.reports.tables import counted, few, percent


def comparison(found: Mapping[str, Any]) -> dict:
    """What report.json has of it."""
    return {name: found[name] for name in ("runs", "reward_models", "notes")}


def by_figure(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, tuple[str, int | None]]]:
    """Of each headline figure what the runs that have it say: the figure as it is written, and n."""
    figures: dict[str, dict[str, tuple[str, int | None]]] = {}
    for run in runs:
        for figure, text, n in run["figures"]:
            figures.setdefault(figure, {})[run["name"]] = text, n
    return figures


def comparison_tables(report: Mapping[str, Any]) -> list[Table]:
    """A row for each headline figure and a column for each run; and the paired gains of reward models."""
    table = Table("figure (n)")
    for run in report["runs"]:
        table.add_column(Text(run["name"]))
    for figure, of_runs in by_figure(report["runs"]).items():
        cells = (of_runs.get(run["name"], ("", None)) for run in report["runs"])
        table.add_row(Text(figure), *(f"{text} ({counted(n)})" if n is not None else text for text, n in cells))
    table.caption = Text("\n".join(report["notes"])) if report["notes"] else None
    tables = [table]
    if report["reward_models"]:
        gains = Table("unseen pairs ranked right, points", "margins", "n", "more, paired by pair and seed")
        for one in report["reward_models"]:
            compared = Text(f"{one['after']} against {one['before']}")
            gains.add_row(compared, one["margins"], counted(one["n"]), percent(one, signed=True))
        gains.caption = few(*(one["n"] for one in report["reward_models"]))
        tables.append(gains)
    return tables
