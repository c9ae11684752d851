"""A semantic direction in a model's activations, from a contrastive set {(x, y+, y-)} (Legend, arXiv 2406.08124).

    SMV = mean_i [ h(x_i, y+_i) - h(x_i, y-_i) ]          the standard margin vector, per layer

For safety y+ is a refusal and y- a harmful answer; what the direction means is the data, not the code. Left out: any
centring or outlier removal, which the authors' code doesn't have either.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def unit(direction: Float[Tensor, "*layer width"]) -> Float[Tensor, "*layer width"]:
    """The direction at length 1; its length carries no meaning for a margin."""
    return direction / direction.norm(dim=-1, keepdim=True)


def random_direction(layers: int, width: int, generator: torch.Generator) -> Float[Tensor, "layer width"]:
    """The control: what a projection on no direction in particular gives."""
    return torch.randn(layers, width, generator=generator)


class StandardMarginVector:
    """The mean of the differences h(x, y+) - h(x, y-), batch by batch: no more than one batch is ever held.

    Pair i counts in fold i mod `folds`, so that the vector of all other folds can be tried on pairs it hasn't seen.
    """

    def __init__(self, layers: int, width: int, folds: int = 5) -> None:
        self.folds = folds
        self._sums = torch.zeros(folds, layers, width, dtype=torch.float64)
        self._counts = torch.zeros(folds, dtype=torch.float64)

    def add(self, differences: Float[Tensor, "pair layer width"], pairs: list[int]) -> None:
        """Takes the differences of the pairs with these numbers."""
        fold = torch.tensor(pairs) % self.folds
        self._sums.index_add_(0, fold, differences.double())
        self._counts += torch.bincount(fold, minlength=self.folds)

    @property
    def vector(self) -> Float[Tensor, "layer width"]:
        return self._sums.sum(dim=0) / self._counts.sum()

    def heldout_projections(
        self, differences: Float[Tensor, "pair layer width"], pairs: list[int]
    ) -> Float[Tensor, "pair layer"]:
        """Each difference on the direction of the folds it isn't in."""
        others = (self._sums.sum(dim=0) - self._sums) / (self._counts.sum() - self._counts)[:, None, None]
        return (differences.double() * unit(others)[torch.tensor(pairs) % self.folds]).sum(dim=-1)


def separation(projections: Float[Tensor, "pair layer"]) -> Float[Tensor, " layer"]:
    """How far apart the direction puts y+ and y-: mean / standard deviation of the projected differences."""
    return projections.mean(dim=0) / projections.std(dim=0)
