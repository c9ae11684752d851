"""One linear SVM per layer on standardised activations, all layers at once.

    min_{w, b}  (|w|^2 + b^2) / 2 + C sum_i max(0, 1 - y_i (w . x_i + b))^2         y = +1 chosen, -1 rejected

x is the standardised state divided by sqrt(width), so that |x| is about 1 and a cost C means the same at any width. The
bias is penalised like a weight, as liblinear does it. With fewer answers than dimensions the weights lie in the span of
the answers, where span_probes.py finds them.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from alignment.types import UserError

RESOLUTION = 1e-7  # a dimension that varies less than this, relative to its size, is constant: float32 can't say more
NEWTON_STEPS = 50  # measured: 4 to 8 are enough
HALVINGS = 20


class Standard(NamedTuple):
    """Takes the states of one layer to mean 0 and standard deviation 1; constant dimensions have scale 1."""

    mean: Float[Tensor, " width"]
    scale: Float[Tensor, " width"]


class Probes(NamedTuple):
    """A linear score per layer: x . weight + bias."""

    weight: Float[Tensor, "layer rank"]
    bias: Float[Tensor, " layer"]


def standard(states: Float[Tensor, "row width"], name: str) -> Standard:
    """Mean and scale over all answers; a layer that is the same for all answers is refused by its name."""
    deviation = states.std(dim=0, correction=0)
    constant = deviation <= RESOLUTION * states.abs().amax(dim=0)
    if constant.all():
        raise UserError(name, "it is the same for all answers", "leave the layer out, or read other answers")
    return Standard(states.mean(dim=0), deviation.masked_fill(constant, 1.0))


def fit_probes(x: Float[Tensor, "layer row rank"], labels: Float[Tensor, " row"], cost: float) -> Probes:
    """The SVM of every layer, by Newton's method (Mangasarian 2002).

    Each step is a least-squares fit to the active rows, those with y f < 1. Once a full step leaves the same rows
    active, the solution is exact.
    """
    layers, rows, _ = x.shape
    design = torch.cat([x, x.new_ones(layers, rows, 1)], dim=2)
    # the smaller of two equal systems: rows x rows, or rank x rank
    gram = design @ design.mT if rows < design.shape[2] else None
    weight, y_f = design.new_zeros(layers, design.shape[2]), design.new_zeros(layers, rows)
    for _ in range(NEWTON_STEPS):
        active = (y_f < 1).to(x.dtype)
        aim = _least_squares(design, gram, labels, active, cost)
        # layer by layer: a batched product with one column is three times slower on a CPU
        y_f_aim = labels * torch.stack([of_layer @ to for of_layer, to in zip(design, aim, strict=True)])
        step = _line_search(weight, aim, y_f, y_f_aim, cost)[:, None]
        weight, y_f = weight + step * (aim - weight), y_f + step * (y_f_aim - y_f)
        if bool((step == 1).all()) and torch.equal((y_f < 1).to(x.dtype), active):
            break
    return Probes(weight[:, :-1], weight[:, -1])


def _least_squares(
    design: Float[Tensor, "layer row rank"],
    gram: Float[Tensor, "layer row row"] | None,
    labels: Float[Tensor, " row"],
    active: Float[Tensor, "layer row"],
    cost: float,
) -> Float[Tensor, "layer rank"]:
    """argmin |w|^2 / 2 + C sum over active rows of (1 - y f)^2."""
    if gram is None:
        found = []
        for of_layer, which in zip(design, active.bool(), strict=True):  # of few active rows no copy of all is made
            rows = of_layer[which]
            hessian = 2 * cost * rows.T @ rows
            hessian.diagonal().add_(1)
            right = 2 * cost * rows.T @ labels[which]
            found.append(torch.cholesky_solve(right[:, None], torch.linalg.cholesky(hessian))[:, 0])
        return torch.stack(found)
    wanted = (active * labels)[:, :, None].contiguous()
    system = active[:, :, None] * gram * active[:, None, :]
    system.diagonal(dim1=1, dim2=2).add_(1 / (2 * cost))
    dual = active[:, :, None] * torch.cholesky_solve(wanted, torch.linalg.cholesky(system))
    return (design.mT @ dual)[:, :, 0]


def _line_search(
    weight: Float[Tensor, "layer rank"],
    aim: Float[Tensor, "layer rank"],
    y_f: Float[Tensor, "layer row"],
    y_f_aim: Float[Tensor, "layer row"],
    cost: float,
) -> Float[Tensor, " layer"]:
    """How much of the step is taken: all of it, or halves of it until the objective doesn't rise."""
    step, start = weight.new_ones(len(weight)), _objective(weight, y_f, cost)
    for _ in range(HALVINGS):
        at, y_f_at = weight + step[:, None] * (aim - weight), y_f + step[:, None] * (y_f_aim - y_f)
        worse = _objective(at, y_f_at, cost) > start * (1 + 1e-12)
        if not worse.any():
            break
        step = torch.where(worse, step / 2, step)
    return step


def _objective(
    weight: Float[Tensor, "layer rank"], y_f: Float[Tensor, "layer row"], cost: float
) -> Float[Tensor, " layer"]:
    """|w|^2 / 2 + C sum of (1 - y f)^2 over the rows with y f < 1."""
    return weight.square().sum(dim=1) / 2 + cost * (1 - y_f).clamp_min(0).square().sum(dim=1)
