"""Margins of preference pairs: how much safer the chosen answer is than the rejected one (Legend, arXiv 2406.08124).

    m(x, y_c, y_r) = < h(x, y_c) - h(x, y_r), SMV / |SMV| >      signed: below 0 the label and the direction disagree

SMV, the standard margin vector, is the direction of safety (direction.py). Margins are then put into bins, "for
robustness", with edges fitted on the training pairs. The paper's number of bins, their values and its treatment of
negative margins are not known; ours are options here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from alignment.maths.direction import unit
from alignment.types import BinningMethod, Margins, NegativeMargins, UserError

MarginArray = Float[np.ndarray, " pair"]


def signed_margin(
    chosen: Float[Tensor, "pair width"], rejected: Float[Tensor, "pair width"], direction: Float[Tensor, " width"]
) -> Float[Tensor, " pair"]:
    """The projection of the pair's difference on the direction."""
    return (chosen - rejected) @ unit(direction)


def distance_margin(
    chosen: Float[Tensor, "pair width"], rejected: Float[Tensor, "pair width"]
) -> Float[Tensor, " pair"]:
    """Ablation "without SMV": how far apart the two answers are, in no direction. Never negative."""
    return (chosen - rejected).norm(dim=-1)


def cosine_margin(chosen: Float[Tensor, "pair width"], rejected: Float[Tensor, "pair width"]) -> Float[Tensor, " pair"]:
    """Ablation "without SMV": 1 - cos(h_c, h_r). Never negative."""
    return 1 - torch.cosine_similarity(chosen, rejected, dim=-1)


@dataclass(frozen=True)
class Binning:
    """Maps margins to levels; fitted on training margins, applied to any.

    edges: the upper ends of all bins but the last; an edge belongs to the bin below it.
    levels: the margin of each bin, evenly from low to high. With method "none" there are no edges and no levels, and
    margins stay continuous: intercept + slope * m.
    negative: "bin" ranks negative margins with the others, so they get the lowest levels; "clip" takes them for 0,
    which is the lowest level, and fits edges to the rest; "keep" bins the size and keeps the sign; "abs" bins the size.
    """

    edges: tuple[float, ...]
    levels: tuple[float, ...]
    negative: NegativeMargins
    line: tuple[float, float] | None = None  # intercept and slope

    def bin_of(self, margins: MarginArray) -> Int[np.ndarray, " pair"]:
        return np.searchsorted(np.asarray(self.edges), _magnitude(margins, self.negative), side="left")

    def __call__(self, margins: MarginArray) -> MarginArray:
        if self.line is None:
            binned = np.asarray(self.levels)[self.bin_of(margins)]
        else:
            intercept, slope = self.line
            binned = intercept + slope * _magnitude(margins, self.negative)
        return binned * np.sign(margins) if self.negative == "keep" else binned


def fit_binning(
    margins: MarginArray, method: BinningMethod, bins: int, low: float, high: float, negative: NegativeMargins
) -> Binning:
    """Fits the edges of `bins` bins to the training margins (of six for "quartile", the box plot's).

    Method "none" keeps margins continuous, on the line that takes their 5th percentile to low and their 95th to high.
    Under "clip" edges and line are fitted to the margins above 0 alone, and the line begins at 0.
    """
    clip = negative == "clip"
    values = np.sort(_magnitude(margins, negative))
    values = values[values > 0] if clip else values
    described = f"the {len(values)} of {len(margins)} that are above 0" if clip else f"the {len(values)}"
    fewest = 2 if method in ("quartile", "none") else bins
    if len(values) < fewest:
        raise _unfit(f"{described} can't fill {fewest} bins")
    if method == "none":
        start, stop = np.quantile(values, [0.05, 0.95]).tolist()
        start = 0.0 if clip else start
        if start == stop:
            raise _unfit(f"{described} are nearly all equal")
        slope = (high - low) / (stop - start)
        return Binning((), (), negative, line=(low - slope * start, slope))
    edges = {"eqfreq": _equal_frequency, "eqwidth": _equal_width, "kmeans": _kmeans, "quartile": _box_plot}[method](
        values, bins
    )
    edges = [max(edge, 0.0) for edge in edges] if clip else edges  # what is clipped lies in the lowest bin
    if edges[0] >= values[-1]:
        raise _unfit(f"{described} are nearly all equal: there would be one bin")
    return Binning(tuple(edges), tuple(np.linspace(low, high, len(edges) + 1).tolist()), negative)


