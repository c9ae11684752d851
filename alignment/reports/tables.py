"""Figures over seeds, and tables as a terminal shows them."""

import io

from rich.console import Console
from rich.table import Table

from alignment.maths.statistics import t_interval


def over_seeds(values: list[float]) -> dict:
    """Mean, Student's t interval and the values themselves."""
    interval = t_interval(values)
    return {"mean": interval.mean, "ci95": [interval.low, interval.high], "per_seed": values}


def percent(summary: dict, signed: bool = False) -> str:
    """A share, with its interval if there are several seeds."""
    mean = f"{100 * summary['mean']:{'+' if signed else ''}.1f}"
    low, high = summary["ci95"]
    return mean if low is None else f"{mean}  [{100 * low:.1f}, {100 * high:.1f}]"


def as_text(tables: list[Table]) -> str:
    """As they are printed, and kept in table.txt."""
    console = Console(file=io.StringIO(), width=120, color_system=None)
    for table in tables:
        for column in table.columns[1:]:
            column.justify = "right"
        console.print(table)
    return console.file.getvalue()
