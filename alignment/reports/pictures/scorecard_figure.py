"""The picture of a scorecard: every rate before and after, with its interval."""

import math
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt

from alignment.evaluation.vocabulary import METRICS
from alignment.reports.card import difference
from alignment.reports.pictures.reward_figures import note, picture
from alignment.reports.tables import FEW, counted, with_interval

COLOURS = ("#9aa5b1", "#1f6f8b", "#c4702f", "#7a9e3c", "#8e5ea2")  # of the first system and those compared with it
ROW, HEADING = 0.30, 0.42  # inches


def draw_card(card: dict, path: Path) -> None:
    """A row for every set and judge, under a heading for every rate, with the difference at the right."""
    systems = [system["name"] for system in card["systems"]]
    groups = _groups(card)
    if not groups:
        return
    rows = sum(len(group) for group in groups.values())
    height = ROW * rows + HEADING * len(groups) + 0.7
    with picture(path, figsize=(6.4, height)) as axis:
        axis.figure.subplots_adjust(left=0, right=1, bottom=0.5 / height, top=1 - 0.2 / height)
        at = 0.0
        for metric, group in groups.items():
            at += HEADING
            axis.text(-0.42, at - 0.04, METRICS[metric].heading, transform=axis.get_yaxis_transform(), weight="bold")
            for (name, judge), numbers in group.items():
                at += ROW
                _draw_row(axis, at - ROW / 4, name, judge, numbers, systems)
                if len(systems) == 2:
                    _write_difference(axis, at - ROW / 4, difference(card, (metric, name, judge, None), systems[1]))
        axis.set_xlim(0, _right_end(groups))
        axis.set_ylim(at + ROW / 2, 0)
        axis.set_yticks([])
        axis.spines["left"].set_visible(False)
        axis.set_xlabel("%")
        few = any(number["n"] < FEW for rows in groups.values() for row in rows.values() for number in row.values())
        bold = "; bold: the interval of the difference leaves 0 out" if len(systems) == 2 else ""
        note(axis, f"bars: 95% intervals{bold}{f'; *: fewer than {FEW} answers' if few else ''}")
        axis.grid(axis="x", color="#e4e4e4")
        for system, colour in zip(systems, COLOURS, strict=False):
            axis.plot([], [], "o", color=colour, markersize=5, label=system)
        axis.legend(
            frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(systems), handletextpad=0.1,
            borderaxespad=0.2,
        )  # fmt: skip
        if len(systems) > 1:
            axis.text(1.03, 1.0, "difference", transform=axis.transAxes, color="#666666", va="bottom")


def _right_end(groups: dict[str, dict]) -> float:
    """Where the axis ends: the next ten percent above all that is drawn."""
    numbers = [number for rows in groups.values() for row in rows.values() for number in row.values()]
    ends = [number["value"] if number["interval"][1] is None else number["interval"][1] for number in numbers]
    return max(10, 10 * math.ceil(10 * max(ends) - 1e-9))


def _groups(card: dict) -> dict[str, dict[tuple[str, str | None], dict[str, dict]]]:
    """The numbers by metric, then by (set, judge), then by system."""
    groups: dict[str, dict] = {}
    for name, metric in METRICS.items():
        for number in card["numbers"]:
            if number["metric"] == name and metric.heading and number["category"] is None:
                row = groups.setdefault(name, {}).setdefault((number["set"], number["judge"]), {})
                row[number["system"]] = number
    return groups


def _draw_row(
    axis: plt.Axes, at: float, name: str, judge: str | None, numbers: dict[str, dict], systems: list[str]
) -> None:
    across = axis.get_yaxis_transform()
    axis.text(-0.40, at, name.replace("_", " "), transform=across, va="center")
    n = f"n = {counted(next(iter(numbers.values()))['n'])}"
    count = n if judge is None else f"{judge.replace('_', ' ')}, {n}"
    axis.text(-0.02, at, count, transform=across, va="center", ha="right", color="#888888", fontsize=7.5)
    shifts = np.linspace(-0.06, 0.06, len(systems)) if len(systems) > 1 else [0.0]
    for system, colour, shift in zip(systems, COLOURS, shifts, strict=False):
        if system in numbers:
            value, ends = numbers[system]["value"], numbers[system]["interval"]
            interval = [100 * end for end in ends if end is not None]
            line = {"color": colour, "linewidth": 1.6, "solid_capstyle": "butt", "alpha": 0.7}
            axis.plot(interval, [at + shift] * len(interval), **line)
            axis.plot(100 * value, at + shift, "o", color=colour, markersize=5, clip_on=False, zorder=3)


def _write_difference(axis: plt.Axes, at: float, change: dict | None) -> None:
    """Writes a difference, in bold where its interval leaves 0 out."""
    if change is None:
        return
    low, high = change["interval"]
    sure = low is not None and (low > 0 or high < 0)
    text = with_interval(change["value"], (low, high), "+.1f" if change["value"] else "z.1f", ".1f", scale=100)
    text = text.replace("-", "\N{MINUS SIGN}")
    axis.text(
        1.03, at, text, transform=axis.get_yaxis_transform(), va="center", fontsize=8,
        weight="bold" if sure else "normal", color="#222222" if sure else "#666666",
    )  # fmt: skip
