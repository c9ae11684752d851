"""The picture of a cross-validation: every scorer with its interval, and the layers one by one."""

from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt

from alignment.reports.pictures.reward_figures import DOTTED, LEGEND, NONE, note, picture
from alignment.reports.scorer_comparison import SCORERS
from alignment.reports.tables import counted
from alignment.types import Gate

PLAIN = "#d9a066"  # of scorers that are no gate
CHANCE = {"color": "#888888", "linewidth": 0.8, "linestyle": DOTTED}


def draw_comparison(report: dict, gates: tuple[Gate, ...], path: Path) -> None:
    """Bars of pair accuracy beyond chance on the left, the best at the top; on the right the ridge of each layer alone,
    and a band across for the gate in use."""
    with picture(path, 1, 2, figsize=(8.4, 3.4), gridspec_kw={"width_ratios": [1.15, 1], "wspace": 0.22}) as axes:
        _draw_scorers(axes[0], report, gates)
        _draw_layers(axes[1], report)


def _draw_scorers(axis: plt.Axes, report: dict, gates: tuple[Gate, ...]) -> None:
    accuracies = {name: report["scorers"][name]["pair_accuracy"] for name in SCORERS if name in report["scorers"]}
    names = sorted(accuracies, key=lambda name: accuracies[name]["mean"])
    for row, name in enumerate(names):
        colour = LEGEND if name == report["gate"] else NONE if name in gates else PLAIN
        low, high = _ends(accuracies[name])
        mean = 100 * accuracies[name]["mean"]
        axis.barh(row, mean - 50, left=50, height=0.62, color=colour)
        axis.plot([low, high], [row, row], color="black", linewidth=1.1, solid_capstyle="butt")
        place = max(mean, high if np.isfinite(high) else mean)
        axis.text(place + 0.6, row, f"{mean:.1f}", va="center", fontsize=7.5, color="#555555")
    axis.axvline(50, **CHANCE)
    lowest = min(100 * one["mean"] for one in accuracies.values())
    axis.set_xlim(min(49, lowest - 3), axis.get_xlim()[1] + 2)
    axis.set_yticks(range(len(names)), [SCORERS[name] for name in names])
    axis.set_xlabel("held-out pairs ranked right, %")
    axis.set_title(f"{counted(report['pairs'])} pairs of {report['prompts']:,} prompts, {report['folds']} folds")
    note(axis, "blue: the gate in use; grey: other gates; lines: 95% intervals over prompts")
    axis.grid(axis="x")


def _draw_layers(axis: plt.Axes, report: dict) -> None:
    rows = [{"layer": 0, **report["scorers"]["layer_0"]}, *report["layers"]]
    layers = np.array([row["layer"] for row in rows])
    gate = report["scorers"][report["gate"]]["pair_accuracy"]
    axis.axhspan(*_ends(gate), color=LEGEND, alpha=0.13, linewidth=0)
    axis.axhline(100 * gate["mean"], color=LEGEND, linewidth=1.6, label="the gate in use, of all layers")
    for row in rows:
        axis.plot([row["layer"]] * 2, _ends(row["pair_accuracy"]), color=PLAIN, linewidth=1.3, alpha=0.6)
    means = [100 * row["pair_accuracy"]["mean"] for row in rows]
    axis.plot(layers, means, "o-", color=PLAIN, markersize=3.2, linewidth=1.0, label="a ridge on one layer")
    axis.axhline(50, **CHANCE)
    axis.set_xlim(-0.7, layers[-1] + 0.7)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_xlabel("layer")
    note(axis, "0: the answer's token embeddings; dotted: by chance")
    axis.set_ylabel("held-out pairs ranked right, %")
    axis.grid(axis="y")
    axis.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=1, handletextpad=0.4)


def _ends(summary: dict) -> list[float]:
    return [np.nan if end is None else 100 * end for end in summary["ci95"]]
