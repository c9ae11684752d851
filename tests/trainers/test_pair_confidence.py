"""Each kind of confidence, by hand: what gamma is, what the reward learns, what a checkpoint keeps of it."""

from dataclasses import replace
from math import exp, log
from types import SimpleNamespace

import pytest
import torch

from alignment.maths.hybrid import Head
from alignment.models.hybrid_reward import HybridReward
from alignment.trainers.cdpo_config import ConfidenceDPOConfig
from alignment.trainers.cdpo_metrics import PairRecord
from alignment.trainers.moved import Moved
from alignment.trainers.pair_confidence import Confidence, Judged, confidence_of
from alignment.types import Diverged, StageFailed, UserError

POLICY = SimpleNamespace(num_hidden_layers=1, hidden_size=2)
# what the reward of `first_number` says of two pairs: gaps of 2 and of -1
STATES = torch.tensor([[[3.0, 5.0]], [[0.0, 5.0]], [[1.0, 5.0]], [[1.0, 5.0]]])
UNMOVED = Moved(torch.zeros(4), torch.ones(4), torch.zeros(4), torch.zeros(2))
DIFFERENCE = torch.tensor([0.25, -0.5], dtype=torch.bfloat16)


def first_number(alpha: float | None = 0.5, width: int = 2) -> HybridReward:
    """R is the first number of a state: weight 2, divided by the width."""
    weight = torch.zeros(1, width, dtype=torch.float64)
    weight[0, 0] = width
    head = Head(weight, torch.zeros(1), None, "uniform")
    return HybridReward(torch.zeros(1, width), torch.ones(1, width), head, "endpoint", alpha, {})


def made(confidence: str, ranks: int = 1, reward: HybridReward | None = None, **settings) -> Confidence:
    """sum_over_ranks: as if each of so many had the same pairs."""
    args = ConfidenceDPOConfig("out", use_cpu=True, report_to="none", bf16=False, confidence=confidence, **settings)
    kind = confidence_of(args, POLICY, torch.device("cpu"), lambda sums: ranks * sums)
    if args.live:
        kind.take(first_number() if reward is None else reward)
    return kind


def judge(kind: Confidence, batch: dict | None = None, real: int | None = None, states=STATES) -> Judged:
    return kind.judge(DIFFERENCE, batch or {}, SimpleNamespace(states=states), real)


def sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x))


# ---- gamma ----------------------------------------------------------------------------------------------------------


def test_a_fixed_confidence_is_the_same_for_every_pair():
    kind = made("fixed", fixed_confidence=0.75)
    judged = judge(kind)
    assert judged.confidence.tolist() == [0.75, 0.75] and judged.confidence.dtype == torch.bfloat16
    assert judged.states is None and kind.pooling is None and kind.live is None and not kind.needs_reward


def test_a_columns_confidence_is_the_pairs_own():
    judged = judge(made("column"), {"confidence": torch.tensor([0.25, 1.0])})
    assert judged.confidence.tolist() == [0.25, 1.0] and judged.confidence.dtype == torch.bfloat16


@pytest.mark.parametrize("name, alpha", [("paper", 2.0), ("calibrated", 0.5)])
def test_a_live_confidence_is_a_sigmoid_of_the_reward_gap(name, alpha):
    """The paper's slope is a setting; a calibrated one comes with the reward."""
    kind = made(name, **({"alpha": alpha} if name == "paper" else {}))
    judged = judge(kind)
    assert judged.rewards.tolist() == [3.0, 0.0, 1.0, 1.0] and judged.gate_weights.tolist() == [[1.0]] * 4
    assert kind.gamma(judged.rewards).tolist() == pytest.approx([sigmoid(2 * alpha), sigmoid(-alpha)])
    assert judged.confidence.tolist() == pytest.approx([sigmoid(2 * alpha), sigmoid(-alpha)], rel=2**-8)
    assert kind.pooling == "endpoint"


