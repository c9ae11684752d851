"""The pictures of a report, drawn the same to the last byte from the same numbers."""

from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt

STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "savefig.bbox": "tight",
}
NONE, LEGEND = "#9aa5b1", "#1f6f8b"  # the colours of the two reward models, everywhere


def draw_margins(pairs: list[dict], binning: dict, path: Path) -> None:
    """One row per true severity gap: where the margins of its pairs lie. Above 0 label and direction agree."""
    known = [
        p for p in pairs if p["harmful"] and p["chosen_severity"] is not None and p["rejected_severity"] is not None
    ]
    groups: dict[str, list[float]] = {}
    for gap in sorted({p["rejected_severity"] - p["chosen_severity"] for p in known}, reverse=True):
        margins = [p["margin_raw"] for p in known if p["rejected_severity"] - p["chosen_severity"] == gap]
        groups[f"{gap:+d}"] = margins
    if not groups:
        groups["all pairs"] = [p["margin_raw"] for p in pairs]
    values = np.concatenate([np.array(group) for group in groups.values()])
    grid = np.linspace(values.min(), values.max(), 61)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            len(groups),
            figsize=(6.2, 0.62 * len(groups) + 0.9),
            sharex=True,
            squeeze=False,
            gridspec_kw={"hspace": 0.12},
        )
        colours = plt.get_cmap("RdYlBu")(np.linspace(0.92, 0.08, len(groups)) if len(groups) > 1 else [0.9])
        for axis, (label, margins), colour in zip(axes[:, 0], groups.items(), colours, strict=True):
            axis.hist(margins, grid, color=colour, edgecolor="#33333355", linewidth=0.3)
            for edge in _edges(binning):
                axis.axvline(edge, color="#888888", linewidth=0.6, linestyle=(0, (2, 2)))
            axis.axvline(0, color="black", linewidth=0.8)
            axis.set_ylabel(label, rotation=0, ha="right", va="center")
            axis.text(
                1.0, 0.78, f"n = {len(margins)}", transform=axis.transAxes, ha="right", color="#666666", fontsize=8
            )
            axis.set_yticks([])
            axis.spines["left"].set_visible(False)
        axes[0, 0].set_title("Margins of held-out pairs by true severity gap (rejected minus chosen)")
        axes[-1, 0].set_xlabel("margin before binning; dashed: bin edges")
        _save(figure, path)


def draw_accuracy(report: dict, path: Path) -> None:
    """Share of unseen pairs ranked right, with 95% intervals over seeds, one dot per model."""
    kinds = [kind for kind in ("none", "legend") if kind in report]
    by_gap, by_set = report[kinds[0]]["by_gap"], report[kinds[0]]["by_set"]
    labels = ["all pairs", *by_set, *(gap.replace("gap", "severity gap") for gap in by_gap)]
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(6.2, 0.42 * len(labels) + 1.1))
        for kind, colour, shift in zip(
            kinds, (NONE, LEGEND) if len(kinds) > 1 else (LEGEND,), (0.14, -0.14), strict=False
        ):
            found = [report[kind]["accuracy"], *report[kind]["by_set"].values(), *report[kind]["by_gap"].values()]
            rows = np.arange(len(labels))[::-1] + (shift if len(kinds) > 1 else 0)
            means = np.array([100 * one["mean"] for one in found])
            for row, one in zip(rows, found, strict=True):
                seeds = [100 * value for value in one["per_seed"]]
                axis.plot(seeds, [row] * len(seeds), ".", color=colour, alpha=0.45, markersize=4)
                if one["ci95"][0] is not None:
                    axis.plot([100 * end for end in one["ci95"]], [row, row], color=colour, linewidth=2)
            label = {"none": "without margins", "legend": "with Legend's margins"}[kind]
            axis.plot(means, rows, "o", color=colour, markersize=5.5, label=label)
        axis.set_yticks(np.arange(len(labels))[::-1], labels)
        axis.set_xlabel("unseen pairs ranked right, %")
        axis.grid(axis="x", color="#dddddd", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.set_title("Reward models; bars: 95% intervals over seeds")
        axis.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, -0.42), ncols=2)
        _save(figure, path)


def _edges(binning: dict) -> list[float]:
    """Where a margin's bin changes; bins of sizes have their edges on both sides of 0."""
    mirrored = [-edge for edge in binning["edges"]] if binning["negative"] in ("keep", "abs") else []
    return [*mirrored, *binning["edges"]]


def _save(figure: plt.Figure, path: Path) -> None:
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)
