"""Confidences by hand, their invariants, and the temperature against a grid."""

import math

import pytest
import torch
from torch.nn.functional import logsigmoid

from alignment.maths.confidence import (
    ALPHA,
    LARGEST,
    calibrated_loss,
    calibration_error,
    fit_temperature,
    paper_confidence,
    released_confidence,
    released_means,
    saturated_share,
)


def rewards(pairs: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    chosen, rejected = torch.randn(2, pairs, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return chosen + 0.5, rejected


def test_the_papers_confidence_by_hand():
    """Eq. 8 with exponentials; alpha is 7.5, and a gap of 1 already saturates it."""
    chosen, rejected = torch.tensor([0.3, 1.0]).double(), torch.tensor([0.1, 0.0]).double()
    expected = (ALPHA * chosen).exp() / ((ALPHA * chosen).exp() + (ALPHA * rejected).exp())
    torch.testing.assert_close(paper_confidence(chosen, rejected), expected)
    assert ALPHA == 7.5 and float(paper_confidence(chosen, rejected)[1]) > 0.9994


def test_the_two_orders_of_a_pair_add_up_to_one():
    """Invariant 3."""
    chosen, rejected = rewards(50)
    both = paper_confidence(chosen, rejected, 2.0) + paper_confidence(rejected, chosen, 2.0)
    torch.testing.assert_close(both, torch.ones(50).double())


def test_the_released_confidence_by_hand():
    """dpo_trainer.py: means of sigma - 1/2 over the batch, then a sigmoid, never below 1/2."""
    chosen, rejected = rewards(40)
    c, r = chosen.sigmoid().mean() - 0.5, rejected.sigmoid().mean() - 0.5
    expected = torch.sigmoid(7.5 * (c - r))
    assert expected > 0.5
    torch.testing.assert_close(released_confidence(released_means(chosen, rejected)), expected)
    assert released_confidence(released_means(rejected, chosen)) == 0.5
    assert released_confidence(released_means(chosen[:0], rejected[:0])) == 0.5


def test_the_released_confidence_does_not_depend_on_how_ranks_share_a_batch():
    chosen, rejected = rewards(7)
    parts = [released_means(chosen[i:j], rejected[i:j]) for i, j in ((0, 2), (2, 7), (7, 7))]
    torch.testing.assert_close(released_confidence(sum(parts)), released_confidence(released_means(chosen, rejected)))


@pytest.mark.parametrize("margin", [0.0, 1.0])
def test_the_temperature_is_the_best_of_a_grid(margin):
    chosen, rejected = rewards(200)
    gaps = chosen - rejected
    grid = torch.linspace(0, 10, 100001).double()
    loss = torch.stack([-logsigmoid(alpha * gaps - margin).mean() for alpha in grid[::100]])
    near = int(loss.argmin()) * 100
    fine = grid[max(0, near - 100) : near + 101]
    best = fine[torch.stack([-logsigmoid(alpha * gaps - margin).mean() for alpha in fine]).argmin()]
    alpha, capped = fit_temperature(gaps, margin)
    assert alpha == pytest.approx(float(best), abs=2e-4) and not capped


def test_a_temperature_finds_the_probability_that_made_the_labels():
    generator = torch.Generator().manual_seed(0)
    gaps = torch.rand(200_000, generator=generator).double() * 2
    right = torch.rand(200_000, generator=generator) < torch.sigmoid(1.7 * gaps)
    assert fit_temperature(torch.where(right, gaps, -gaps)).alpha == pytest.approx(1.7, abs=0.02)


def test_separable_and_meaningless_gaps():
    """All right: the largest alpha, and it says so; wrong on average: 0, so that gamma is 1/2."""
    gaps = torch.tensor([0.01, 0.03]).double()
    assert fit_temperature(gaps) == (pytest.approx(LARGEST / 0.02), True)
    assert fit_temperature(-gaps) == (0.0, False)
    assert calibrated_loss(-gaps) == pytest.approx(math.log(2))


def test_the_calibrated_loss_does_not_change_with_scale():
    gaps = rewards(100)[0]
    assert calibrated_loss(gaps) == pytest.approx(calibrated_loss(1e-3 * gaps), rel=1e-9)


def test_calibration_error_by_hand():
    """Bins [.5, .75) and [.75, 1]: |(.6 + .7) - 1| / 4 + |(.9 + .9) - 2| / 4; gamma = .1 is side .9."""
    confidence, agrees = torch.tensor([0.6, 0.7, 0.9, 0.1]).double(), torch.tensor([0.0, 1.0, 1.0, 1.0]).double()
    assert calibration_error(confidence, agrees, bins=2) == pytest.approx(0.3 / 4 + 0.2 / 4)
    assert calibration_error(torch.tensor([1.0, 0.5]), torch.tensor([1.0, 0.5])) == 0


def test_a_calibrated_confidence_has_a_small_error_in_either_orientation():
    generator = torch.Generator().manual_seed(0)
    gaps = torch.randn(100_000, generator=generator).double() * 2
    right = (torch.rand(100_000, generator=generator) < torch.sigmoid(gaps.abs())).double()
    for confidence in (torch.sigmoid(gaps), torch.sigmoid(-gaps)):
        assert calibration_error(confidence, right) < 0.01
    assert calibration_error(torch.sigmoid(5 * gaps), right) > 0.1


def test_saturated_share():
    assert saturated_share(torch.tensor([0.005, 0.5, 0.995, 0.985])) == 0.5
