"""A ridge regression on the differences of two answers' states: over all layers at once, or over one of them.

    min_w  sum_i (1 - sum_l w_l . d_il)^2 + penalty |w|^2        d_il = (chosen - rejected) / scale_l / sqrt(width)

A pair turned round has the opposite difference, so there is no intercept. The penalty is in units of the mean |d|^2,
so that it means the same for any number of layers. It is the one whose fits to the other inner folds order the pairs of
each best. Where there are fewer pairs than dimensions, the products of pairs are all that is solved with (Gram form).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from alignment.maths.confidence import calibrated_loss
from alignment.maths.probes import standard

PENALTIES = (0.03, 0.3, 3.0, 30.0, 300.0)


class Ridge(NamedTuple):
    """score = sum_l (h_l - mean_l) . weight_l, 0 on average over the answers it was fitted on.

    heldout_loss: of its pairs, by the fits to the other inner folds; log 2 says nothing.
    """

    mean: Float[Tensor, "layer width"]
    weight: Float[Tensor, "layer width"]
    penalty: float
    heldout_loss: float

    def score(self, states: Float[Tensor, "row layer width"]) -> Float[Tensor, " row"]:
        layers = zip(states.unbind(1), self.mean, self.weight, strict=True)
        return torch.stack([(rows.double() - mean) @ weight for rows, mean, weight in layers]).sum(dim=0)


def fit_ridge(
    chosen: Float[Tensor, "pair layer width"],
    rejected: Float[Tensor, "pair layer width"],
    inner: Int[Tensor, " pair"],
    penalties: Sequence[float] = PENALTIES,
) -> Ridge:
    """inner: the number of each pair's inner fold, by which the penalty is chosen."""
    pairs, layers, width = chosen.shape
    means, scales = [], []
    fewer_pairs = pairs < layers * width
    products = torch.zeros(pairs, pairs, dtype=torch.float64)
    for layer in range(layers):
        by = standard(torch.cat([chosen[:, layer], rejected[:, layer]]).double(), f"layer {layer} of the states")
        means.append(by.mean)
        scales.append(by.scale * width**0.5)
        if fewer_pairs:
            difference = _difference(chosen, rejected, layer, scales[layer])
            products += difference @ difference.T
    if fewer_pairs:
        unit = float(products.diagonal().mean())
        losses = [calibrated_loss(_heldout_by_products(products, inner, unit * one)) for one in penalties]
    else:
        x = torch.cat([_difference(chosen, rejected, layer, scale) for layer, scale in enumerate(scales)], dim=1)
        unit = float(x.square().sum(dim=1).mean())
        losses = [calibrated_loss(gaps) for gaps in _heldout_by_dimensions(x, inner, [unit * one for one in penalties])]
    best = losses.index(min(losses))
    penalty = unit * penalties[best]
    if fewer_pairs:
        dual = _solved(products, products.new_ones(pairs), penalty)
        weights = [_difference(chosen, rejected, layer, scale).T @ dual / scale for layer, scale in enumerate(scales)]
        weight = torch.stack(weights)
    else:
        weight = _solved(x.T @ x, x.sum(dim=0), penalty).view(layers, width) / torch.stack(scales)
    return Ridge(torch.stack(means), weight, penalties[best], losses[best])


def _difference(chosen: Tensor, rejected: Tensor, layer: int, scale: Tensor) -> Float[Tensor, "pair width"]:
    return (chosen[:, layer].double() - rejected[:, layer].double()) / scale


def _heldout_by_products(
    products: Float[Tensor, "pair pair"], inner: Int[Tensor, " pair"], penalty: float
) -> Float[Tensor, " pair"]:
    """The gap of every pair, by the fit to the other folds."""
    gaps = products.new_empty(len(products))
    for fold in inner.unique():
        own, others = (inner == fold).nonzero()[:, 0], (inner != fold).nonzero()[:, 0]
        rows = products[others]
        gaps[own] = products[own][:, others] @ _solved(rows[:, others], products.new_ones(len(others)), penalty)
    return gaps


def _heldout_by_dimensions(
    x: Float[Tensor, "pair dimension"], inner: Int[Tensor, " pair"], penalties: Sequence[float]
) -> Float[Tensor, "penalty pair"]:
    gaps = x.new_empty(len(penalties), len(x))
    for fold in inner.unique():
        own, others = x[inner == fold], x[inner != fold]
        square, sums = others.T @ others, others.sum(dim=0)
        for number, penalty in enumerate(penalties):
            gaps[number, inner == fold] = own @ _solved(square, sums, penalty)
    return gaps


def _solved(matrix: Float[Tensor, "n n"], right: Float[Tensor, " n"], penalty: float) -> Float[Tensor, " n"]:
    """(matrix + penalty)^-1 right."""
    system = matrix.clone()
    system.diagonal().add_(penalty)
    return torch.cholesky_solve(right[:, None], torch.linalg.cholesky(system))[:, 0]
