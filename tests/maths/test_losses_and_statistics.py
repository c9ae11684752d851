"""The ranking loss by hand, the metrics on cases with known answers, and Student's interval against scipy."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from alignment.maths.losses import (
    batch_beta,
    confidence_dpo_loss,
    flip_aware_loss,
    identity_loss,
    margin_ranking_loss,
    robust_loss,
    worst_case_weights,
)  # fmt: skip
from alignment.maths.metrics import distribution, mean_where, ordered_right, spearman
from alignment.maths.statistics import ratio_interval, t_interval


def test_margin_loss_by_hand():
    """gap 1 and margin 3: -log sigma(-2) = log(1 + e^2)."""
    loss = margin_ranking_loss(torch.tensor([2.0, 0.5]), torch.tensor([1.0, 0.5]), torch.tensor([3.0, 0.0]))
    torch.testing.assert_close(loss, torch.tensor([math.log(1 + math.e**2), math.log(2)]))


def test_no_margin_is_a_margin_of_zero_bit_for_bit():
    """Invariant 6."""
    chosen, rejected = torch.randn(2, 100, generator=torch.Generator().manual_seed(0))
    without = margin_ranking_loss(chosen, rejected, None)
    assert torch.equal(margin_ranking_loss(chosen, rejected, torch.zeros(100)), without)


def test_gradient_is_the_probability_of_missing_the_margin():
    chosen = torch.tensor([1.0, -2.0], requires_grad=True)
    rejected, margin = torch.tensor([0.5, 0.0]), torch.tensor([2.0, -1.0])
    margin_ranking_loss(chosen, rejected, margin).sum().backward()
    torch.testing.assert_close(chosen.grad, -torch.sigmoid(margin - (chosen - rejected)).detach())


def test_confidence_dpo_loss_by_hand():
    """At z = log 3, sigma(z) = 3/4: with gamma = 1/4 it is -1/4 log 3/4 - 3/4 log 1/4; at z = 0 log 2 for any gamma."""
    loss = confidence_dpo_loss(torch.tensor([math.log(3), 0.0, 0.0]), torch.tensor([0.25, 0.0, 0.7]))
    by_hand = -0.25 * math.log(0.75) - 0.75 * math.log(0.25)
    torch.testing.assert_close(loss, torch.tensor([by_hand, math.log(2), math.log(2)]))


def test_the_gradient_in_z_is_sigma_minus_gamma_and_ends_at_its_logit():
    z = torch.linspace(-4, 4, 9, dtype=torch.float64, requires_grad=True)
    gamma = torch.linspace(0.1, 0.9, 9, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(confidence_dpo_loss(z, gamma.detach()).sum(), z)
    torch.testing.assert_close(slope, torch.sigmoid(z.detach()) - gamma.detach())
    at = torch.logit(gamma.detach()).requires_grad_()
    (slope,) = torch.autograd.grad(confidence_dpo_loss(at, gamma.detach()).sum(), at)
    torch.testing.assert_close(slope, torch.zeros_like(slope))


def test_turning_a_pair_round_turns_its_confidence_round():
    z, gamma = torch.randn(50, generator=torch.Generator().manual_seed(0)), torch.linspace(0, 1, 50)
    torch.testing.assert_close(confidence_dpo_loss(z, gamma), confidence_dpo_loss(-z, 1 - gamma))
    far = confidence_dpo_loss(torch.tensor([200.0, -200.0]), torch.tensor([0.0, 1.0]))
    assert far.tolist() == [200.0, 200.0]  # no overflow, and a pair of confidence 0 pulls as hard the other way


def test_robust_and_flip_aware_losses_by_hand():
    """At z = log 3, sigma(z) = 3/4. Robust with a fifth: [-0.8 log 3/4 + 0.2 log 1/4] / 0.6; its mean over labels of
    which a fifth is turned round is DPO's loss on the right ones. Flip-aware with 0.1: -log(0.9 3/4 + 0.1 1/4)."""
    z = torch.tensor([math.log(3)], dtype=torch.float64)
    robust = robust_loss(z, 0.2)
    assert robust.item() == pytest.approx((-0.8 * math.log(0.75) + 0.2 * math.log(0.25)) / 0.6)
    assert (0.8 * robust + 0.2 * robust_loss(-z, 0.2)).item() == pytest.approx(-math.log(0.75))
    assert flip_aware_loss(z, torch.tensor([0.1])).item() == pytest.approx(-math.log(0.9 * 0.75 + 0.1 * 0.25))
    assert flip_aware_loss(z, torch.tensor([0.0])).item() == robust_loss(z, 0.0).item() == -math.log(0.75)
    assert identity_loss(torch.tensor([3.0]), 0.25).item() == 1.0


