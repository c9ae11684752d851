"""Figures over seeds, how they are written with their n, and tables as a terminal shows them. Rates are in percent."""

import io
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from alignment.maths.statistics import Interval, difference_over_seeds, rate_over_seeds

FEW = 30
FEW_MARK = f"* fewer than {FEW}: the interval is wide, and one more or less moves the figure by percents"


def over_seeds(values: list[float], n: int | None, alone: Interval | None = None, difference: bool = False) -> dict:
    """The mean of rates over seeds with its interval, and the rates; of differences of rates if `difference`.

    n: the answers or pairs of each seed. alone: with a single seed, the interval over these.
    """
    if len(values) == 1 and alone is not None:
        interval = alone
    else:
        interval = difference_over_seeds(values) if difference else rate_over_seeds(values, n)
    return {**interval.summary, "n": n, "per_seed": values}


def counted(n: int | None) -> str:
    """n as tables have it, with a mark that FEW_MARK explains where it is small; nothing where it is not known."""
    return "" if n is None else f"{n:,}{'*' if n < FEW else ''}"


def few(*counts: int | None) -> str | None:
    """What the mark means, for the caption of a table that has one."""
    return FEW_MARK if any(n is not None and n < FEW for n in counts) else None


def percent(summary: dict, signed: bool = False) -> str:
    """A share in percent, with its interval if it has one."""
    return with_interval(summary["mean"], summary["ci95"], "+z.1f" if signed else "z.1f", "z.1f", scale=100)


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
        table.box, table.caption_justify = SIMPLE_HEAD, "left"
        for column in table.columns[1:]:
            column.justify = "right"
        console.print(table)
    return console.file.getvalue()
