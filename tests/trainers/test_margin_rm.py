"""The margin reward trainer beside TRL's own, on tiny models: the same where it should be, different where it must."""

import copy

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForSequenceClassification, TrainerCallback
from trl import RewardConfig, RewardTrainer

from alignment.maths.losses import margin_ranking_loss
from alignment.runs.manifest import MANIFEST
from alignment.trainers.margin_rm import MarginRewardConfig, MarginRewardTrainer
from alignment.trainers.resuming import newest_intact
from alignment.types import UserError
from tests.conftest import byte_tokenizer, tiny_model


def new_model(seed: int = 0) -> torch.nn.Module:
    model = tiny_model("llama", AutoModelForSequenceClassification, seed, num_labels=1, pad_token_id=0)
    model.config.problem_type = "regression"
    return model


def pairs(count: int = 26, margins: list[float] | None = None, seed: int = 0) -> Dataset:
    random = np.random.default_rng(seed)
    columns = {
        side: [random.integers(10, 250, random.integers(4, 12)).tolist() for _ in range(count)]
        for side in ("chosen_ids", "rejected_ids")
    }
    return Dataset.from_dict(columns | ({} if margins is None else {"margin": margins}))


class Losses(TrainerCallback):
    """Logged losses, and the weights at the end of a chosen step."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            self.losses.append(logs["loss"])


def train(folder, data, kind=MarginRewardTrainer, resume=None, peft_config=None, callbacks=(), **arguments):
    settings = {
        "per_device_train_batch_size": 8, "learning_rate": 1e-3, "num_train_epochs": 2, "logging_steps": 1,
        "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "seed": 3, "bf16": False, "use_cpu": True,
        "dataloader_pin_memory": False, "activation_checkpointing": False,
    } | arguments  # fmt: skip
    losses = Losses()
    config = MarginRewardConfig if kind is MarginRewardTrainer else RewardConfig
    trainer = kind(
        model=new_model(), args=config(output_dir=str(folder), **settings), train_dataset=data,
        processing_class=byte_tokenizer("llama3"), callbacks=[losses, *callbacks], peft_config=peft_config,
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=resume)
    return trainer, losses.losses


def weights(trainer) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trainer.model.state_dict().items()}


def same(left: dict, right: dict) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def furthest(left: dict, right: dict) -> float:
    return max(float((left[name] - right[name]).abs().max()) for name in left)


@pytest.mark.parametrize("packing", ["auto", "off"])
def test_an_evaluation_has_the_loss_of_its_pairs(tmp_path, packing):
    held_out = pairs(10, np.linspace(0, 1, 10).tolist(), seed=4)
    trainer, _ = train(tmp_path, pairs(16, [0.0] * 16), max_steps=1, packing=packing, per_device_eval_batch_size=5)
    found = trainer.evaluate(held_out)
    with torch.no_grad():
        scores = [
            torch.stack([trainer.model(torch.tensor([ids])).logits[0, 0] for ids in held_out[side]])
            for side in ("chosen_ids", "rejected_ids")
        ]
    expected = margin_ranking_loss(*scores, torch.linspace(0, 1, 10)).mean()
    assert found["eval_loss"] == pytest.approx(float(expected), rel=1e-5) and "eval_accuracy" in found


def test_margin_zero_is_trls_trainer_bit_for_bit(tmp_path):
    """Full batches of 8: TRL averages a short last one differently when gradients are accumulated."""
    ours, losses = train(tmp_path / "ours", pairs(24, [0.0] * 24), packing="off")
    vanilla, vanilla_losses = train(tmp_path / "vanilla", pairs(24), packing="off")
    theirs, their_losses = train(tmp_path / "theirs", pairs(24), kind=RewardTrainer)
    assert losses == vanilla_losses == their_losses
    assert same(weights(ours), weights(vanilla)) and same(weights(ours), weights(theirs))


def test_packed_rows_train_as_padded_ones_do(tmp_path):
    """Texts that begin alike, too, and pairs whose padding token is their last."""
    data = pairs(26, np.linspace(-1, 2, 26).tolist()).to_list()
    for number, row in enumerate(data):
        row["chosen_ids"] = [*range(20, 20 + number), *row["chosen_ids"]]
        row["rejected_ids"] = [*range(20, 20 + number), *row["rejected_ids"], *([0] if number % 3 else [])]
    found = {name: train(tmp_path / name, Dataset.from_list(data), packing=name) for name in ("auto", "off")}
    assert found["auto"][0].layout.packed and not found["off"][0].layout.packed
    np.testing.assert_allclose(found["auto"][1], found["off"][1], rtol=1e-5)
    assert furthest(weights(found["auto"][0]), weights(found["off"][0])) < 1e-5


def test_the_margin_reaches_the_loss(tmp_path):
    """The first logged loss is the loss of the untrained model on the first batch, worked out outside the trainer."""
    margins = np.linspace(-2, 5, 26).tolist()
    data = pairs(26, margins)
    _, losses = train(tmp_path, data, max_steps=1, per_device_train_batch_size=26)
    model = new_model()
    with torch.no_grad():
        scores = [
            torch.stack([model(torch.tensor([ids])).logits[0, 0] for ids in data[side]])
            for side in ("chosen_ids", "rejected_ids")
        ]
    expected = margin_ranking_loss(*scores, torch.tensor(margins)).mean()
    assert losses[0] == pytest.approx(float(expected), rel=1e-5)
    without = margin_ranking_loss(*scores, None).mean()
    assert abs(float(expected) - float(without)) > 0.1


def test_pairs_that_are_too_long_are_left_out_and_counted(tmp_path):
    data = pairs(26, np.arange(26.0).tolist())
    longest = [max(len(row["chosen_ids"]), len(row["rejected_ids"])) for row in data]
    trainer, _ = train(tmp_path, data, max_steps=1, max_length=9)
    kept = [margin for margin, length in zip(data["margin"], longest, strict=True) if length <= 9]
    assert trainer.dropped_pairs == 26 - len(kept) > 0
    assert list(trainer.train_dataset["margin"]) == kept


def test_accumulation_changes_nothing_even_with_a_short_last_batch(tmp_path):
    """26 pairs in steps of 8: the last step of an epoch has 2. Micro-batches of 8, 4, 2 and 1 give the same weights."""
    margins = np.linspace(-2, 3, 26).tolist()
    found = []
    for micro_batch in (8, 4, 2, 1):
        trainer, losses = train(
            tmp_path / str(micro_batch), pairs(26, margins),
            per_device_train_batch_size=micro_batch, gradient_accumulation_steps=8 // micro_batch, optim="sgd",
        )  # fmt: skip
        found.append((weights(trainer), losses))
    for other, losses in found[1:]:
        np.testing.assert_allclose(losses, found[0][1], rtol=1e-4)
        for name, value in other.items():
            torch.testing.assert_close(value, found[0][0][name], rtol=1e-4, atol=1e-6)


def test_the_short_step_is_the_mean_over_its_own_pairs(tmp_path):
    """By hand: one epoch of 10 pairs in steps of 8 logs the mean of 8 losses, then the mean of 2."""
    data = pairs(10, [1.0] * 10)
    _, losses = train(
        tmp_path, data, num_train_epochs=1, per_device_train_batch_size=2, gradient_accumulation_steps=4,
        learning_rate=0.0,
    )  # fmt: skip
    model = new_model()
    with torch.no_grad():
        scores = [
            torch.stack([model(torch.tensor([ids])).logits[0, 0] for ids in data[side]])
            for side in ("chosen_ids", "rejected_ids")
        ]
    each = margin_ranking_loss(*scores, torch.ones(10))
    assert len(losses) == 2
    assert 8 * losses[0] + 2 * losses[1] == pytest.approx(float(each.sum()), rel=1e-5)


def test_resuming_is_exact_and_a_broken_checkpoint_is_passed_over(tmp_path):
    data = pairs(26, np.linspace(-1, 1, 26).tolist())
    arguments = {"save_strategy": "steps", "save_steps": 2, "save_total_limit": 3}
    whole, _ = train(tmp_path / "whole", data, **arguments)
    train(tmp_path / "cut", data, max_steps=-1, **arguments)
    newest = newest_intact(tmp_path / "cut", print)
    assert newest.name == "checkpoint-8"
    said: list[str] = []
    damaged = newest / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    checkpoint = newest_intact(tmp_path / "cut", said.append)
    assert checkpoint.name == "checkpoint-6" and "checkpoint-8: model.safetensors is damaged" in said[0]
    assert not newest.exists(), "Trainer would count it among those it keeps, and remove a good one for it"
    (checkpoint.parent / "checkpoint-4" / MANIFEST).unlink()
    resumed, _ = train(tmp_path / "cut", data, resume=str(checkpoint), **arguments)
    assert same(weights(resumed), weights(whole))


@pytest.mark.parametrize("share", [0.0, 0.9])
def test_adapters_have_the_dropout_that_was_asked_for(tmp_path, share):
    """TRL sets it to 0 with all others. At the first step adapters add nothing yet, whatever their dropout."""
    config = {"task_type": "SEQ_CLS", "r": 4, "target_modules": "all-linear", "modules_to_save": ["score"]}
    _, without = train(tmp_path, pairs(16, [1.0] * 16), peft_config=LoraConfig(**config))
    trainer, losses = train(tmp_path, pairs(16, [1.0] * 16), peft_config=LoraConfig(**config, lora_dropout=share))
    adapters = [module for name, module in trainer.model.named_modules() if "lora_dropout." in name]
    assert adapters and {getattr(module, "p", 0.0) for module in adapters} == {share}
    assert losses[0] == without[0] and (losses[2] != without[2]) == bool(share)


def test_lora_trains_adapters_and_head_and_merges_both(tmp_path):
    config = LoraConfig(task_type="SEQ_CLS", r=4, target_modules="all-linear", modules_to_save=["score"])
    before = new_model()
    trainer, _ = train(tmp_path, pairs(16, [1.0] * 16), peft_config=config, learning_rate=1e-2)
    trainer.save_model(str(tmp_path / "adapter"))
    merged = copy.deepcopy(trainer.model).merge_and_unload()
    assert not torch.equal(merged.score.weight, before.score.weight)
    block, old = merged.model.layers[0].self_attn.q_proj.weight, before.model.layers[0].self_attn.q_proj.weight
    assert not torch.equal(block, old)
    ids = torch.tensor([pairs(1)["chosen_ids"][0]])
    from peft import PeftModel

    loaded = PeftModel.from_pretrained(new_model(), tmp_path / "adapter").eval()
    trainer.model.eval()
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, trainer.model(ids).logits)
        torch.testing.assert_close(merged.eval()(ids).logits, loaded(ids).logits, rtol=1e-4, atol=1e-5)


def test_centering_adds_its_term(tmp_path):
    """Eisenstein et al. 2023, eq. 2, as TRL has it."""
    arguments = {"center_rewards_coefficient": 0.3, "max_steps": 3}
    _, ours = train(tmp_path / "ours", pairs(24), packing="off", **arguments)
    _, theirs = train(tmp_path / "theirs", pairs(24), kind=RewardTrainer, **arguments)
    _, without = train(tmp_path / "without", pairs(24), packing="off", max_steps=3)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    assert ours[0] != without[0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), None])
def test_a_margin_that_is_no_number_is_refused_before_training(bad, tmp_path):
    with pytest.raises(UserError, match="train_dataset: the margin of row 3 is"):
        train(tmp_path, pairs(8, [0.0, 1.0, 2.0, bad, 0.5, 0.5, 0.5, 0.5]))
