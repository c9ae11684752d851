"""The re-fit of the live reward, by hand: R is the first of two numbers, so that gaps can be read off the states."""

import copy
from math import exp, log

import pytest
import torch

from alignment.trainers.live_reward import FILE, LiveReward
from alignment.types import StageFailed
from tests.trainers.test_pair_confidence import first_number

CHOSEN, REJECTED = torch.tensor([[[3.0, 4.0]], [[0.0, 1.0]]]), torch.tensor([[[1.0, 0.0]], [[1.0, 1.0]]])
GAPS = (2.0, -1.0)


def live(refit: str = "margin", margin: float = 1.0, rate: float = 0.1, decay: float = 0.0) -> LiveReward:
    return LiveReward(first_number(), refit, margin, rate, decay)


def alone(sums: torch.Tensor) -> torch.Tensor:
    return sums


def loss(margin: float) -> float:
    return sum(log(1 + exp(margin - gap)) for gap in GAPS) / 2


@pytest.mark.parametrize("refit, margin", [("margin", 1.5), ("no_margin", 0.0), ("off", 0.0)])
def test_the_loss_is_the_mean_over_the_pairs_of_the_step(refit, margin):
    """ "no_margin" and "off" ask for none, whatever the setting says."""
    reward = live(refit, 1.5)
    reward.add(CHOSEN, REJECTED)
    assert reward.step(alone) == pytest.approx(loss(margin))
    assert (reward.reward.weight.tolist() == [[2.0, 0.0]]) is (refit == "off")


def test_the_gradient_is_the_mean_over_pairs():
    """d loss / d w_j = -sum of sigma(m - gap) (h_c - h_r)_j / width / pairs; the bias has none: it cancels."""
    reward = live()
    reward.add(CHOSEN, REJECTED)
    slopes = [1 / (1 + exp(gap - 1)) for gap in GAPS]
    expected = [-(slopes[0] * 2 - slopes[1] * 1) / 2, -(slopes[0] * 4 + slopes[1] * 0) / 2]
    assert reward._sums[0].flatten().tolist() == pytest.approx(expected)
    assert reward._sums[1].tolist() == pytest.approx([0.0])


def test_the_first_step_of_adamw_is_the_rate_and_the_decay():
    """Whatever the size of the gradient: its sign times 0.1; and 2 loses 0.1 x 0.5 of itself."""
    reward = live(decay=0.5)
    reward.add(CHOSEN[:1], REJECTED[:1])
    reward.step(alone)
    assert reward.reward.weight.flatten().tolist() == pytest.approx([2 * 0.95 + 0.1, 0.1], abs=1e-7)


def test_it_makes_no_difference_how_a_step_is_cut_into_micro_batches_and_ranks():
    whole, parts, ranks = live(), live(), live()
    for _ in range(3):
        whole.add(CHOSEN, REJECTED)
        for i in range(2):
            parts.add(CHOSEN[i : i + 1], REJECTED[i : i + 1])
        parts.add(CHOSEN[:0], REJECTED[:0])
        ranks.add(CHOSEN, REJECTED)
        losses = [whole.step(alone), parts.step(alone), ranks.step(lambda sums: 4 * sums)]  # all have the same pairs
        assert torch.stack(losses).tolist() == pytest.approx([float(losses[0])] * 3, rel=1e-12)
    for other in (parts, ranks):
        torch.testing.assert_close(other.reward.weight, whole.reward.weight, rtol=1e-12, atol=0)


def test_the_ranks_of_a_step_learn_from_each_others_pairs():
    """Each has one pair of two, and by its own pair alone the first would go the other way."""
    whole, ranks, sums = live(), [live(), live()], []
    whole.add(CHOSEN, REJECTED)
    for i, rank in enumerate(ranks):
        rank.add(CHOSEN[i : i + 1], REJECTED[i : i + 1])
        copy.deepcopy(rank).step(lambda own: sums.append(own) or own)
    both = sums[0] + sums[1]
    losses = [reward.step(lambda own, of=of: of(own)) for reward, of in zip(
        (whole, *ranks), (alone, lambda own: both.clone(), lambda own: both.clone()), strict=True
    )]  # fmt: skip
    assert losses == pytest.approx([loss(1.0)] * 3)
    assert all(torch.equal(rank.reward.weight, whole.reward.weight) for rank in ranks)


def test_a_step_without_pairs_is_none():
    reward = live()
    assert reward.step(alone) is None and reward.reward.weight.tolist() == [[2.0, 0.0]]
    reward.add(CHOSEN, REJECTED)
    assert reward.step(alone) == pytest.approx(loss(1.0)) and reward.step(alone) is None, "pairs were kept"


def test_rewards_are_those_of_the_head_as_it_stood_when_the_step_began():
    reward = live()
    reward.add(CHOSEN, REJECTED)
    rewards, weights = reward.rewards(torch.cat([CHOSEN, REJECTED]))
    assert rewards.tolist() == [3.0, 0.0, 1.0, 1.0] and weights.tolist() == [[1.0]] * 4
    assert not rewards.requires_grad


def test_it_goes_on_exactly_where_it_was_saved(tmp_path):
    whole = live(decay=0.1)
    for step in range(4):
        if step == 2:
            whole.save(tmp_path)
            again = live(decay=0.1)
            again.load(tmp_path)
        for reward in (whole, again) if step >= 2 else (whole,):
            reward.add(CHOSEN, REJECTED * (step + 1))
            reward.step(alone)
    assert torch.equal(whole.reward.weight, again.reward.weight)
    assert torch.equal(whole.reward.bias, again.reward.bias)


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    with pytest.raises(StageFailed, match=f"it holds no {FILE}"):
        live().load(tmp_path)
    live().save(tmp_path)
    for other in (live("no_margin"), live(margin=2.0), live("off")):
        with pytest.raises(StageFailed, match=r'its re-fit is \["margin", 1.0\]'):
            other.load(tmp_path)
    elsewhere = live()
    elsewhere.reward.pooling = "mean"
    with pytest.raises(StageFailed, match="its reward is uniform at the endpoint, this one uniform at the mean"):
        elsewhere.load(tmp_path)
