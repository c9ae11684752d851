"""Figures over seeds, and tables as a terminal shows them."""

import io
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from alignment.maths.statistics import t_interval


def over_seeds(values: list[float]) -> dict:
    """Mean, Student's t interval and the values themselves."""
    return {**t_interval(values).summary, "per_seed": values}


def percent(summary: dict, signed: bool = False) -> str:
    """A share, with its interval if there are several seeds."""
    return with_interval(summary["mean"], summary["ci95"], "+.1f" if signed else ".1f", ".1f", scale=100)


def with_interval(
    value: float,
    ends: Sequence[float | None],
    form: str,
    form_of_ends: str | None = None,
    *,
    scale: float = 1,
    apart: str = "  ",
) -> str:
    """`x  [a, b]`, or x alone where there is no interval. form: of the figure, and of the ends if they have no other;
    see `number`."""
    written = number(scale * value, form)
    return written if None in ends else f"{written}{apart}{interval(ends, form_of_ends or form, scale)}"


def interval(ends: Sequence[float], form: str, scale: float = 1) -> str:
    return f"[{', '.join(number(scale * end, form) for end in ends)}]"


def number(value: float, form: str) -> str:
    """As Python's format writes it. With a z in the form a zero has no sign: no minus, as in Python, and no plus."""
    written = f"{value:{form}}"
    return written if "z" not in form or float(written) else written.lstrip("+")


def as_text(tables: list[Table]) -> str:
    """As they are printed, and kept in table.txt."""
    console = Console(file=io.StringIO(), width=120, color_system=None)
    for table in tables:
        for column in table.columns[1:]:
            column.justify = "right"
        console.print(table)
    return console.file.getvalue()
