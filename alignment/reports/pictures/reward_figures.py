"""The pictures of pairs, margins and rewards; the same numbers give the same picture, to the last byte."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, get_args

import matplotlib
import numpy as np

from alignment.reports.reward_models import by_group
from alignment.types import Margins

matplotlib.use("Agg")
from matplotlib import pyplot as plt

STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.titlelocation": "left",
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "savefig.bbox": "tight",
}
NONE, LEGEND = "#9aa5b1", "#1f6f8b"  # the colours of the reward models without margins and with Legend's


@contextmanager
def picture(path: Path, *rows_and_columns: int, **settings: Any) -> Iterator[Any]:
    """The axes of plt.subplots in the style of all pictures; what is drawn on them is saved at the end."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(*rows_and_columns, **settings)
        yield axes
        save(figure, path)


def save(figure: plt.Figure, path: Path) -> None:
    """Saves a picture without the name of the software, so that equal pictures are equal files."""
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)


def draw_margins(pairs: list[dict], kind: str | None, binning: dict, path: Path) -> None:
    """Histograms of margins, a row for every true gap of a kind, "severity" or "helpfulness".

    Margins above 0 agree with the label. Where no gap is known (None), all pairs have one row.
    """
    groups = {} if kind is None else _by_gap(pairs, kind)
    groups = groups or {"": [pair["margin_raw"] for pair in pairs]}
    values = np.concatenate(list(groups.values()))
    grid = np.linspace(values.min(), values.max(), 61)
    size = (6.2, 0.6 * len(groups) + 0.9)
    with picture(path, len(groups), figsize=size, sharex=True, squeeze=False, gridspec_kw={"hspace": 0.15}) as axes:
        for axis, (gap, margins) in zip(axes[:, 0], groups.items(), strict=True):
            axis.hist(margins, grid, color=_gap_colour(gap), edgecolor="white", linewidth=0.3)
            for edge in _edges(binning):
                axis.axvline(edge, color="#888888", linewidth=0.6, linestyle=(0, (2, 2)))
            axis.axvline(0, color="black", linewidth=0.8)
            name = f"{gap:+d}".replace("-", "\N{MINUS SIGN}") if gap != "" else "all pairs"
            write = partial(axis.text, transform=axis.transAxes, ha="right", va="center")
            write(-0.09, 0.42, name, fontsize=10)
            write(-0.02, 0.42, str(len(margins)), color="#777777")
            axis.set_yticks([])
            axis.spines["left"].set_visible(False)
            if axis is not axes[-1, 0]:
                axis.tick_params(bottom=False)
        order = {"severity": "rejected minus chosen", "helpfulness": "chosen minus rejected"}
        axes[0, 0].set_title(f"Margins of held-out pairs by true {kind} gap ({order[kind]})" if kind else "Margins")
        for place, text in ((-0.09, "gap"), (-0.02, "pairs")):
            axes[0, 0].text(place, 1.02, text, transform=axes[0, 0].transAxes, ha="right", color="#777777", fontsize=7)
        axes[-1, 0].set_xlabel("margin before binning (dotted: edges of the bins); orange: the label is wrong")


def _by_gap(pairs: list[dict], kind: str) -> dict[int, list[float]]:
    """Raw margins by true gap, the largest first; severity gaps are those of harmful prompts, helpfulness of others."""
    groups: dict[int, list[float]] = {}
    for pair in pairs:
        chosen, rejected = pair[f"chosen_{kind}"], pair[f"rejected_{kind}"]
        if chosen is not None and rejected is not None and pair["harmful"] is not (kind != "severity"):
            gap = rejected - chosen if kind == "severity" else chosen - rejected
            groups.setdefault(gap, []).append(pair["margin_raw"])
    return dict(sorted(groups.items(), reverse=True))


def _gap_colour(gap: int | str) -> tuple:
    """Blue where the label is right, orange where it is wrong; the larger the gap, the darker."""
    size = 0 if gap == "" else abs(gap)
    return plt.get_cmap("Oranges" if gap != "" and gap < 0 else "Blues")(0.45 + 0.15 * size)


KINDS = {
    "none": ("without margins", NONE),
    "legend": ("with Legend's margins", LEGEND),
    "constant": ("the same margin for all", "#d9a066"),
    "shuffled": ("Legend's, shuffled", "#b55d7a"),
}