def test_the_released_confidence_is_one_number_of_the_real_pairs_of_all_ranks():
    """sigma(R) of the first pair: 0.95 and 0.73; the second pair is filler, or turns their means around."""
    kind = made("released", ranks=3, alpha=4.0)
    first = sigmoid(4 * (sigmoid(3) - sigmoid(1)))
    rewards = judge(kind).rewards
    assert kind.gamma(rewards, 1).tolist() == pytest.approx([first, first])
    both = sigmoid(4 * ((sigmoid(3) + sigmoid(0)) / 2 - sigmoid(1)))
    assert both < 0.5 and kind.gamma(rewards).tolist() == [0.5, 0.5]


def test_states_that_are_no_numbers_end_the_training():
    """Of all ranks together, and not before somebody looks: until then the host needn't wait for the device."""
    kind = made("paper")
    judge(kind)
    kind.require_finite()
    judge(kind, states=STATES * torch.inf)
    with pytest.raises(Diverged, match="policy: its activations are no longer finite numbers"):
        kind.require_finite()
    kind.require_finite()  # it was said


def test_the_first_that_is_no_number_is_the_cause_of_what_follows():
    """A reward that diverged makes the loss no number, the step after that the policy."""
    kind = made("paper")
    weight = kind.live.reward.weight.data.clone()
    kind.live.reward.weight.data *= torch.inf
    judge(kind)
    kind.live.reward.weight.data = weight
    judge(kind, states=STATES * torch.inf)
    with pytest.raises(Diverged, match="reward: its scores are no longer finite numbers"):
        kind.require_finite()


# ---- the reward -----------------------------------------------------------------------------------------------------


def test_a_live_confidence_needs_a_reward_that_fits():
    args = ConfidenceDPOConfig("out", use_cpu=True, report_to="none", bf16=False)
    kind = confidence_of(args, POLICY, torch.device("cpu"), lambda sums: sums)
    assert kind.needs_reward and kind.live is None
    for reward, problem in (
        (first_number(width=3), "it reads 1 layers of 3, and the policy has 1 of 2"),
        (first_number(alpha=None), "it was never calibrated"),
        (first_number(alpha=0.0), "no better than chance"),
    ):
        with pytest.raises(UserError, match=problem):
            kind.take(reward)
    kind.take(first_number())
    assert not kind.needs_reward and kind.live.reward.alpha == 0.5
    assert made("paper", reward=first_number(alpha=None)).live is not None


def test_a_reward_learns_the_pairs_it_is_to_and_no_others():
    """The gap of the first pair is 2, and 1 is asked for; AdamW's first step is the rate, whatever the gradient."""
    kind = made("calibrated", refit_learning_rate=0.1, refit_weight_decay=0.0)
    judged = judge(kind)
    kind.learn(judged, [True, False])
    assert kind.step() == {"head_loss": pytest.approx(log(1 + exp(-1))), "alpha": 0.5}
    assert kind.live.reward.weight.tolist() == [[pytest.approx(2.1), 0.0]]
    kind.learn(judged, [False])  # the second pair is filler, and the first was cut short
    assert kind.step() == {"alpha": 0.5}


def test_what_does_not_learn_has_nothing_to_log_or_to_keep(tmp_path):
    for kind in (made("fixed", fixed_confidence=0.9), made("column")):
        judged = judge(kind, {"confidence": torch.ones(2)})
        kind.learn(judged, [True, True])
        kind.check(judged, [True, True])
        assert kind.step() == {}
        kind.save(tmp_path)
        assert not list(tmp_path.iterdir())
        kind.load(tmp_path)


def test_a_confidence_goes_on_where_it_was_saved_with_or_without_a_reward_before(tmp_path):
    kind, taught = made("calibrated"), [True, True]
    for _ in range(2):
        kind.learn(judge(kind), taught)
        kind.step()
    kind.save(tmp_path)
    other = made("calibrated", reward=first_number(alpha=0.25))
    new = confidence_of(kind._args, POLICY, torch.device("cpu"), lambda sums: sums)
    for again in (other, new):
        again.load(tmp_path)
        assert torch.equal(judge(again).rewards, judge(kind).rewards) and again.live.reward.alpha == 0.5
    for one in (kind, other, new):
        one.learn(judge(one), taught)
        one.step()
    assert torch.equal(kind.live.reward.weight, other.live.reward.weight)
    assert torch.equal(kind.live.reward.weight, new.live.reward.weight)