def test_where_a_policy_is_sure_of_the_other_side_a_flip_aware_loss_teaches_nothing():
    z = torch.tensor([-30.0, -1.0, 30.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(flip_aware_loss(z, torch.full((3,), 0.1, dtype=torch.float64)).sum(), z)
    s = torch.sigmoid(z.detach())
    torch.testing.assert_close(slope, s - 0.9 * s / (0.9 * s + 0.1 * (1 - s)))
    assert slope[0].abs() < 1e-11 and slope[1].abs() > 0.3


def test_worst_case_weights_and_the_beta_of_a_batch_by_hand():
    weights = worst_case_weights(torch.tensor([math.log(2), math.log(4)]), 1.0)  # exp(-L): 1/2 and 1/4
    torch.testing.assert_close(weights, torch.tensor([4 / 3, 2 / 3]))
    assert batch_beta(0.5, 3.0, 1.0, 0.6) == pytest.approx(0.5 * 2.2) and batch_beta(0.5, -9.0, 1.0, 0.6) == 0.0005


def test_a_tie_is_half_right():
    assert ordered_right(np.array([1.0, 0.0, 2.0]), np.array([0.0, 1.0, 2.0])).tolist() == [1.0, 0.0, 0.5]


def test_spearman_and_where_there_is_none():
    rising = np.arange(10.0)
    assert spearman(rising, np.exp(rising)) == pytest.approx(1.0)
    assert spearman(rising, -rising) == pytest.approx(-1.0)
    assert spearman(rising, np.ones(10)) is None
    tied = np.array([1.0, 7.0, 7.0, 9.0])  # ranks 1, 2.5, 2.5, 4: -1.5, 0, 0, 1.5 beside -1.5, -0.5, 0.5, 1.5
    assert spearman(tied, np.arange(4.0)) == pytest.approx(4.5 / np.sqrt(4.5 * 5))
    assert mean_where(rising, rising > 7) == 8.5
    assert mean_where(rising, rising > 99) is None
    assert distribution(rising - 1.0)["negative_share"] == 0.1
    assert distribution(np.array([])) is None


def test_a_ratio_has_students_interval_on_its_logarithm():
    """By the delta method: d = ours - 0.375 theirs is -0.025, 0.025; its error s / sqrt(2) is 0.025, over 0.15."""
    ratio, low, high = ratio_interval([0.1, 0.2], [1 / 3, 7 / 15])
    assert ratio == pytest.approx(0.375)
    half = stats.t.ppf(0.975, 1) * 0.025 / 0.15
    assert [math.log(end / ratio) for end in (low, high)] == pytest.approx([-half, half])


@pytest.mark.parametrize("ours", [[0.0, 0.0, 0.02], [0.0, 0.01, 0.0], [0.2, 0.3, 0.25], [0.9, 0.0, 0.0]])
def test_the_interval_of_a_ratio_holds_it_and_passes_no_end(ours):
    for theirs in ([0.4, 0.5, 0.6], [0.9, 0.01, 0.3], [0.1, 0.05, 0.0]):
        ratio, low, high = ratio_interval(ours, theirs)
        assert 0 < low < ratio < high


def test_a_ratio_of_which_nothing_is_known_has_no_interval():
    assert ratio_interval([0.2], [0.4]) == (0.5, None, None)
    assert ratio_interval([0.2, 0.2], [0.4, 0.4]) == (0.5, None, None), "seeds that agree"
    assert ratio_interval([0.2, 0.3, 0.25], [0.4, 0.6, 0.5])[1:] == (None, None), "their ratios agree"
    assert ratio_interval([0.0, 0.0], [0.4, 0.5]) == (0.0, None, None), "ours is always 0"


def test_the_interval_of_a_ratio_holds_the_truth_as_often_as_it_says():
    """Five seeds whose rates vary by a quarter, and so do not have a normal ratio."""
    random = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        ours, theirs = 0.1 * random.gamma(16, 1 / 16, 5), 0.3 * random.gamma(16, 1 / 16, 5)
        _, low, high = ratio_interval(list(ours), list(theirs))
        held += low <= 1 / 3 <= high
    assert 0.93 <= held / 1000 <= 0.97


def test_interval_is_students():
    values = [0.91, 0.93, 0.92, 0.95, 0.90]
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    interval = t_interval(values)
    assert interval.mean == pytest.approx(np.mean(values))
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))
    assert t_interval([0.5]) == (0.5, None, None) == t_interval([0.5, 0.5]), "of which nothing is known"