def draw_accuracy(report: dict, path: Path) -> None:
    """The share of unseen pairs ranked right, with 95% intervals over seeds: a dot for each kind of model and group."""
    kinds = [kind for kind in get_args(Margins) if kind in report]
    labels = list(by_group(report[kinds[0]]))
    rows = np.arange(len(labels))[::-1]
    half = {1: 0.0, 2: 0.14}.get(len(kinds), 0.28)  # of what the kinds of a group spread over
    with picture(path, figsize=(6.2, (0.3 + 0.06 * len(kinds)) * len(labels) + 1.1)) as axis:
        for kind, shift in zip(kinds, np.linspace(half, -half, len(kinds)), strict=True):
            label, colour = KINDS[kind]
            accuracies = by_group(report[kind]).values()
            for row, accuracy in zip(rows + shift, accuracies, strict=True):
                seeds = [100 * value for value in accuracy["per_seed"]]
                axis.plot(seeds, [row] * len(seeds), "|", color=colour, markersize=5)
                if accuracy["ci95"][0] is not None:
                    axis.plot([100 * end for end in accuracy["ci95"]], [row, row], color=colour, linewidth=2)
            means = [100 * accuracy["mean"] for accuracy in accuracies]
            axis.plot(means, rows + shift, "o", color=colour, markersize=5.5, label=label)
        axis.set_yticks(rows, labels)
        axis.set_xlabel("unseen pairs ranked right, %  (bars: 95% intervals over seeds; ticks: seeds)")
        axis.grid(axis="x")
        axis.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, handletextpad=0.2)


def draw_layers(hybrid: dict, path: Path) -> None:
    """The probe of each layer on held-out pairs, and a line across for the hybrid of them all (hybrid.json)."""
    layers = [row["layer"] for row in hybrid["layers"]]
    with picture(path, figsize=(6.2, 3.2)) as axis:
        for name, label, colour in (
            ("pair_accuracy", "pairs ordered right, by one layer", NONE),
            ("precision", 'precision of one layer\'s "chosen"', "#d9a066"),
        ):
            values = [np.nan if row[name] is None else 100 * row[name] for row in hybrid["layers"]]
            axis.plot(layers, values, "o-", color=colour, markersize=3.5, linewidth=1.2, label=label)
        axis.axhline(100 * hybrid["soft"], color=LEGEND, linewidth=1.6, label="pairs ordered right, by all of them")
        axis.axhline(50, color="#888888", linewidth=0.6, linestyle=(0, (2, 2)))
        axis.set_xlim(layers[0] - 0.5, layers[-1] + 0.5)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_xlabel(f"layer  (dotted: chance; gate: {hybrid['gate'].replace('_', ' ')})")
        axis.set_ylabel("held-out pairs or answers, %")
        axis.grid(axis="y")
        axis.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=1, handletextpad=0.4)


def _edges(binning: dict) -> list[float]:
    """The edges between bins; where sizes are binned, on both sides of 0."""
    mirrored = [-edge for edge in binning["edges"]] if binning["negative"] in ("keep", "abs") else []
    return [*mirrored, *binning["edges"]]


def draw_lengths(inspection: dict, path: Path) -> None:
    """The shares of prompts and answers by their number of words, which doubles from tick to tick."""
    with picture(path, figsize=(6.2, 2.6)) as axis:
        longest = max(1, *(len(counts) for counts in inspection["histogram"].values()))
        for (side, counts), colour in zip(inspection["histogram"].items(), ("black", LEGEND, "#d9822b"), strict=True):
            shares = np.zeros(longest + 2)
            shares[1 : len(counts) + 1] = 100 * np.array(counts) / max(1, sum(counts))
            axis.step(np.arange(-1, longest + 1), shares, where="post", color=colour, label=side, linewidth=1.4)
        axis.set_xticks(range(longest + 1), [str(2**power) for power in range(longest + 1)])
        axis.set_xlim(0, longest)
        axis.set_ylim(bottom=0)
        axis.set_xlabel("words")
        axis.set_ylabel("% of texts")
        axis.set_title(f"Lengths of {inspection['pairs']:,} training pairs")
        axis.legend(frameon=False)
