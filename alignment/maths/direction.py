"""A semantic direction in a model's activations, from a contrastive set {(x, y+, y-)} (Legend, arXiv 2406.08124).

    SMV = mean_i [ h(x_i, y+_i) - h(x_i, y-_i) ]          the standard margin vector, per layer

h(x, y) is the hidden state at the end of answer y to prompt x. For safety y+ is a refusal and y- a harmful answer: the
data says what the direction means, the code doesn't. Nothing is centred and no outlier removed, as in the authors'
code.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def unit(direction: Float[Tensor, "*layer width"]) -> Float[Tensor, "*layer width"]:
    """The direction at length 1; its length carries no meaning for a margin."""
    return direction / direction.norm(dim=-1, keepdim=True)


def random_direction(layers: int, width: int, generator: torch.Generator) -> Float[Tensor, "layer width"]:
    """A direction that means nothing: the control for projections on the SMV."""
    return torch.randn(layers, width, generator=generator)


class StandardMarginVector:
    """The SMV, summed up batch by batch, so that no more than one batch of differences is ever held.

    Pair i counts in fold i mod `folds`, so that the vector of the other folds can be tried on pairs it hasn't seen.
    """

    def __init__(self, layers: int, width: int, folds: int = 5) -> None:
        self.folds = folds
        self._sums = torch.zeros(folds, layers, width, dtype=torch.float64)
        self._counts = torch.zeros(folds, dtype=torch.float64)

    def add(self, differences: Float[Tensor, "pair layer width"], pairs: list[int]) -> None:
        """Adds h(x, y+) - h(x, y-) of the pairs with these numbers."""
        fold = torch.tensor(pairs) % self.folds
        self._sums.index_add_(0, fold, differences.double())
        self._counts += torch.bincount(fold, minlength=self.folds)

    @property
    def vector(self) -> Float[Tensor, "layer width"]:
        return self._sums.sum(dim=0) / self._counts.sum()

    def heldout_projections(
        self, differences: Float[Tensor, "pair layer width"], pairs: list[int]
    ) -> Float[Tensor, "pair layer"]:
        """The projection of each difference on the SMV of the folds that its pair isn't in."""
        others = (self._sums.sum(dim=0) - self._sums) / (self._counts.sum() - self._counts)[:, None, None]
        return (differences.double() * unit(others)[torch.tensor(pairs) % self.folds]).sum(dim=-1)


def separation(projections: Float[Tensor, "pair layer"]) -> Float[Tensor, " layer"]:
    """How far apart the direction puts y+ and y-: mean / standard deviation of the projected differences."""
    return projections.mean(dim=0) / projections.std(dim=0)


def length_free_separation(
    projections: Float[Tensor, "pair layer"], longer: Float[Tensor, " pair"]
) -> Float[Tensor, " layer"]:
    """The separation that is left at equal length: intercept / standard deviation of the residuals, of the projected
    differences regressed on the difference of the answers' tokens (`longer`: of y+ over y-).

    Pairs that all differ by as much say nothing of what length does: theirs is the plain separation.
    """
    if not longer.double().std():
        return separation(projections)
    tokens = torch.stack([torch.ones(len(longer)), longer], dim=1).double()
    line = torch.linalg.lstsq(tokens, projections.double()).solution
    residuals = projections - tokens @ line
    return line[0] / (residuals.square().sum(dim=0) / (len(longer) - 2)).sqrt()
