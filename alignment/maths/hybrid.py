"""The hybrid reward (confidence DPO, arXiv 2503.10093): a probe per layer, combined by a gate.

s_l = score of layer l's probe,    w = gate(s),    R = sum_l w_l s_l   no output bias, R is not normalised
L = -log sigma(R_c - R_r - mu)                                         eq. 7, mu = 1; c chosen, r rejected

sigmoid_scores   w = sigma(V s)        the final paper's figure and the authors' code; V is layers x layers
softmax_scores   w = softmax(V s)      the submission's text
static_softmax   w = softmax(v)        the same for every answer
uniform          w = 1 / layers
last_layer       w picks the last layer
best_layer       w picks the layer that orders held-out pairs best
"""

from collections.abc import Sequence
from typing import NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from alignment.maths.probes import Probes
from alignment.types import Gate

GATES: tuple[Gate, ...] = get_args(Gate)

PARAMETERS = ("weight", "bias", "vote")
MOMENTUM = 0.9
RATE = {"probes": 0.3, "vote": 0.03}  # step sizes over the largest stable one; a gate soon learns pairs by heart


class Head(NamedTuple):
    """Probes and gate. vote: V or v, where the gate has one. layer: the layer that best_layer picks, from 0."""

    weight: Float[Tensor, "layer rank"]
    bias: Float[Tensor, " layer"]
    vote: Float[Tensor, "layer ..."] | None
    gate: Gate
    layer: int | None = None


def gate_weights(
    scores: Float[Tensor, "row layer"], gate: Gate, vote: Float[Tensor, "layer ..."] | None, layer: int | None = None
) -> Float[Tensor, "row layer"]:
    """The weights w of every row."""
    if gate == "sigmoid_scores":
        return torch.sigmoid(scores @ vote.T)
    if gate == "softmax_scores":
        return torch.softmax(scores @ vote.T, dim=1)
    if gate == "static_softmax":
        return torch.softmax(vote, dim=0).expand_as(scores)
    if gate == "uniform":
        return torch.full_like(scores, 1 / scores.shape[1])
    picked = torch.zeros_like(scores)
    picked[:, -1 if gate == "last_layer" else layer] = 1
    return picked


def vote_shape(gate: Gate, layers: int) -> tuple[int, ...] | None:
    """The shape of V or v; None for gates without one."""
    if gate in ("sigmoid_scores", "softmax_scores"):
        return layers, layers
    return (layers,) if gate == "static_softmax" else None


def first_head(probes: Probes, gate: Gate, layer: int | None = None) -> Head:
    """The head before it is trained: R is the mean of the probes' scores, or the picked layer's score.

    Under sigmoid_scores every w starts at sigma(0) = 1/2, so the probes are taken times 2 / layers.
    """
    layers = len(probes.bias)
    factor = 2 / layers if gate == "sigmoid_scores" else 1.0
    shape = vote_shape(gate, layers)
    vote = None if shape is None else probes.bias.new_zeros(shape)
    return Head(factor * probes.weight, factor * probes.bias, vote, gate, layer)


def rescaled(head: Head, factor: float) -> Head:
    """The head with R times a factor, exactly: the probes times it; V, which reads their scores, divided by it."""
    reads_scores = head.gate in ("sigmoid_scores", "softmax_scores")
    vote = head.vote / factor if reads_scores else head.vote
    return head._replace(weight=factor * head.weight, bias=factor * head.bias, vote=vote)


def layer_scores(
    x: Float[Tensor, "layer row rank"], weight: Float[Tensor, "layer rank"], bias: Float[Tensor, " layer"]
) -> Float[Tensor, "row layer"]:
    """The scores s of every row."""
    # layer by layer: a batched product with one column is three times slower on a CPU
    return torch.stack([rows @ probe for rows, probe in zip(x, weight, strict=True)], dim=1) + bias


def hybrid_score(scores: Float[Tensor, "row layer"], weights: Float[Tensor, "row layer"]) -> Float[Tensor, " row"]:
    """R = sum_l w_l s_l."""
    return (weights * scores).sum(dim=1)


