"""The pictures of pairs, margins and rewards; the same numbers give the same picture, to the last byte."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, get_args

import matplotlib
import numpy as np

from alignment.reports.reward_models import by_group, interval_is
from alignment.reports.tables import FEW, counted
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
DOTTED = (0, (2, 2))
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

    Margins above 0 agree with the label. Where no gap is known (None), there is one histogram, and no word of gaps.
    """
    groups = {} if kind is None else _by_gap(pairs, kind)
    if not groups:
        _draw_all_margins(np.array([pair["margin_raw"] for pair in pairs]), binning, path)
        return
    every = np.concatenate(list(groups.values()))
    grid = _bins(every)
    size = (6.2, 0.6 * len(groups) + 0.9)
    with picture(path, len(groups), figsize=size, sharex=True, squeeze=False, gridspec_kw={"hspace": 0.15}) as axes:
        for axis, (gap, margins) in zip(axes[:, 0], groups.items(), strict=True):
            axis.hist(margins, grid, color=_gap_colour(gap), edgecolor="white", linewidth=0.3)
            _draw_edges(axis, binning)
            name = f"{gap:+d}".replace("-", "\N{MINUS SIGN}") if gap else "0"
            write = partial(axis.text, transform=axis.transAxes, ha="right", va="center")
            write(-0.11, 0.42, name, fontsize=10)
            write(-0.02, 0.42, counted(len(margins)), color="#777777")
            write(1.09, 0.42, f"{100 * np.mean(np.array(margins) > 0):.0f}%", color="#777777")
            axis.set_yticks([])
            axis.spines["left"].set_visible(False)
            if axis is not axes[-1, 0]:
                axis.tick_params(bottom=False)
        order = {"severity": "rejected minus chosen", "helpfulness": "chosen minus rejected"}[kind]
        axes[0, 0].set_title(f"Margins of {len(every):,} held-out pairs by true {kind} gap ({order})", pad=13)
        for place, text in ((-0.11, "gap"), (-0.02, "pairs"), (1.09, "above 0")):
            axes[0, 0].text(place, 1.02, text, transform=axes[0, 0].transAxes, ha="right", color="#777777", fontsize=7)
        wrong = "; orange: the label is wrong" if any(gap < 0 for gap in groups) else ""
        few = f"; *: fewer than {FEW} pairs" if any(len(margins) < FEW for margins in groups.values()) else ""
        axes[-1, 0].set_xlabel("margin before binning")
        note(axes[-1, 0], f"dotted: edges of the bins{wrong}{few}")


def _draw_all_margins(margins: np.ndarray, binning: dict, path: Path) -> None:
    with picture(path, figsize=(6.2, 2.3)) as axis:
        axis.hist(margins, _bins(margins), color=_gap_colour(0), edgecolor="white", linewidth=0.4)
        _draw_edges(axis, binning)
        right = 100 * np.mean((np.sign(margins) + 1) / 2)
        axis.set_title(f"Margins of held-out pairs, n = {counted(len(margins))}: {right:.1f}% as labelled, above 0")
        axis.yaxis.get_major_locator().set_params(integer=True, nbins=4)
        axis.set_ylabel("pairs")
        axis.set_xlabel("margin before binning")
        note(axis, "dotted: edges of the bins")


def _bins(margins: np.ndarray) -> np.ndarray:
    """The edges of a histogram: the more margins, the finer."""
    low, high = margins.min(), margins.max()
    return np.linspace(low, high if high > low else low + 1, int(np.clip(3 * np.sqrt(len(margins)), 15, 60)) + 1)


def _draw_edges(axis: plt.Axes, binning: dict) -> None:
    for edge in _edges(binning):
        axis.axvline(edge, color="#888888", linewidth=0.6, linestyle=DOTTED)
    axis.axvline(0, color="black", linewidth=0.8)


def _by_gap(pairs: list[dict], kind: str) -> dict[int, list[float]]:
    """Raw margins by true gap, the largest first; severity gaps are those of harmful prompts, helpfulness of others."""
    groups: dict[int, list[float]] = {}
    for pair in pairs:
        chosen, rejected = pair[f"chosen_{kind}"], pair[f"rejected_{kind}"]
        if chosen is not None and rejected is not None and pair["harmful"] is not (kind != "severity"):
            gap = rejected - chosen if kind == "severity" else chosen - rejected
            groups.setdefault(gap, []).append(pair["margin_raw"])
    return dict(sorted(groups.items(), reverse=True))


def _gap_colour(gap: int) -> tuple:
    """Blue where the label is right, orange where it is wrong; the larger the gap, the darker."""
    return plt.get_cmap("Oranges" if gap < 0 else "Blues")(0.45 + 0.15 * abs(gap))


KINDS = {
    "none": ("without margins", NONE),
    "legend": ("with Legend's margins", LEGEND),
    "constant": ("the same margin for all", "#d9a066"),
    "random": ("random margins", "#7a9a5b"),
    "shuffled": ("Legend's, shuffled", "#b55d7a"),
    "severity": ("gaps of known severities", "#4c4c4c"),
    "single": ("gaps of one reward model", "#8a6fa8"),
    "crossfit": ("its gaps, cross-fitted", "#b79fd0"),
    "ensemble": ("gaps of an ensemble", "#3f9c9c"),
}


