"""A shrunken linear discriminant between the two sides of a contrastive set: the mean difference, whitened.

    w = ((1 - s) S + s tr(S)/d I)^-1 (mu+ - mu-)

S is the covariance within the sides, pooled: what answers of one side differ in among themselves (their length, their
subject) counts for less, where the mean difference alone counts it in full. s, the shrinkage, is chosen by pairs that
the discriminant wasn't fitted on. Everything is in float64.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from alignment.maths.direction import unit

SHRINKAGES = (0.01, 0.03, 0.1, 0.3, 0.6, 0.9)
FOLDS = 5  # pair i is in fold i mod FOLDS, as in StandardMarginVector


def discriminants(
    positive: Float[Tensor, "pair width"], negative: Float[Tensor, "pair width"], shrinkages: Sequence[float]
) -> Float[Tensor, "shrinkage width"]:
    """The discriminant of each shrinkage; one decomposition serves all."""
    states = torch.cat([positive, negative]).double()
    difference = states[: len(positive)].mean(dim=0) - states[len(positive) :].mean(dim=0)
    centred = torch.cat([side - side.mean(dim=0) for side in states.split([len(positive), len(negative)])])
    count, width = centred.shape
    if width <= count:
        values, axes = torch.linalg.eigh(centred.T @ centred / count)
        values, mean = values.clamp(min=0), values.clamp(min=0).mean()
        along = axes.T @ difference
        return torch.stack([axes @ (along / ((1 - s) * values + s * mean)) for s in shrinkages])
    # Fewer answers than dimensions: S has no other axes than those in the answers' span, centred^T u of an eigenvector
    # u of their products, and off the span only the shrinkage is left (Woodbury).
    values, vectors = torch.linalg.eigh(centred @ centred.T / count)
    values, mean = values.clamp(min=0), values.clamp(min=0).sum() / width
    along = vectors.T @ (centred @ difference)
    found = []
    for s in shrinkages:
        floor = s * mean
        inside = (1 - s) / count * along / (floor * (floor + (1 - s) * values))
        found.append(difference / floor - centred.T @ (vectors @ inside))
    return torch.stack(found)


def heldout_projections(
    positive: Float[Tensor, "pair width"], negative: Float[Tensor, "pair width"], shrinkages: Sequence[float]
) -> Float[Tensor, "pair shrinkage"]:
    """The difference of each pair on the discriminants, at length 1, of the folds that the pair isn't in."""
    fold = torch.arange(len(positive)) % FOLDS
    projections = torch.empty(len(positive), len(shrinkages), dtype=torch.float64)
    for out in range(FOLDS):
        others = discriminants(positive[fold != out], negative[fold != out], shrinkages)
        projections[fold == out] = (positive - negative)[fold == out].double() @ unit(others).T
    return projections
