"""A ridge regression on the states of single labelled answers, from several layers at once.

    min  sum_i (y_i - sum_l w_l . x_il - sum_l v_l . z_il - b)^2 + penalty (|w|^2 + |v|^2 / topic)

x_il = (h_il - mean_l) / scale_l / sqrt(width) is the standardised state of answer i, z_il that of its prompt alone.
What the prompt explains, v explains; the score is w's part and b, so that it is of what was answered and not of what
was asked about. topic = 0: v is left out.

y is 1 where an answer has the label and -1 where it hasn't; several labels are several columns, and cost one solution.
Of n answers only the products x x' and z z' are solved with, n by n numbers however wide the states are. Mean and scale
are of all answers, whose labels they don't see; products are centred by the answers that are fitted, which gives the
intercept. The penalty is in units of the mean |x|^2, and is the one whose fits to the other folds rank answers best.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from alignment.maths.detection import auroc
from alignment.maths.probes import Standard, standard

PENALTIES = (0.3, 1.0, 3.0, 10.0)


class Products(NamedTuple):
    """The products of all answers' states, and what standardises each layer. topic: those of their prompts, weighed."""

    values: Float[Tensor, "answer answer"]
    by: list[Standard]
    topic: Float[Tensor, "answer answer"] | None = None

    def with_topic(self, prompts: "Products", weight: float) -> "Products":
        """weight: in units of the mean |x|^2, so that it means the same for any number of layers."""
        if weight == 0:
            return self
        unit = self.values.diagonal().mean() / prompts.values.diagonal().mean()
        return self._replace(topic=weight * unit * prompts.values)


class AnswerRidge(NamedTuple):
    """score = sum_l (h_l - mean_l) . weight_l + bias, for each label."""

    weight: Float[Tensor, "label layer width"]
    bias: Float[Tensor, " label"]
    mean: Float[Tensor, "layer width"]

    def score(self, states: Float[Tensor, "answer layer width"]) -> Float[Tensor, "answer label"]:
        layers = zip(states.unbind(1), self.mean, self.weight.unbind(1), strict=True)
        return sum((rows.double() - mean) @ weight.T for rows, mean, weight in layers) + self.bias


def products(layers: Iterator[Float[Tensor, "answer width"]]) -> Products:
    """layers: the states of each layer, one after the other; only one is held in float64."""
    total, by = None, []
    for number, states in enumerate(layers, start=1):
        wide = states.double()
        by.append(standard(wide, f"layer {number} of the states"))
        x = _standardised(wide, by[-1])
        total = x @ x.T if total is None else total.addmm_(x, x.T)
    return Products(total, by)


def scores_of_others(
    read: Products,
    labels: Float[Tensor, "answer label"],
    fitted: Int[Tensor, " fitted"],
    others: Int[Tensor, " other"],
    penalties: Sequence[float],
) -> Float[Tensor, "penalty other label"]:
    """What a fit to some answers says of others."""
    inside, across = read.values[fitted][:, fitted], read.values[others][:, fitted]
    unit, mean, level = float(inside.diagonal().mean()), inside.mean(dim=0), labels[fitted].mean(dim=0)
    system = _centred(inside) if read.topic is None else _centred(inside + read.topic[fitted][:, fitted])
    across = across - across.mean(dim=1, keepdim=True) - mean + mean.mean()
    right = labels[fitted] - level
    return torch.stack([across @ _solved(system, right, unit * one) + level for one in penalties])


def heldout_scores(
    read: Products,
    labels: Float[Tensor, "answer label"],
    fitted: Int[Tensor, " fitted"],
    folds: Int[np.ndarray, " fitted"],
    penalties: Sequence[float] = PENALTIES,
) -> Float[Tensor, "penalty fitted label"]:
    """What each answer gets by the fit to the other folds."""
    scores = labels.new_empty(len(penalties), len(fitted), labels.shape[1])
    for fold in np.unique(folds):
        own = torch.from_numpy(folds == fold)
        scores[:, own] = scores_of_others(read, labels, fitted[~own], fitted[own], penalties)
    return scores


def best_penalty(scores: Float[Tensor, "penalty fitted label"], labels: Float[Tensor, "fitted label"]) -> int:
    """The number of the penalty under which the first label is ranked best."""
    positive, every = (labels[:, 0] > 0).numpy(), np.ones((1, len(labels)))
    ranked = [float(auroc(of_one[:, 0].numpy(), positive, every)[0]) for of_one in scores]
    return int(np.argmax(ranked))


def fit_answers(
    read: Products,
    layers: Iterator[Float[Tensor, "answer width"]],
    labels: Float[Tensor, "answer label"],
    penalty: float,
) -> AnswerRidge:
    """The ridge of all answers, as weights of states."""
    level, unit = labels.mean(dim=0), float(read.values.diagonal().mean())
    system = _centred(read.values if read.topic is None else read.values + read.topic)
    dual = _solved(system, labels - level, unit * penalty)
    dual = dual - dual.mean(dim=0)  # the intercept is of centred products
    weight = []
    for states, by in zip(layers, read.by, strict=True):
        wide = states.double()
        weight.append((_standardised(wide, by).T @ dual).T / (by.scale * wide.shape[1] ** 0.5))
    return AnswerRidge(torch.stack(weight, dim=1), level, torch.stack([by.mean for by in read.by]))


def _centred(values: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    mean = values.mean(dim=0)
    return values - mean - mean[:, None] + mean.mean()


def _standardised(states: Float[Tensor, "answer width"], by: Standard) -> Float[Tensor, "answer width"]:
    return (states - by.mean) / (by.scale * states.shape[1] ** 0.5)


def _solved(matrix: Float[Tensor, "n n"], right: Float[Tensor, "n label"], penalty: float) -> Float[Tensor, "n label"]:
    system = matrix.clone()
    system.diagonal().add_(penalty)
    return torch.cholesky_solve(right, torch.linalg.cholesky(system))
