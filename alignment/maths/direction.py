"""A semantic direction in a model's activations, from a contrastive set {(x, y+, y-)} (Legend, arXiv 2406.08124).

    SMV = mean_i [ h(x_i, y+_i) - h(x_i, y-_i) ]          the standard margin vector, per layer

For safety y+ is a refusal and y- a harmful answer; what the direction means is the data, not the code. Left out: any
centring or outlier removal, which the authors' code doesn't have either.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def standard_margin_vector(
    differences: Float[Tensor, "pair layer width"],
) -> Float[Tensor, "layer width"]:
    """The mean of the differences h(x, y+) - h(x, y-)."""
    return differences.mean(dim=0)


def unit(direction: Float[Tensor, "*layer width"]) -> Float[Tensor, "*layer width"]:
    """The direction at length 1; its length carries no meaning for a margin."""
    return direction / direction.norm(dim=-1, keepdim=True)


def random_direction(layers: int, width: int, generator: torch.Generator) -> Float[Tensor, "layer width"]:
    """The control: what a projection on no direction in particular gives."""
    return torch.randn(layers, width, generator=generator)


def heldout_separation(differences: Float[Tensor, "pair layer width"], folds: int = 5) -> Float[Tensor, " layer"]:
    """How far apart the direction puts pairs it hasn't seen: mean / standard deviation of their projections.

    Pair i is held out in fold i mod `folds`; the direction comes from the other folds.
    """
    fold = torch.arange(differences.shape[0], device=differences.device) % folds
    projections = torch.empty(differences.shape[:2], dtype=differences.dtype, device=differences.device)
    for held_out in range(folds):
        direction = unit(standard_margin_vector(differences[fold != held_out]))
        projections[fold == held_out] = (differences[fold == held_out] * direction).sum(dim=-1)
    return projections.mean(dim=0) / projections.std(dim=0)
