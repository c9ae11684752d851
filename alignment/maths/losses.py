"""The losses of both methods, one per pair: averaging them is the trainer's business."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid


def margin_ranking_loss(
    chosen: Float[Tensor, " pair"], rejected: Float[Tensor, " pair"], margin: Float[Tensor, " pair"] | None
) -> Float[Tensor, " pair"]:
    """L = -log sigma(r_c - r_r - m) (Llama 2, eq. 2; Legend); without a margin, the vanilla ranking loss.

    A positive margin asks for a gap of that size; a negative one is content with a pair that isn't ordered yet.
    """
    gap = chosen - rejected
    return -logsigmoid(gap if margin is None else gap - margin)


def confidence_dpo_loss(z: Float[Tensor, " pair"], confidence: Float[Tensor, " pair"]) -> Float[Tensor, " pair"]:
    """L = -gamma log sigma(z) - (1 - gamma) log sigma(-z), with the confidence gamma and
    z = beta * (difference of the log-ratios).

    dL/dz = sigma(z) - gamma: a pair is learned until the policy is as sure of it as gamma says (confidence DPO, eq. 5
    with 1 - epsilon = gamma, eq. 9). gamma = 1 is DPO; a constant gamma is its label smoothing (Mitchell 2023).
    """
    return -confidence * logsigmoid(z) - (1 - confidence) * logsigmoid(-z)


# ---- what others make of pairs with wrong labels --------------------------------------------------------------------


def robust_loss(z: Float[Tensor, " pair"], flipped: float) -> Float[Tensor, " pair"]:
    """L = [-(1 - e) log sigma(z) + e log sigma(-z)] / (1 - 2e): DPO's loss on right labels, on average over labels of
    which the share e is turned round at random (Chowdhury and others, arXiv 2403.00409, eq. 12)."""
    return (flipped * logsigmoid(-z) - (1 - flipped) * logsigmoid(z)) / (1 - 2 * flipped)


def identity_loss(difference: Float[Tensor, " pair"], beta: float) -> Float[Tensor, " pair"]:
    """L = (d - 1 / (2 beta))^2 (IPO, arXiv 2310.12036, eq. 17); d is the difference of the log-ratios, each divided by
    its answer's tokens, as IPO's authors had it computed (TRL's note)."""
    return (difference - 1 / (2 * beta)) ** 2


def worst_case_weights(losses: Float[Tensor, " pair"], temperature: float) -> Float[Tensor, " pair"]:
    """w, of mean 1, such that the mean of w L has the gradient of -t log mean exp(-L / t) (Dr. DPO, arXiv 2407.07880,
    eq. 13): pairs that the policy finds hard, as it does wrong labels, count less. A large t gives all the same."""
    return len(losses) * (-losses / temperature).softmax(dim=0)


def batch_beta(beta: float, gap: float, usual: float, strength: float) -> float:
    """[1 + a (M - M0)] beta (beta-DPO, arXiv 2407.08639): M is the mean of beta d over a batch, M0 what is usual.

    Never below a thousandth of beta: it would be no pull to the reference any more, or one away from it.
    """
    return beta * max(1 + strength * (gap - usual), 1e-3)


def flip_aware_loss(z: Float[Tensor, " pair"], flipped: Float[Tensor, " pair"]) -> Float[Tensor, " pair"]:
    """L = -log[(1 - e) sigma(z) + e sigma(-z)]: how likely the label is, if it is turned round with probability e, a
    number of each pair (FA-DPO, arXiv 2512.00709). e = 0 is DPO.

    dL/dz = sigma(z) - the probability, given its label and z, that the pair is as labelled: where a policy is sure of
    the other side it learns nothing.
    """
    return -torch.logaddexp((-flipped).log1p() + logsigmoid(z), flipped.log() + logsigmoid(-z))