def _unfit(problem: str) -> UserError:
    return UserError("margins of the training pairs", problem, "look at the data and annotator.scope")


def _magnitude(margins: MarginArray, negative: NegativeMargins) -> MarginArray:
    if negative == "clip":
        return np.maximum(margins, 0.0)
    return np.abs(margins) if negative in ("keep", "abs") else margins


def _equal_frequency(ordered: MarginArray, bins: int) -> list[float]:
    """Half way between the neighbours at i/bins of the pairs: without ties, bins differ by one pair at most."""
    edges = []
    for i in range(1, bins):
        cut = round(len(ordered) * i / bins)
        below, above = float(ordered[cut - 1]), float(ordered[cut])
        middle = (below + above) / 2  # one of the two, where no float lies between them
        edges.append(middle if middle < above else below)
    return edges


def _equal_width(ordered: MarginArray, bins: int) -> list[float]:
    return np.linspace(ordered[0], ordered[-1], bins + 1)[1:-1].tolist()


def _kmeans(ordered: MarginArray, bins: int) -> list[float]:
    """Half way between the centres of a one-dimensional k-means."""
    from sklearn.cluster import KMeans  # two seconds to import, and nothing else in a run needs it

    centres = KMeans(bins, n_init=10, random_state=0).fit(ordered[:, None]).cluster_centers_[:, 0]
    centres.sort()
    return ((centres[1:] + centres[:-1]) / 2).tolist()


def _box_plot(ordered: MarginArray, bins: int) -> list[float]:
    """The box plot's quartiles and whiskers; it has six bins, whatever `bins` says."""
    low, median, high = np.quantile(ordered, [0.25, 0.5, 0.75]).tolist()
    return [low - 1.5 * (high - low), low, median, high, high + 1.5 * (high - low)]


def kinds_by_seed(
    kinds: Sequence[Margins], seeds: Sequence[int], control_seeds: int | None
) -> list[tuple[Margins, int]]:
    """Every kind with every seed; random and shuffled margins with the first `control_seeds` alone, if that is set."""
    few = set(list(seeds)[:control_seeds])
    return [(kind, seed) for seed in seeds for kind in kinds if seed in few or kind not in ("random", "shuffled")]


def compared_margins(kind: Margins, margins: MarginArray, seed: int, gaps: MarginArray | None = None) -> MarginArray:
    """Legend's margins, or what they must beat: their mean size for every pair, numbers drawn evenly between the
    smallest and the largest of them, or their own values dealt to other pairs.

    gaps: what other kinds of margins are made of; they are brought to the mean size of Legend's, so that a model is
    asked for as much. NaN counts as 0. Pairs without a margin, out of the annotation's scope, keep none.
    """
    annotated = margins != 0
    compared = margins.copy()
    if kind == "constant" and annotated.any():
        compared[annotated] = abs(margins[annotated]).mean()
    elif kind == "random" and annotated.any():
        low, high = margins[annotated].min(), margins[annotated].max()
        compared[annotated] = np.random.default_rng(seed).uniform(low, high, annotated.sum())
    elif kind == "shuffled":
        compared[annotated] = np.random.default_rng(seed).permutation(margins[annotated])
    elif gaps is not None:
        known = np.where(annotated, np.nan_to_num(gaps), 0.0)
        size = abs(known).sum()
        compared = known * (abs(margins).sum() / size) if size else known
    return compared
