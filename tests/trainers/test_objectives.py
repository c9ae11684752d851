"""What others hold against wrong labels: against TRL where it has it, by hand where it hasn't, and resumed exactly."""

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import logsigmoid
from transformers import AutoModelForCausalLM
from trl import DPOTrainer

from alignment.trainers.cdpo import ConfidenceDPOTrainer
from alignment.trainers.cdpo_config import ConfidenceDPOConfig
from alignment.trainers.moved import Moved
from alignment.trainers.objectives import FlipAware, MovingBeta, Objective, WorstCase, objective_of
from alignment.trainers.pair_confidence import Judged
from alignment.trainers.resuming import newest_intact
from alignment.types import StageFailed, UserError
from tests.trainers.test_cdpo import (
    accuracy,
    folder,  # noqa: F401 (a fixture)
    furthest,
    new_trainer,
    one_batch,
    pairs,
    text_pairs,
    train,
    weights,
)

LABELS = {"confidence": "fixed", "fixed_confidence": 1.0}
BETA = 0.5


def made(objective: str, **settings) -> Objective:
    args = ConfidenceDPOConfig(
        "out", use_cpu=True, report_to="none", bf16=False, objective=objective, **LABELS, **settings
    )
    return objective_of(args, 0, torch.device("cpu"), lambda sums: sums)


def judged(difference: list[float], lengths: list[float] | None = None, reference: list[float] | None = None) -> Judged:
    """lengths, reference: of the chosen answers, then of the rejected ones."""
    count = len(difference)
    tokens = torch.tensor(lengths or [4.0] * 2 * count)
    moved = Moved(torch.zeros(2 * count), tokens, torch.tensor(reference or [-8.0] * 2 * count), None)
    return Judged(torch.tensor(difference), torch.ones(count), moved=moved)


# ---- against TRL ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"objective": "robust", "flipped": 0.2}, {"loss_type": "robust", "label_smoothing": 0.2}),
        ({"objective": "ipo"}, {"loss_type": "ipo"}),
    ],
    ids=["robust", "ipo"],
)
def test_losses_and_gradients_are_trls(folder, tmp_path, ours, theirs):  # noqa: F811
    data = text_pairs()
    moved = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    for parameter in moved.parameters():
        parameter.data *= 1.05
    found = {}
    for kind, more in ((DPOTrainer, theirs), (ConfidenceDPOTrainer, LABELS | ours)):
        trainer, _ = new_trainer(folder, tmp_path / kind.__name__, data, kind=kind, model=copy.deepcopy(moved), **more)
        found[kind] = one_batch(trainer)
    assert found[ConfidenceDPOTrainer][0] == pytest.approx(found[DPOTrainer][0], rel=1e-5)
    for name, gradient in found[DPOTrainer][1].items():
        difference = (gradient - found[ConfidenceDPOTrainer][1][name]).abs().max()
        assert difference <= 2e-5 * gradient.abs().max(), name


# ---- by hand --------------------------------------------------------------------------------------------------------


def test_a_worst_case_has_the_gradient_of_its_formula():
    z = torch.tensor([2.0, -3.0, 0.5], requires_grad=True)
    whole = -torch.log(torch.exp(logsigmoid(z)).mean())  # -t log mean exp(log sigma(z) / t), t = 1
    (expected,) = torch.autograd.grad(whole, z)
    difference = (z.detach() / BETA).requires_grad_()
    losses = WorstCase().losses(replace(judged([0.0] * 3), log_ratio_difference=difference), BETA, None, True)
    (found,) = torch.autograd.grad(losses.mean(), difference)
    torch.testing.assert_close(found / BETA, expected)
    assert found[1].abs() < found[2].abs(), "the pair that is furthest on the wrong side counts less"
    filled = WorstCase().losses(judged([4.0, -6.0, 1.0, 9.0]), BETA, 3, True)
    torch.testing.assert_close(filled[:3], losses.detach())


def test_beta_moves_with_the_gap_of_a_batch():
    """The first batch is usual. M_0 moves by a tenth; beta is 0.5 [1 + 0.6 (M - M_0)], M the mean of 0.5 d."""
    objective = MovingBeta(0, 0, lambda sums: sums)
    first = objective.losses(judged([1.0] * 5), BETA, None, learning=True)
    assert (first > 0).sum() == 4, "of five pairs four are learned from"
    assert first.sum().item() == pytest.approx(5 * -logsigmoid(torch.tensor(0.5)).item())
    assert objective.step() == {"beta": 0.5}
    objective.losses(judged([3.0] * 5), BETA, None, learning=True)
    assert objective.step()["beta"] == pytest.approx(0.5 * (1 + 0.6 * (1.5 - 0.5)))
    objective.losses(judged([3.0] * 5), BETA, None, learning=True)
    assert objective.step()["beta"] == pytest.approx(0.5 * (1 + 0.6 * (1.5 - 0.6)))
    objective.losses(judged([-40.0] * 5), BETA, None, learning=True)
    assert objective.step()["beta"] == pytest.approx(0.5e-3), "never none, nor below"
    assert objective.step() == {}