def reward(x: Float[Tensor, "layer row rank"], head: Head) -> Float[Tensor, " row"]:
    """The reward R of every row."""
    scores = layer_scores(x, head.weight, head.bias)
    return hybrid_score(scores, gate_weights(scores, head.gate, head.vote, head.layer))


# ---- joint training -------------------------------------------------------------------------------------------------


class JointTraining:
    """Gradient descent on eq. 7, probes and gate together; the first half of the rows are chosen, the others rejected.

    It goes by gradients with Nesterov's momentum, not by Adam, so that the result doesn't depend on the basis x is
    written in. Each kind of parameter has the step size that its curvature at the start allows: the loss curves by at
    most mean |dgap|^2 / 4.
    """

    def __init__(
        self, x: Float[Tensor, "layer row rank"], head: Head, margin: float, trained: Sequence[str] = PARAMETERS
    ) -> None:
        self._x, self._head, self._margin = x, head, margin
        names = [name for name in trained if getattr(head, name) is not None]
        self._values = {name: getattr(head, name).detach().clone().requires_grad_() for name in names}
        self._velocities = {name: torch.zeros_like(value) for name, value in self._values.items()}
        self._sizes = _step_sizes(x, head)

    @property
    def head(self) -> Head:
        """The head as it stands now."""
        return self._head._replace(**{name: value.detach().clone() for name, value in self._values.items()})

    def step(self) -> None:
        with torch.enable_grad():
            loss = -logsigmoid(gaps(self._x, self._head._replace(**self._values)) - self._margin).mean()
            slopes = torch.autograd.grad(loss, list(self._values.values()), allow_unused=True, materialize_grads=True)
        with torch.no_grad():
            for (name, value), slope in zip(self._values.items(), slopes, strict=True):
                velocity = self._velocities[name].mul_(MOMENTUM).add_(slope)
                value -= self._sizes[name] * (slope + MOMENTUM * velocity)


def gaps(x: Float[Tensor, "layer row rank"], head: Head) -> Float[Tensor, " pair"]:
    """R_c - R_r of rows that are all chosen answers, then all rejected ones."""
    chosen, rejected = reward(x, head).chunk(2)
    return chosen - rejected


def _step_sizes(x: Float[Tensor, "layer row rank"], head: Head) -> dict[str, float]:
    """RATE / mean over pairs of |dgap/dparameter|^2 at the start; 0 where the gap doesn't depend on the parameter.

    Weights and biases share a step size, a bias being a weight on a constant: on its own it would get a huge one, since
    it hardly moves the gap.
    """
    scores = layer_scores(x, head.weight, head.bias)
    weights = gate_weights(scores, head.gate, head.vote, head.layer)
    with_constant = torch.cat([x, torch.ones_like(x[:, :, :1])], dim=2)
    slopes = {"probes": weights.T[:, :, None] * with_constant}
    if head.vote is not None:
        slopes["vote"] = vote_slopes(scores, weights, head.gate).movedim(0, 1)
    sizes = {}
    for name, slope in slopes.items():  # (parameter, row, parameter)
        chosen, rejected = slope.chunk(2, dim=1)
        square = float((chosen - rejected).square().sum(dim=(0, 2)).mean())
        sizes[name] = RATE[name] / square if square > 1e-12 else 0.0
    return {"weight": sizes["probes"], "bias": sizes["probes"], "vote": sizes.get("vote", 0.0)}


def vote_slopes(
    scores: Float[Tensor, "row layer"], weights: Float[Tensor, "row layer"], gate: Gate
) -> Float[Tensor, "row layer inputs"]:
    """dR/dV of every row for fixed scores (one column for static_softmax's v)."""
    if gate == "sigmoid_scores":
        inner = weights * (1 - weights) * scores
    else:
        inner = weights * (scores - hybrid_score(scores, weights)[:, None])
    return inner[:, :, None] * (
        torch.ones_like(scores[:, None, :1]) if gate == "static_softmax" else scores[:, None, :]
    )
