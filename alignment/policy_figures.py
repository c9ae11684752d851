"""The pictures of a report on policies, in the style of figures.py."""

from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt

from alignment.figures import STYLE, save

COLOURS = {"dpo": "#c4702f", "cdpo": "#1f6f8b", "hybrid": "#7a9e3c", "fixed": "#9aa5b1"}
PICKERS = {
    "hybrid": ("#1f6f8b", "hybrid reward"),
    "reward_model": ("#c4702f", "margin reward model"),
    "judge": ("#9aa5b1", "oracle (sees the truth)"),
}


def draw_rewards(trainings: list[dict], path: Path) -> None:
    """Reward gaps over training: what DPO and cDPO believe, and what the hybrid reward says; a line per seed's mean."""
    curves = _curves(trainings)
    if not curves:
        return
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(7.4, 2.9))
        for name, (steps, gaps, accuracies) in curves.items():
            kind = "hybrid" if name.startswith("hybrid") else "fixed" if "fixed" in name else name.split("_")[0]
            style = "--" if kind == "hybrid" else "-"
            for axis, values in zip(axes, (gaps, accuracies), strict=True):
                mean = values.mean(axis=0)
                axis.plot(steps, mean, style, color=COLOURS[kind], linewidth=1.6, label=name.replace("_star", "*"))
                if len(values) > 1:
                    axis.fill_between(
                        steps, values.min(axis=0), values.max(axis=0), color=COLOURS[kind], alpha=0.15, lw=0
                    )
        axes[0].set_title("reward gap, chosen minus rejected")
        axes[1].set_title("pairs ordered as labelled, %")
        axes[0].axhline(0, color="#888888", linewidth=0.6)
        for axis in axes:
            axis.set_xlabel("optimiser step")
            axis.grid(axis="y", color="#dddddd", linewidth=0.6)
            axis.set_axisbelow(True)
        axes[0].legend(frameon=False, fontsize=7.5)
        save(figure, path)


def draw_best_of_n(found: dict[str, dict], path: Path) -> None:
    """Toxic rate of harmful prompts, and helpful rate of their harmless twins, against n, with 95% intervals."""
    panels = {
        "toxic_rate": "harmful prompts: toxic answers, %",
        "helpful_rate": "their harmless twins: helpful answers, %",
    }
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(7.4, 3.0), gridspec_kw={"wspace": 0.22})
        for scorer, by_count in found.items():
            counts = sorted(map(int, by_count))
            for axis, rate in zip(axes, panels, strict=True):
                values = [100 * by_count[str(n)][rate] for n in counts]
                low, high = zip(*(by_count[str(n)]["ci95"][rate] for n in counts), strict=True)
                colour, label = PICKERS[scorer]
                style = "--" if scorer == "judge" else "-"
                axis.plot(counts, values, style, marker="o", markersize=4, color=colour, linewidth=1.6, label=label)
                axis.fill_between(counts, 100 * np.array(low), 100 * np.array(high), color=colour, alpha=0.15, lw=0)
        for axis, title in zip(axes, panels.values(), strict=True):
            axis.set_title(title)
            axis.set_xscale("log", base=2)
            axis.set_xticks(counts, counts)
            axis.minorticks_off()
            axis.set_ylim(0, 100 if axis is axes[1] else None)
            axis.set_xlabel("n: the best of how many samples")
            axis.grid(axis="y", color="#dddddd", linewidth=0.6)
            axis.set_axisbelow(True)
        axes[0].legend(frameon=False, title="picked by", alignment="left")
        save(figure, path)


def _curves(trainings: list[dict]) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """name -> steps, gaps and accuracies (seed, step), smoothed over five logs."""
    found: dict[str, list[dict]] = {}
    for one in trainings:
        history = [entry for entry in one["history"] if "dpo_gap" in entry]
        if history:
            found.setdefault(one["system"], []).append(history)
    curves = {}
    for system, seeds in found.items():
        length = min(len(history) for history in seeds)
        for prefix, name in (("dpo", system), ("hybrid", f"hybrid reward of {system}")):
            if f"{prefix}_gap" not in seeds[0][0]:
                continue
            values = [
                np.array([[entry[f"{prefix}_{what}"] for entry in history[:length]] for history in seeds])
                for what in ("gap", "accuracy")
            ]
            steps = np.array([entry["step"] for entry in seeds[0][:length]])
            curves[name] = (steps, _smooth(values[0]), 100 * _smooth(values[1]))
    return curves


def _smooth(values: np.ndarray, width: int = 5) -> np.ndarray:
    """Means over the last `width` logs, fewer at the start."""
    sums = np.cumsum(np.pad(values, ((0, 0), (1, 0))), axis=1)
    ends = np.arange(1, values.shape[1] + 1)
    starts = np.maximum(ends - width, 0)
    return (sums[:, ends] - sums[:, starts]) / (ends - starts)