def test_strange_pairs_are_seldom_learned_from():
    usual, strange = [0.0, 0.1, -0.1, 0.2, -0.2, 0.05, -0.05, 0.15, -0.15], 30.0
    left_out = 0
    for seed in range(20):
        objective = MovingBeta(seed, 0, lambda sums: sums)
        objective.losses(judged([*usual, 0.0]), BETA, None, learning=True)
        left_out += objective.losses(judged([*usual, strange]), BETA, None, learning=True)[-1].item() == 0
    assert left_out == 20


def test_filler_moves_nothing():
    for kind in (MovingBeta(0, 0, lambda sums: sums), FlipAware(torch.device("cpu"), lambda sums: sums)):
        other = copy.deepcopy(kind)
        kind.losses(judged([1.0, 2.0, -1.0], [4, 4, 4, 4, 4, 4]), BETA, None, learning=True)
        filled = judged([1.0, 2.0, -1.0, 50.0], [4, 4, 4, 9, 4, 4, 4, 1])
        other.losses(filled, BETA, 3, learning=True)
        steps = [{name: float(value) for name, value in one.step().items()} for one in (kind, other)]
        assert steps[0] == pytest.approx(steps[1])


def test_labels_are_believed_wrong_where_they_are():
    """Long chosen answers are wrong labels here, which the policy, z far on the other side, knows."""
    objective = FlipAware(torch.device("cpu"), lambda sums: sums)
    batch = judged([6.0] * 6 + [-6.0] * 2, [4.0] * 6 + [12.0] * 2 + [4.0] * 8)
    assert objective.flips(batch, BETA).tolist() == pytest.approx([0.1] * 8)
    for _ in range(200):
        objective.losses(batch, BETA, None, learning=True)
        logged = objective.step()
    after = objective.flips(batch, BETA).detach()
    assert after[-2:].min() > 0.4 and after[:6].max() < 0.1 and after.max() < 0.5
    assert logged["believed_flips"] == pytest.approx(float(after.mean()), abs=0.01)
    losses = objective.losses(batch, BETA, None, learning=False)
    assert torch.equal(losses, objective.losses(batch, BETA, None, learning=False)) and objective.step() == {}


# ---- trained --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["dr_dpo", "beta_dpo", "flip_aware"])
def test_each_learns_and_resumes_exactly(folder, tmp_path, objective):  # noqa: F811
    settings = {
        "save_strategy": "steps",
        "save_steps": 3,
        "max_steps": 9,
        "num_train_epochs": 9,
        "objective": objective,
    }
    whole, steps = train(folder, tmp_path / "whole", **settings, **LABELS)
    assert accuracy(whole, pairs()) > 0.8
    checkpoint = newest_intact(tmp_path / "whole", print).with_name("checkpoint-6")
    again, rest = train(folder, tmp_path / "again", resume=str(checkpoint), **settings, **LABELS)
    assert rest.of("loss") == steps.of("loss")[6:] and furthest(weights(whole), weights(again)) == 0
    for name in {"beta_dpo": ["beta"], "flip_aware": ["believed_flips"]}.get(objective, []):
        assert rest.of(name) == steps.of(name)[6:] and len(set(steps.of(name))) > 1


def test_a_checkpoint_of_another_objective_is_refused(tmp_path):
    for objective in ("beta_dpo", "flip_aware"):
        with pytest.raises(StageFailed, match="resume with the objective it was made with"):
            made(objective).load(tmp_path)
        made("dr_dpo").load(tmp_path)


@pytest.mark.parametrize(
    ("problem", "settings"),
    [
        ("objective: 'hinge' is not a choice", {"objective": "hinge"}),
        ("objective: 'ipo' takes labels as they are", {"objective": "ipo"}),
        (
            "objective: 'ipo' takes labels as they are",
            {"objective": "ipo", "confidence": "fixed", "fixed_confidence": 0.9},
        ),
        ("flipped: None is not in", {"objective": "robust", **LABELS}),
        ("flipped: 0.5 is not in", {"objective": "robust", "flipped": 0.5, **LABELS}),
        ("flipped: it would have no effect", {"objective": "ipo", "flipped": 0.1, **LABELS}),
    ],
)
def test_what_does_not_go_together_is_refused(problem, settings):
    with pytest.raises(UserError, match=problem):
        ConfidenceDPOConfig("out", use_cpu=True, report_to="none", bf16=False, **settings)