# ---- the check at start ---------------------------------------------------------------------------------------------


def test_the_check_moves_a_copy_of_the_reward():
    kind = made("calibrated")
    kind.check(judge(kind), [True, True])
    assert kind.live.reward.weight.tolist() == [[2.0, 0.0]]
    kind.learn(judge(kind), [True, False])
    assert kind.step()["head_loss"] == pytest.approx(log(1 + exp(-1))), "it left pairs behind"


@pytest.mark.parametrize("confidence, alpha", [("paper", 2.0), ("released", 0.001), ("paper", 50.0)])
def test_the_check_names_a_refit_that_changes_nothing(confidence, alpha, monkeypatch):
    """Where gamma is pinned (at 0 and 1, or the floor of 1/2) the rewards must move."""
    kind = made(confidence, alpha=alpha)
    judged, taught = judge(kind), [True, True]
    kind.check(judged, taught)
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: None)
    kind.check(judged, [False, False])  # nothing was to be learned
    made(confidence, alpha=alpha, refit="off").check(judged, taught)
    with pytest.raises(StageFailed, match="changes no confidence"):
        kind.check(judged, taught)


def test_each_kind_says_its_formula():
    assert made("fixed", fixed_confidence=1.0).describe() == "γ = 1.0 for every pair (DPO)"
    assert made("fixed", fixed_confidence=0.9).describe() == "γ = 0.9 for every pair"
    assert made("column").describe() == "γ = the column `confidence`, per pair"
    read = "; R: uniform over 1 layers at the endpoint, "
    adamw = "by AdamW, rate 0.01, weight decay 0.01"
    for kind, expected in (
        (
            made("calibrated"),
            f"γ = σ(0.5 (R_c - R_r)) per pair, calibrated{read}re-fitted each step on -log σ(R_c - R_r - 1) {adamw}",
        ),
        (
            made("paper", refit="no_margin"),
            f"γ = σ(7.5 (R_c - R_r)) per pair{read}re-fitted each step on -log σ(R_c - R_r) {adamw}",
        ),
        (
            made("released", refit="off"),
            "γ = max(σ(7.5 (mean σ(R_c) - mean σ(R_r))), 1/2) per micro-batch of all ranks: results depend on its "
            f"size{read}not re-fitted",
        ),
    ):
        assert kind.describe() == expected


# ---- what is logged -------------------------------------------------------------------------------------------------


def test_what_is_logged_of_pairs_is_of_the_real_ones_since_the_last_time():
    """Two micro-batches: two pairs, then one beside filler."""
    accelerator = SimpleNamespace(gather=lambda rows: rows)
    record, kind = PairRecord(), made("paper", alpha=1.0)
    judged = replace(judge(kind), moved=UNMOVED)
    record.add(judged, 2.0, None)
    record.add(judged, 2.0, 1)
    assert record
    found = record.summary(accelerator)
    gammas = [float(gamma) for gamma in judged.confidence]
    assert found["confidence"] == pytest.approx((2 * gammas[0] + gammas[1]) / 3)
    assert found["dpo_gap"] == pytest.approx((2 * 0.5 - 1.0) / 3) and found["dpo_accuracy"] == pytest.approx(2 / 3)
    assert found["hybrid_gap"] == pytest.approx((2 * 2 - 1) / 3) and found["hybrid_accuracy"] == pytest.approx(2 / 3)
    assert found["gate_weight_1"] == 1.0 and found["saturated_share"] == 0.0 and not record
    record.add(replace(judge(made("fixed", fixed_confidence=0.995)), moved=UNMOVED), 2.0, None)
    static = record.summary(accelerator)
    assert static["saturated_share"] == 1.0 and static["dpo_accuracy"] == 0.5 and "hybrid_gap" not in static
