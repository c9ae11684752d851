"""The picture of a scorecard: every rate before and after, with its interval."""

import math
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt

from alignment.evaluation.vocabulary import METRICS
from alignment.reports.card import difference
from alignment.reports.pictures.reward_figures import STYLE, save
from alignment.reports.tables import with_interval

BEFORE, AFTERS = "#9aa5b1", ("#1f6f8b", "#c4702f", "#7a9e3c", "#8e5ea2")
ROW, HEADING = 0.30, 0.42  # inches


def draw_card(card: dict, path: Path) -> None:
    """A row for every set and judge, under a heading for every rate; at the right, what changed."""
    systems = [one["name"] for one in card["systems"]]
    groups = _groups(card)
    if not groups:
        return
    rows = sum(len(group) for group in groups.values())
    height = ROW * rows + HEADING * len(groups)
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(6.4, height + 0.7))
        figure.subplots_adjust(left=0, right=1, bottom=0.5 / (height + 0.7), top=1 - 0.2 / (height + 0.7))
        at = 0.0
        for metric, group in groups.items():
            at += HEADING
            axis.text(-0.42, at - 0.04, METRICS[metric].heading, transform=axis.get_yaxis_transform(), weight="bold")
            for (name, judge), numbers in group.items():
                at += ROW
                _draw_row(axis, at - ROW / 4, name, judge, numbers, systems)
                if len(systems) == 2:
                    _write_difference(axis, at - ROW / 4, difference(card, (metric, name, judge, None), systems[1]))
        axis.set_xlim(0, _most(groups))
        axis.set_ylim(at + ROW / 2, 0)
        axis.set_yticks([])
        axis.spines["left"].set_visible(False)
        axis.set_xlabel("%, with 95% intervals")
        axis.grid(axis="x", color="#e4e4e4")
        colours = (BEFORE, *AFTERS)
        for system, colour in zip(systems, colours, strict=False):
            axis.plot([], [], "o", color=colour, markersize=5, label=system)
        axis.legend(
            frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(systems), handletextpad=0.1,
            borderaxespad=0.2,
        )  # fmt: skip
        if len(systems) > 1:
            axis.text(1.03, 1.0, "difference", transform=axis.transAxes, color="#666666", va="bottom")
        save(figure, path)


def _most(groups: dict[str, dict]) -> float:
    """Where the axis ends: the tens above all that is drawn."""
    numbers = [one for group in groups.values() for row in group.values() for one in row.values()]
    return 10 * math.ceil(10 * max(one["interval"][1] for one in numbers) - 1e-9)


def _groups(card: dict) -> dict[str, dict[tuple[str, str | None], dict[str, dict]]]:
    """metric -> (set, judge) -> system -> number."""
    found: dict[str, dict] = {}
    for name, metric in METRICS.items():
        for one in card["numbers"]:
            if one["metric"] == name and metric.heading and one["category"] is None:
                found.setdefault(name, {}).setdefault((one["set"], one["judge"]), {})[one["system"]] = one
    return found


def _draw_row(
    axis: plt.Axes, at: float, name: str, judge: str | None, numbers: dict[str, dict], systems: list[str]
) -> None:
    across = axis.get_yaxis_transform()
    axis.text(-0.40, at, name.replace("_", " "), transform=across, va="center")
    n = next(iter(numbers.values()))["n"]
    what = f"n = {n:,}" if judge is None else f"{judge.replace('_', ' ')}, n = {n:,}"
    axis.text(-0.02, at, what, transform=across, va="center", ha="right", color="#888888", fontsize=7.5)
    apart = np.linspace(-0.06, 0.06, len(systems)) if len(systems) > 1 else [0.0]
    for system, colour, shift in zip(systems, (BEFORE, *AFTERS), apart, strict=False):
        if system not in numbers:
            continue
        one = numbers[system]
        low, high = (100 * end for end in one["interval"])
        axis.plot([low, high], [at + shift] * 2, color=colour, linewidth=1.6, solid_capstyle="butt", alpha=0.7)
        axis.plot(100 * one["value"], at + shift, "o", color=colour, markersize=5, clip_on=False, zorder=3)


def _write_difference(axis: plt.Axes, at: float, change: dict | None) -> None:
    """In bold where its interval leaves 0 out."""
    if change is None:
        return
    low, high = change["interval"]
    sure = low > 0 or high < 0
    text = with_interval(change["value"], (low, high), "+.1f" if change["value"] else "z.1f", ".1f", scale=100)
    text = text.replace("-", "\N{MINUS SIGN}")
    axis.text(
        1.03, at, text, transform=axis.get_yaxis_transform(), va="center", fontsize=8,
        weight="bold" if sure else "normal", color="#222222" if sure else "#666666",
    )  # fmt: skip