def draw_accuracy(report: dict, path: Path) -> None:
    """The share of unseen pairs ranked right, with 95% intervals: a dot for each kind of model and group of pairs."""
    kinds = [kind for kind in get_args(Margins) if kind in report]
    groups = by_group(report[kinds[0]])
    several = len(report[kinds[0]]["accuracy"]["per_seed"]) > 1
    rows = np.arange(len(groups))[::-1]
    half = {1: 0.0, 2: 0.14}.get(len(kinds), 0.28)  # of what the kinds of a group spread over
    low = 50.0
    with picture(path, figsize=(6.2, (0.3 + 0.06 * len(kinds)) * len(groups) + 1.1)) as axis:
        for kind, shift in zip(kinds, np.linspace(half, -half, len(kinds)), strict=True):
            label, colour = KINDS[kind]
            accuracies = by_group(report[kind]).values()
            for row, accuracy in zip(rows + shift, accuracies, strict=True):
                seeds = [100 * value for value in accuracy["per_seed"]]
                ends = [100 * end for end in accuracy["ci95"] if end is not None]
                if several:
                    axis.plot(seeds, [row] * len(seeds), "|", color=colour, markersize=5, clip_on=False)
                axis.plot(ends, [row] * len(ends), color=colour, linewidth=2, solid_capstyle="butt", clip_on=False)
                low = min(low, *seeds, *ends)
            means = [100 * accuracy["mean"] for accuracy in accuracies]
            axis.plot(means, rows + shift, "o", color=colour, markersize=5.5, label=label, clip_on=False)
        axis.axvline(50, color="#888888", linewidth=0.8, linestyle=DOTTED)
        axis.set_yticks(rows, groups)
        for row, accuracy in zip(rows, groups.values(), strict=True):
            n = f"n = {counted(accuracy['n'])}"
            axis.text(1.03, row, n, transform=axis.get_yaxis_transform(), va="center", color="#777777", fontsize=7.5)
        axis.set_ylim(-0.5, len(groups) - 0.5)
        axis.set_xlim(max(0, low - 3), 100)
        axis.set_xlabel("unseen pairs ranked right, %")
        few = f"; *: fewer than {FEW} pairs" if any(one["n"] < FEW for one in groups.values()) else ""
        seeds = "; ticks: seeds" if several else ""
        note(axis, f"bars: 95% intervals {interval_is(report[kinds[0]]['accuracy'])}{seeds}; dotted: by chance{few}")
        axis.grid(axis="x")
        axis.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, handletextpad=0.2)


def draw_layers(hybrid: dict, path: Path) -> None:
    """The probe of each layer on held-out pairs, and a band across for the hybrid of them all (hybrid.json)."""
    layers = np.array([row["layer"] for row in hybrid["layers"]])
    with picture(path, figsize=(6.2, 3.2)) as axis:
        low, high = (np.nan if end is None else 100 * end for end in hybrid["ci95"]["pair_accuracy"])
        axis.axhspan(low, high, color=LEGEND, alpha=0.13, linewidth=0)
        axis.axhline(100 * hybrid["soft"], color=LEGEND, linewidth=1.6, label="pairs ranked right by the hybrid of all")
        for name, label, colour, shift in (
            ("pair_accuracy", "pairs ranked right by one layer", "#6d7a86", -0.1),
            ("precision", "answers that one layer calls chosen: how many are (precision)", "#d9a066", 0.1),
        ):
            values = [np.nan if row[name] is None else 100 * row[name] for row in hybrid["layers"]]
            axis.plot(layers + shift, values, "o-", color=colour, markersize=3.2, linewidth=1.0, label=label)
            for layer, row in zip(layers + shift, hybrid["ci95"]["layers"], strict=True):
                ends = [100 * end for end in row[name] or [] if end is not None]
                axis.plot([layer] * len(ends), ends, color=colour, linewidth=1.3, alpha=0.6, solid_capstyle="butt")
        axis.axhline(50, color="#888888", linewidth=0.8, linestyle=DOTTED)
        axis.set_xlim(layers[0] - 0.5, layers[-1] + 0.5)
        bottom, top = axis.get_ylim()
        axis.set_ylim(bottom, min(top, 101.5))
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_xlabel("layer")
        n, gate = counted(hybrid["pairs"]["heldout"]), hybrid["gate"].replace("_", " ")
        note(axis, f"n = {n} held-out pairs; bars, band: 95% intervals; dotted: by chance; gate: {gate}")
        axis.set_ylabel("%")
        axis.grid(axis="y")
        axis.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=1, handletextpad=0.4)


def note(axis: plt.Axes, text: str) -> None:
    """A line below the name of the x axis: what is drawn how, and of how many."""
    axis.set_xlabel(f"{axis.get_xlabel()}\n", linespacing=1.2)
    axis.annotate(
        text, (0.5, 0), (0, -37), xycoords="axes fraction", textcoords="offset points", ha="center", va="top",
        color="#777777", fontsize=7.5,
    )  # fmt: skip


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
