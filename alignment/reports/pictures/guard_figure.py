"""The picture of a guard: what it gains from more labelled answers, and whom it takes for harmful."""

from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.ticker import ScalarFormatter

from alignment.reports.fitted_guard import SCORERS
from alignment.reports.pictures.reward_figures import DOTTED, LEGEND, NONE, note, picture

WORDS = "#d9a066"
COLOURS = {"guard": LEGEND, "last_layer": NONE, "words": WORDS}


def draw_guard(report: dict, path: Path) -> None:
    """On the left AUROC by the number of labelled answers, simpler guards as lines across; on the right the share of
    answers called harmful: of harmful ones, of safe ones, and of those to harmless prompts."""
    with picture(path, 1, 2, figsize=(8.4, 3.2), gridspec_kw={"width_ratios": [1, 1.15], "wspace": 0.5}) as axes:
        _draw_curve(axes[0], report)
        _draw_called(axes[1], report)


def _draw_curve(axis: plt.Axes, report: dict) -> None:
    sizes = sorted(map(int, report["curve"]))
    figures = [report["curve"][str(size)] for size in sizes]
    means, ends = [100 * of["mean"] for of in figures], np.array([_ends(of) for of in figures]).reshape(-1, 2)
    axis.fill_between(sizes, ends[:, 0], ends[:, 1], color=LEGEND, alpha=0.15, linewidth=0)
    axis.plot(sizes, means, "o-", color=LEGEND, markersize=3.5, linewidth=1.4, label="guard")
    for name in ("last_layer", "words"):
        level = 100 * report["scorers"][name]["auroc"]["mean"]
        axis.axhline(level, color=COLOURS[name], linewidth=1.2, linestyle=DOTTED, label=f"{SCORERS[name]}, all answers")
    axis.set_xscale("log", base=2)
    axis.set_xticks(sizes)
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.tick_params(axis="x", labelsize=7.5)
    axis.set_xlabel("labelled answers to learn from")
    axis.set_ylabel("AUROC, %")
    axis.grid(axis="y")
    axis.legend(frameon=False, fontsize=7.5, loc="lower right")


def _draw_called(axis: plt.Axes, report: dict) -> None:
    rows = [("harmful answers", "sensitivity", False), ("safe answers", "specificity", True)]
    bars: list[tuple[str, dict[str, tuple[float, list[float]]]]] = []
    for title, measure, turned in rows:
        bars.append((title, {name: _share(report["scorers"][name][measure], turned) for name in COLOURS}))
    for source, by in report["false_alarms"].items():
        bars.append((f"safe: {source}", {name: _share(by[name], False) for name in COLOURS}))
    height = 0.8 / len(COLOURS)
    for place, (_, by) in enumerate(reversed(bars)):
        for number, (name, (mean, ends)) in enumerate(by.items()):
            at = place + 0.4 - height * (number + 0.5)
            axis.barh(at, mean, height=0.9 * height, color=COLOURS[name], label=SCORERS[name] if place == 0 else None)
            axis.plot(ends, [at, at], color="black", linewidth=0.9, solid_capstyle="butt")
    axis.set_yticks(range(len(bars)), [title for title, _ in reversed(bars)])
    axis.set_xlim(0, 100)
    axis.set_xlabel("called harmful, %")
    axis.grid(axis="x")
    axis.legend(frameon=False, fontsize=7.5, loc="lower right")
    note(axis, "of prompts that nothing was fitted on; lines: 95% intervals")


def _share(summary: dict, turned: bool) -> tuple[float, list[float]]:
    low, high = _ends(summary)
    mean = 100 * summary["mean"]
    return (100 - mean, [100 - high, 100 - low]) if turned else (mean, [low, high])


def _ends(summary: dict) -> list[float]:
    return [np.nan if end is None else 100 * end for end in summary["ci95"]]
