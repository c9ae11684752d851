"""Figures over seeds, how they are written, and tables as a terminal shows them."""

import io
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from alignment.maths.statistics import t_interval


def over_seeds(values: list[float]) -> dict:
    """The mean of the values, Student's t interval of it, and the values themselves."""
    return {**t_interval(values).summary, "per_seed": values}


def percent(summary: dict, signed: bool = False) -> str:
    """A share in percent, with its interval if there are several seeds."""
    return with_interval(summary["mean"], summary["ci95"], "+.1f" if signed else ".1f", ".1f", scale=100)


def share(value: float | None) -> str:
    """A share in percent; nothing where it is not known."""
    return "" if value is None else f"{100 * value:.1f}"


def with_interval(
    value: float,
    ends: Sequence[float | None],
    form: str,
    form_of_ends: str | None = None,
    *,
    scale: float = 1,
    apart: str = "  ",
) -> str:
    """`x  [a, b]`, or x alone where there is no interval.

    form: how `number` writes the figure, and the ends unless they have a form of their own. apart: what parts the two.
    """
    figure = number(scale * value, form)
    return figure if None in ends else f"{figure}{apart}{interval(ends, form_of_ends or form, scale)}"


def interval(ends: Sequence[float], form: str, scale: float = 1) -> str:
    return f"[{', '.join(number(scale * end, form) for end in ends)}]"


def number(value: float, form: str) -> str:
    """The value as Python formats it; with a z in the form a zero has neither a minus, as in Python, nor a plus."""
    text = f"{value:{form}}"
    return text if "z" not in form or float(text) else text.lstrip("+")


def as_text(tables: list[Table]) -> str:
    """The tables as they are printed and kept in table.txt."""
    console = Console(file=io.StringIO(), width=120, color_system=None)
    for table in tables:
        table.box = SIMPLE_HEAD
        for column in table.columns[1:]:
            column.justify = "right"
        console.print(table)
    return console.file.getvalue()
