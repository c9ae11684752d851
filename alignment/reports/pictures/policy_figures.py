"""The pictures of policies, in the style of reward_figures.py."""

from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt

from alignment.evaluation.vocabulary import METRICS
from alignment.policies.systems import SYSTEMS
from alignment.reports.pictures.reward_figures import DOTTED, note, picture

COLOURS = {"dpo": "#c4702f", "cdpo": "#1f6f8b", "hybrid": "#7a9e3c", "fixed": "#9aa5b1", "other": "#8a6fa8"}
LABELS = {
    "hybrid": "hybrid reward", "cdpo": "confidence DPO", "dpo": "DPO", "fixed": "fixed confidence",
    "other": "other objectives",
}  # fmt: skip
OF_HYBRID = "hybrid reward of "  # and the system


def draw_rewards(trainings: list[dict], path: Path) -> None:
    """The policies' own rewards and the hybrid reward over training: their gaps above, the pairs they order below.

    One column is of the given pairs, the other of the policy's own samples, whose systems have a star in their name.
    Lines are means over seeds, with their range.
    """
    curves = _curves(trainings)
    sources = [star for star in (False, True) if any(name.endswith("_star") == star for name in curves)]
    if not sources:
        return
    with picture(
        path, 2, len(sources), figsize=(1.6 + 2.9 * len(sources), 4.6), sharex=True, sharey="row", squeeze=False,
        gridspec_kw={"wspace": 0.12, "hspace": 0.16},
    ) as axes:  # fmt: skip
        for column, star in zip(axes.T, sources, strict=True):
            for name, (steps, gaps, accuracies) in curves.items():
                if name.endswith("_star") == star:
                    for axis, values in zip(column, (gaps, accuracies), strict=True):
                        _draw_curve(axis, steps, values, _kind(name))
            pairs = max(one["pairs"] for one in trainings if one["system"].endswith("_star") == star)
            column[0].set_title(f"{pairs:,} pairs of {'own samples' if star else 'the data'}, {_seeds(curves, star)}")
            column[0].axhline(0, color="#888888", linewidth=0.6)
            column[1].axhline(50, color="#888888", linewidth=0.8, linestyle=DOTTED)
            column[1].set_xlabel("optimiser step")
            if any(len(gaps) > 1 for _, gaps, _ in curves.values()):
                note(column[1], "lines: means over seeds; bands: their range")
        for axis in axes.flat:
            axis.grid(axis="y")
        axes[0, 0].set_ylabel("gap of rewards,\nchosen \N{MINUS SIGN} rejected")
        axes[1, 0].set_ylabel("training pairs\nranked as labelled, %")
        drawn = {_kind(name) for name in curves}
        for kind, label in LABELS.items():
            if kind in drawn:
                axes[0, -1].plot([], [], "--" if kind == "hybrid" else "-", color=COLOURS[kind], label=label)
        axes[0, -1].legend(frameon=False, fontsize=7.5, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _seeds(curves: dict[str, tuple], star: bool) -> str:
    return _count({len(gaps) for name, (_, gaps, _) in curves.items() if name.endswith("_star") == star})


def _count(counts: set[int]) -> str:
    numbers = " to ".join(str(count) for count in sorted({min(counts), max(counts)}))
    return f"{numbers} seed{'s' if max(counts) > 1 else ''}"


def _draw_curve(axis: plt.Axes, steps: np.ndarray, values: np.ndarray, kind: str) -> None:
    line, marker = "--" if kind == "hybrid" else "-", "o" if len(steps) == 1 else None  # one point is no line
    axis.plot(steps, values.mean(axis=0), line, marker=marker, color=COLOURS[kind], linewidth=1.6, markersize=4)
    if len(values) > 1:
        axis.fill_between(steps, values.min(axis=0), values.max(axis=0), color=COLOURS[kind], alpha=0.15, lw=0)


def draw_grid(points: list[dict], prompts: str, path: Path) -> None:
    """Toxic against helpful answers to validation prompts, a mark for every point of the grid. prompts: in words."""
    judged = [point for point in points if point["rates"] is not None and point["beta"] is not None]
    if len(judged) < 3:
        return
    across, up = "helpful_rate" if "helpful_rate" in judged[0]["rates"] else "useful_rate", "toxic_rate"
    with picture(path, figsize=(5.4, 3.4)) as axis:
        for system in dict.fromkeys(point["system"] for point in judged):
            own_points = [point for point in judged if point["system"] == system]
            helpful, toxic = ([100 * point["rates"][rate] for point in own_points] for rate in (across, up))
            marker, size = ("*", 70) if system.endswith("star") else ("o", 34)
            colour = COLOURS[_kind(system)]
            faces = [colour if point["chosen"] else "white" for point in own_points]
            axis.scatter(helpful, toxic, marker=marker, s=size, edgecolors=colour, facecolors=faces, linewidths=1.2)
        for kind, label in LABELS.items():
            if any(_kind(point["system"]) == kind for point in judged):
                axis.scatter([], [], marker="s", color=COLOURS[kind], label=label)
        axis.scatter([], [], marker="o", edgecolors="#444444", facecolors="white", label="given pairs")
        axis.scatter([], [], marker="*", edgecolors="#444444", facecolors="white", s=70, label="own samples")
        axis.scatter([], [], marker="o", color="#444444", label="filled: chosen")
        axis.set_xlabel(METRICS[across].title(METRICS[across].says, "harmless prompts"))
        axis.set_title(METRICS[up].title(METRICS[up].says))
        axis.set_ylim(bottom=0)
        seeds = _count({point["seeds"] for point in judged})
        note(axis, f"{prompts}; a mark: the mean over {seeds}")
        axis.grid()
        axis.legend(frameon=False, fontsize=7.5, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _kind(system: str) -> str:
    """The key of COLOURS for a system, or for the curve of its hybrid reward."""
    if system.startswith(OF_HYBRID):
        return "hybrid"
    if SYSTEMS[system].objective != "confidence":
        return "other"
    return next(kind for kind in ("fixed", "cdpo", "dpo") if system.startswith(kind))


def _curves(trainings: list[dict]) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """By name: steps, gaps and accuracies (seed, step), smoothed over five logs, at the steps that all seeds have.

    Of other objectives there are none: not all of their gaps are sums over an answer's tokens.
    """
    by_system: dict[str, list[dict[int, dict]]] = {}
    for training in trainings:
        history = [entry for entry in training["history"] if "dpo_gap" in entry]
        if history and SYSTEMS[training["system"]].objective == "confidence":
            by_step = {entry["step"]: entry for entry in history if None not in entry.values()}
            by_system.setdefault(training["system"], []).append(by_step)
    curves = {}
    for system, seeds in by_system.items():
        steps = sorted(set.intersection(*(set(history) for history in seeds)))
        for prefix, name in (("dpo", system), ("hybrid", f"{OF_HYBRID}{system}")):
            if not steps or f"{prefix}_gap" not in seeds[0][steps[0]]:
                continue
            gaps, accuracies = (
                _smooth(np.array([[history[step][f"{prefix}_{figure}"] for step in steps] for history in seeds]))
                for figure in ("gap", "accuracy")
            )
            curves[name] = (np.array(steps), gaps, 100 * accuracies)
    return curves


def _smooth(values: np.ndarray, width: int = 5) -> np.ndarray:
    """Means over the last `width` logs, fewer at the start."""
    sums = np.cumsum(np.pad(values, ((0, 0), (1, 0))), axis=1)
    ends = np.arange(1, values.shape[1] + 1)
    starts = np.maximum(ends - width, 0)
    return (sums[:, ends] - sums[:, starts]) / (ends - starts)
