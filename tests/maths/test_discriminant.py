"""The shrunken discriminant: against scikit-learn's, by hand in two dimensions, and where there are few answers."""

import time

import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from alignment.maths.direction import unit
from alignment.maths.discriminant import FOLDS, SHRINKAGES, discriminants, heldout_projections


def sides(pairs: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(pairs)
    mix = torch.randn(width, width, generator=generator)
    return tuple(torch.randn(pairs, width, generator=generator) @ mix + shift for shift in (0.7, 0.0))


@pytest.mark.parametrize("width", [6, 90], ids=["more answers", "more dimensions"])
@pytest.mark.parametrize("solver", ["lsqr", "eigen"])
def test_the_direction_is_scikit_learns(width, solver):
    positive, negative = sides(30, width)
    states, labels = torch.cat([positive, negative]).double().numpy(), [1] * 30 + [0] * 30
    for ours, shrinkage in zip(discriminants(positive, negative, SHRINKAGES), SHRINKAGES, strict=True):
        theirs = LinearDiscriminantAnalysis(solver=solver, shrinkage=shrinkage, priors=[0.5, 0.5]).fit(states, labels)
        torch.testing.assert_close(unit(ours), unit(torch.from_numpy(theirs.coef_[0])), rtol=1e-6, atol=1e-8)


def test_two_dimensions_by_hand():
    """S = diag(4, 1), mean difference (2, 1): w = (2/4, 1/1) without shrinkage; with all of it, the mean difference."""
    around = torch.tensor([[2.0, 1.0], [2.0, -1.0], [-2.0, 1.0], [-2.0, -1.0]])
    found = discriminants(around + torch.tensor([2.0, 1.0]), around, [0.0, 0.5, 1.0])
    expected = [[0.5, 1.0], [2 / 3.25, 1 / 1.75], [2 / 2.5, 1 / 2.5]]  # tr(S)/d = 2.5
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_what_answers_vary_in_among_themselves_counts_for_less():
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([10.0, 0.5, 0.5])
    positive, negative = (torch.randn(200, 3, generator=generator) * spread + s for s in (0.5, 0.0))
    (found,) = unit(discriminants(positive, negative, [0.01]))
    assert found[0].abs() < 0.2 < found[1]


def test_heldout_projections_use_the_other_folds_only():
    positive, negative = sides(23, 8)
    found = heldout_projections(positive, negative, [0.1])
    for pair in (0, 7, 22):
        others = [i for i in range(23) if i % FOLDS != pair % FOLDS]
        (vector,) = discriminants(positive[others], negative[others], [0.1])
        expected = (positive[pair] - negative[pair]).double() @ vector / vector.norm()
        torch.testing.assert_close(found[pair, 0], expected)


def test_a_wide_model_takes_a_moment():
    """250 pairs of width 4,096, all shrinkages: solved in the answers' span; a matrix of the width takes a minute."""
    positive, negative = (torch.randn(250, 4096) for _ in range(2))
    start = time.process_time()
    assert discriminants(positive, negative, SHRINKAGES).isfinite().all()
    assert time.process_time() - start < 5
