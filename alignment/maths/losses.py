"""The losses of both methods, one per pair: averaging them is the trainer's business."""

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
