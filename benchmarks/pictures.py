"""The picture of the results: how much faster and smaller ours is, and how it grows."""

from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from alignment.reports.pictures.reward_figures import LEGEND, NONE, STYLE, save

CURVES = (("growth_pairs", "pairs in a step"), ("growth_tokens", "tokens of a pair"), ("growth_layers", "layers"))


def draw(entries: list[dict], path: Path) -> None:
    """Bars of what is there, and below them one panel for each curve of growth."""
    bars = [one for one in entries if "speed_ratio" in one and one["comparison"] not in ("ranks", "live_reward")]
    curves = [(one, label) for name, label in CURVES for one in entries if one["name"] == name]
    if not bars and not curves:
        return
    with plt.rc_context(STYLE):
        rows = [height for height in (0.34 * len(bars), 2.4 * bool(curves)) if height]
        figure = plt.figure(figsize=(7.2, sum(rows) + 1.4))
        grid = figure.add_gridspec(len(rows), 1, height_ratios=rows, hspace=1.3 / max(rows))
        if bars:
            _bars(figure, grid[0], bars)
        if curves:
            inner = grid[len(rows) - 1].subgridspec(1, len(curves), wspace=0.9)
            for place, (curve, label) in enumerate(curves):
                _curve(figure.add_subplot(inner[place]), curve, label)
        save(figure, path)


def _bars(figure: plt.Figure, place, entries: list[dict]) -> None:
    left, right = (figure.add_subplot(one) for one in place.subgridspec(1, 2, wspace=0.12))
    labels = [f"{one['name'].replace('_', ' ')}, {one['batch']}" for one in entries]
    for axis, key, title in (
        (left, "speed_ratio", "speed: times theirs"),
        (right, "memory_ratio", "peak memory: share of theirs"),
    ):
        values = [one[key] for one in entries]
        axis.barh(labels, values, height=0.62, color=[LEGEND if _better(key, v) else NONE for v in values])
        for row, value in enumerate(values):
            axis.text(value, row, f" {value:.2f}" if value < 3 else f" {value:.1f}", va="center", fontsize=8)
        axis.axvline(1, color="#888888", linewidth=0.6, linestyle=(0, (2, 2)))
        axis.set_xlim(0, 1.14 * max(1, *values))
        axis.set_ylim(len(labels) - 0.4, -0.6)
        axis.set_title(title)
        axis.tick_params(axis="y", length=0)
    right.set_yticklabels([])


def _better(key: str, value: float) -> bool:
    return value > 1 if key == "speed_ratio" else value < 1


def _curve(axis: plt.Axes, curve: dict, label: str) -> None:
    """Seconds on the left, memory on the right; both axes begin at zero, so that proportional is a straight line."""
    x = [point[curve["of"]] for point in curve["points"]]
    memory = axis.twinx()
    for one, key, scale, colour, name in (
        (axis, "seconds_per_step", 1.0, LEGEND, "seconds a step"),
        (memory, "peak_bytes", 1e-9, "#d9a066", "peak memory, GB"),
    ):
        values = [scale * point[key] for point in curve["points"]]
        one.plot(x, values, "o-", color=colour, markersize=3.5, linewidth=1.4)
        one.set_ylim(0, 1.1 * max(values))
        one.set_ylabel(name, color=colour)
        one.tick_params(axis="y", colors=colour)
    memory.spines["right"].set_visible(True)
    axis.set_xlim(0, 1.06 * x[-1])
    axis.xaxis.set_major_locator(FixedLocator(x[1:] if x[0] < 0.15 * x[-1] else x))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_xlabel(label)
    axis.set_title(f"time ~ {curve['of']}$^{{{curve['seconds_exponent']:.2f}}}$", fontsize=9)
