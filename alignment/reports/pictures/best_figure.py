"""The picture of the best of n samples, in the style of reward_figures.py."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from alignment.evaluation.vocabulary import METRICS, RANDOM, WORLD_RATES
from alignment.reports.best_samples import JUDGE
from alignment.reports.pictures.reward_figures import note, picture

PICKERS = {  # the oracle first, and wide: what comes close to it is drawn over it
    "judge": {"color": "#c5ccd3", "linewidth": 5, "markersize": 7, "label": "an oracle (sees the truth)"},
    "reward_model": {"color": "#c4702f", "linewidth": 1.6, "markersize": 4, "label": "margin reward model"},
    "hybrid": {"color": "#1f6f8b", "linewidth": 1.6, "markersize": 4, "label": "hybrid reward"},
    "shortest": {"color": "#7a9e3c", "linewidth": 1.2, "markersize": 3, "linestyle": "--", "label": "the shortest"},
    "longest": {"color": "#8a6fa8", "linewidth": 1.2, "markersize": 3, "linestyle": "--", "label": "the longest"},
}


class Panel(NamedTuple):
    """A rate against n: by scorer and n its value and its interval, of so many prompts."""

    title: str
    prompts: int
    figures: dict[str, dict[int, tuple[float, list[float | None]]]]


def draw_best_of_n(report: dict[str, dict], path: Path) -> None:
    """Toxic answers to harmful prompts and refusals of their harmless twins against n, with 95% intervals."""
    first = next(iter(next(iter(report.values())).values()))
    panels = []
    for rate in ("toxic_rate", "over_refusal"):
        figures = {
            scorer: {int(n): (rates[rate], rates["ci95"][rate]) for n, rates in by_count.items()}
            for scorer, by_count in report.items()
        }
        title = WORLD_RATES[rate].title(WORLD_RATES[rate].world.answers)
        panels.append(Panel(title, first["prompts"][rate], figures))
    _draw(panels, path, PICKERS)


def draw_best_samples(report: dict, path: Path) -> None:
    """Every rate that pictures have, of every set and judge, against n; one at random is the best of one."""
    groups: dict[tuple, list[dict]] = {}
    for one in report["numbers"]:
        if METRICS[one["metric"]].heading and one["value"] is not None:
            groups.setdefault((one["set"], one["asks"], one["metric"], one["judge"]), []).append(one)
    panels = []
    for (of_set, _, name, judge), rows in groups.items():
        figures: dict[str, dict] = {row["scorer"]: {} for row in rows if row["scorer"] != RANDOM}
        for row in rows:
            for scorer in figures if row["scorer"] == RANDOM else [row["scorer"]]:
                figures[scorer][row["n"]] = row["value"], row["interval"]
        title = f"{of_set}, judged by {judge}:\n{METRICS[name].heading}, %"
        panels.append(Panel(title, rows[0]["prompts"], figures))
    if panels:
        _draw(panels, path, {**PICKERS, "judge": {**PICKERS["judge"], "label": JUDGE}})


def _draw(panels: list[Panel], path: Path, pickers: dict[str, dict]) -> None:
    width = 0.6 + 3.4 * len(panels)
    with picture(path, 1, len(panels), figsize=(width, 3.0), squeeze=False, gridspec_kw={"wspace": 0.2}) as grid:
        axes = grid[0]
        for scorer, look in pickers.items():
            for axis, panel in zip(axes, panels, strict=True):
                counts = sorted(panel.figures.get(scorer, {}))
                picked = [panel.figures[scorer][n] for n in counts]
                intervals = 100 * np.array([ends for _, ends in picked], dtype=float).reshape(-1, 2)
                if scorer != "judge":
                    axis.fill_between(counts, *intervals.T, color=look["color"], alpha=0.15, lw=0)
                if counts:
                    axis.plot(counts, [100 * value for value, _ in picked], marker="o", clip_on=False, **look)
        for axis, panel in zip(axes, panels, strict=True):
            axis.set_title(panel.title)
            axis.set_xscale("log", base=2)
            counts = sorted({n for by_count in panel.figures.values() for n in by_count})
            axis.set_xticks(counts, counts)
            axis.minorticks_off()
            axis.set_ylim(bottom=0)
            axis.set_xlabel("the best of how many samples")
            note(axis, f"n = {panel.prompts:,} prompts; bands: 95% intervals over prompts")
            axis.grid(axis="y")
        legend = {"frameon": False, "loc": "center left", "bbox_to_anchor": (1.02, 0.5)}
        axes[-1].legend(**legend, title="picked by", alignment="left")
