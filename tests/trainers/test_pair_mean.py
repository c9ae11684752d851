"""Every pair counts once, in steps and in evaluations, on one rank or several; settings under which it wouldn't go."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader
from transformers import TrainingArguments

from alignment.maths.losses import margin_ranking_loss
from alignment.trainers.cdpo_config import ConfidenceDPOConfig
from alignment.trainers.margin_rm import MarginRewardConfig
from alignment.trainers.pair_config import UNWEIGHABLE
from alignment.trainers.pair_mean import PairMean
from alignment.types import UserError
from tests.trainers import test_cdpo, test_margin_rm
from tests.trainers.trl_alone import checks

OFF_DEFAULT = {
    "label_smoothing_factor": 0.1, "auto_find_batch_size": True, "ignore_data_skip": True, "dataloader_drop_last": True,
}  # fmt: skip
TRAINER = "transformers.Trainer"
PAIRS, SIZE = 11, 4


@pytest.mark.parametrize("config", [MarginRewardConfig, ConfidenceDPOConfig])
@pytest.mark.parametrize(
    "settings, problem",
    [
        *(({name: OFF_DEFAULT[name]}, f"^{name}: it would have no effect") for name in UNWEIGHABLE),
        ({"accelerator_config": {"even_batches": False}}, "accelerator_config.even_batches: False would give"),
        ({"accelerator_config": {"split_batches": True}}, "accelerator_config.split_batches"),
        ({"accelerator_config": {"dispatch_batches": True}}, "accelerator_config.dispatch_batches"),
        ({"train_sampling_strategy": "batch_rebalance"}, "train_sampling_strategy: batch_rebalance changes"),
        ({"train_sampling_strategy": "group_by_length"}, "train_sampling_strategy: group_by_length draws another"),
    ],
)  # fmt: skip
def test_settings_under_which_pairs_are_counted_wrongly_are_refused(config, settings, problem):
    with pytest.raises(UserError, match=problem):
        config("out", use_cpu=True, report_to="none", bf16=False, **settings)
    config("out", use_cpu=True, report_to="none", bf16=False, train_sampling_strategy="sequential")


class Batches:
    """Of Trainer what PairMean stands on: as many micro-batches as are asked for."""

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        return [{} for _ in range(num_batches)], None


class Counted(PairMean, Batches):
    """11 pairs in batches of 2, dealt to two ranks, two micro-batches to a step."""

    def __init__(self, rank: int, step: int, micro_batches: int) -> None:
        self.args = SimpleNamespace(
            per_device_train_batch_size=2, world_size=2, process_index=rank, gradient_accumulation_steps=2
        )
        self.train_dataset, self.state = range(11), SimpleNamespace(global_step=step)
        self.current_gradient_accumulation_steps = micro_batches


@pytest.mark.parametrize(
    "step, counts, total",
    [(0, [[2, 2], [2, 2]], 8), (1, [[2], [1]], 3), (2, [[2, 2], [2, 2]], 8), (3, [[2], [1]], 3)],
)
def test_the_real_pairs_of_a_step_are_counted_over_micro_batches_and_ranks(step, counts, total):
    """Batches 0 to 5 go to ranks 0 and 1 in turn; the last has one pair. Then the next epoch begins."""
    for rank, real in enumerate(counts):
        batches, found = Counted(rank, step, len(real)).get_batch_samples(None, len(real), torch.device("cpu"))
        assert [batch["real_pairs"] for batch in batches] == real and found == total


def test_ranks_average_to_the_mean_over_the_real_pairs_of_the_step():
    """Losses 2, 4 and 1, beside filler of 100: DDP takes the mean of what its two ranks give."""
    first, second = (Counted(rank, 1, 1) for rank in (0, 1))
    found = [
        first.step_mean(torch.tensor([2.0, 4.0]), 2, 3).item(),
        second.step_mean(torch.tensor([1.0, 100.0]), 1, 3).item(),
    ]
    assert found == pytest.approx([3 * 2 * 2 / 3, 1 * 1 * 2 / 3]) and np.mean(found) == pytest.approx((2 + 4 + 1) / 3)


def test_a_full_step_has_the_plain_mean_and_filler_alone_has_none():
    losses = torch.tensor([0.1, 0.7], requires_grad=True)
    trainer = Counted(0, 0, 2)
    assert trainer.step_mean(losses, 2, 8) == losses.mean() == trainer.step_mean(losses, None, None)
    assert trainer.step_mean(losses, 1, None) == losses[0], "an evaluation's"
    nothing = trainer.step_mean(losses, 0, 3)
    (gradient,) = torch.autograd.grad(nothing, losses)
    assert nothing == 0 and gradient.tolist() == [0.0, 0.0], "a rank with filler alone takes part in the backward pass"


def in_ranks(trainer, data, ranks: int, monkeypatch) -> tuple[float, int]:
    """The loss of an evaluation whose batches are dealt to so many ranks, as Trainer gathers it; pairs it is of."""
    losses = [[] for _ in range(ranks)]
    monkeypatch.setattr(TrainingArguments, "world_size", ranks)
    for rank in range(ranks):
        monkeypatch.setattr(TrainingArguments, "process_index", rank)
        batches = prepare_data_loader(
            DataLoader(data, SIZE, collate_fn=trainer.data_collator), num_processes=ranks, process_index=rank,
            put_on_device=False,
        )  # fmt: skip
        trainer._evaluated_pairs, trainer._evaluated_batches = len(data), 0  # as evaluation_loop does
        for batch in batches:
            loss, *_ = trainer.prediction_step(trainer.model, batch, prediction_loss_only=True)
            losses[rank].append(loss.repeat(SIZE))
    gathered = [torch.cat(together) for together in zip(*losses, strict=True)]
    last = len(data) % (SIZE * ranks) or SIZE * ranks  # what accelerate's gather_for_metrics keeps of the last ones
    kept = torch.cat([*gathered[:-1], gathered[-1][:last]])
    return float(kept.mean()), len(kept)


@checks(TRAINER, "evaluation_loop", "prediction_step")
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_an_evaluation_counts_every_pair_once(ranks, tmp_path, monkeypatch):
    """11 pairs in batches of 4: on two ranks the last ones are a batch of 3 and one of filler alone."""
    margins = np.linspace(-1, 3, PAIRS).tolist()
    held_out = test_margin_rm.pairs(PAIRS, margins, seed=4)
    data = test_margin_rm.pairs(16, [0.0] * 16)
    trainer, _ = test_margin_rm.train(tmp_path, data, max_steps=1, per_device_eval_batch_size=SIZE)
    with torch.no_grad():
        scores = [
            torch.stack([trainer.model(torch.tensor([ids])).logits[0, 0] for ids in held_out[side]])
            for side in ("chosen_ids", "rejected_ids")
        ]
    expected = float(margin_ranking_loss(*scores, torch.tensor(margins)).mean())
    found = trainer.evaluate(held_out)
    assert found["eval_loss"] == pytest.approx(expected, rel=1e-5), "Trainer's own loop, on one rank"
    assert found["eval_reward_gap"] == pytest.approx(float((scores[0] - scores[1]).mean()), rel=1e-4)
    assert found["eval_accuracy"] == pytest.approx(float((scores[0] > scores[1]).float().mean()))
    trainer.model.eval()
    columns = held_out.select_columns(["chosen_ids", "rejected_ids", "margin"])
    loss, count = in_ranks(trainer, columns, ranks, monkeypatch)
    assert count == PAIRS and loss == pytest.approx(expected, rel=1e-5)
    assert trainer._sums["eval"][-1] == PAIRS, "pairs that the accuracy is of"


@pytest.mark.parametrize("ranks", [2, 3])
def test_an_evaluation_of_a_policy_counts_every_pair_once(ranks, tmp_path, monkeypatch):
    folder = tmp_path / "policy"
    test_cdpo.tiny_model("llama", test_cdpo.AutoModelForCausalLM).save_pretrained(folder)
    held_out = test_cdpo.pairs(PAIRS, seed=4)
    trainer, _ = test_cdpo.new_trainer(folder, tmp_path, reward=test_cdpo.a_reward(), per_device_eval_batch_size=SIZE)
    trainer.train()
    alone = trainer.evaluate(held_out)
    trainer.model.eval()
    loss, count = in_ranks(trainer, held_out, ranks, monkeypatch)
    assert count == PAIRS and loss == pytest.approx(alone["eval_loss"], rel=1e-5)
    metrics = trainer._pairs.summary(trainer.accelerator)
    assert {f"eval_{name}": pytest.approx(float(value), rel=1e-4) for name, value in metrics.items()} == {
        name: value for name, value in alone.items() if name.removeprefix("eval_") in metrics
    }


def test_figures_of_a_step_are_means_over_its_pairs(tmp_path):
    """The last step of an epoch has 2 pairs in one micro-batch, and steps before it 8 in two."""
    logs = test_cdpo.Steps()
    data = test_margin_rm.pairs(10, [0.0] * 10)
    test_margin_rm.train(
        tmp_path, data, callbacks=[logs], num_train_epochs=1, per_device_train_batch_size=4,
        gradient_accumulation_steps=2, learning_rate=0.0,
    )  # fmt: skip
    model = test_margin_rm.new_model()
    with torch.no_grad():
        gaps = torch.stack([model(torch.tensor([row["chosen_ids"]])).logits[0, 0] for row in data]) - torch.stack(
            [model(torch.tensor([row["rejected_ids"]])).logits[0, 0] for row in data]
        )
    steps = logs.of("reward_gap")
    assert len(steps) == 2 and 8 * steps[0] + 2 * steps[1] == pytest.approx(float(gaps.sum()), rel=1e-4)


def test_predictions_are_refused(tmp_path):
    """The loss has none; and what an evaluation counts would be taken for a step's."""
    data = test_margin_rm.pairs(16, [0.0] * 16)
    trainer, _ = test_margin_rm.train(tmp_path, data, max_steps=1)
    with pytest.raises(UserError, match="predict: the loss has no outputs to give"):
        trainer.predict(data)
