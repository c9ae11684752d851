"""Training on a device: the same losses as on the host, which waits for none of a step; only what is logged, it has to.

Every packed architecture with the live reward, and what else changes the way of a step.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from accelerate.state import AcceleratorState
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForSequenceClassification, Trainer, TrainerCallback
from trl import SFTConfig

from alignment.models.packing import Packing
from alignment.trainers.cdpo import ConfidenceDPOTrainer
from alignment.trainers.cdpo_config import ConfidenceDPOConfig
from alignment.trainers.margin_rm import MarginRewardConfig, MarginRewardTrainer
from alignment.trainers.sft import PackedSFTTrainer
from tests.conftest import byte_tokenizer
from tests.devices.host_and_device import DEVICE, HostAndDevice
from tests.devices.rewards import some_reward
from tests.devices.test_waits import attention_of
from tests.models.test_packing import NAMES, model_of, more_architectures  # noqa: F401 (a fixture)
from tests.trainers.test_cdpo import CPU, Steps, pairs

SETTINGS = {**CPU, "per_device_train_batch_size": 4, "max_steps": 3, "logging_steps": 3, "learning_rate": 1e-4}
DPO = {"live": False, "confidence": "fixed", "fixed_confidence": 1.0}
LORA = LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM")


class Inside(TrainerCallback):
    """What the host waited for in each step, and while it logged."""

    def __init__(self, mode: HostAndDevice) -> None:
        self.steps: list[list[str]] = []
        self.logs: list[list[str]] = []
        self._mode = mode

    def on_step_begin(self, *args, **kwargs) -> None:
        self._mode.waits.clear()

    def on_step_end(self, *args, **kwargs) -> None:
        self.steps.append([*self._mode.waits])
        self._mode.waits.clear()

    def on_log(self, *args, **kwargs) -> None:
        self.logs.append([*self._mode.waits])


@contextmanager
def device_rank(monkeypatch) -> Iterator[HostAndDevice]:
    """accelerate and Trainer take the mode's device for the rank's."""
    with monkeypatch.context() as patch, HostAndDevice() as mode:
        patch.setenv("ACCELERATE_TORCH_DEVICE", str(DEVICE))
        AcceleratorState._reset_state(reset_partial_state=True)
        yield mode
    AcceleratorState._reset_state(reset_partial_state=True)


def on_device(build: Callable[..., Trainer], monkeypatch, *callbacks: TrainerCallback) -> Inside:
    with device_rank(monkeypatch) as mode:
        inside = Inside(mode)
        trainer = build(use_cpu=False, callbacks=[*callbacks, inside])
        trainer.train()
        assert trainer.args.device == DEVICE
    return inside


def on_both(build: Callable[..., Trainer], monkeypatch) -> Inside:
    """Trains on the host and on the device, and compares what was logged."""
    here, there = Steps(), Steps()
    build(use_cpu=True, callbacks=[here]).train()
    inside = on_device(build, monkeypatch, there)
    for name, value in here.logs[0].items():
        assert there.logs[0][name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
    return inside


def confidence_dpo(
    out,
    name: str = "llama",
    peft_config: LoraConfig | None = None,
    live: bool = True,
    pooling: str = "endpoint",
    **settings,
):
    """pooling: where the live reward reads an answer."""
    reward = some_reward(pooling=pooling) if live else None

    def build(use_cpu: bool, callbacks: list) -> Trainer:
        model = model_of(name, attention_of(name))
        reference = None if peft_config or "precompute_ref_log_probs" in settings else copy.deepcopy(model)
        arguments = ConfidenceDPOConfig(str(out), **{**SETTINGS, "beta": 0.3, **settings, "use_cpu": use_cpu})
        return ConfidenceDPOTrainer(
            model=model, ref_model=reference, args=arguments, train_dataset=pairs(40), callbacks=callbacks,
            processing_class=byte_tokenizer("chatml"), peft_config=peft_config, reward=copy.deepcopy(reward),
        )  # fmt: skip

    return build


@pytest.mark.parametrize("name", sorted(set(NAMES)))
def test_a_step_waits_for_nothing(tmp_path, monkeypatch, name):
    """To log it waits for the loss and its gradient's norm (transformers), for whether all was finite, and the rest."""
    compare = on_both if name in ("llama", "gemma2") else on_device  # sdpa, and added masks; test_waits.py has them all
    found = compare(confidence_dpo(tmp_path, name), monkeypatch)
    assert found.steps == [[], [], []] and len(found.logs[0]) == 4, found.logs


@pytest.mark.parametrize(
    "settings",
    [
        {"gradient_accumulation_steps": 2, "packing_max_tokens": 40, "confidence": "released"},
        {"peft_config": LORA, "activation_checkpointing": True},
        {**DPO, "precompute_ref_log_probs": True},
        {"pooling": "mean", "optim": "adamw_torch"},
        {**DPO, "objective": "flip_aware"},
        {**DPO, "objective": "ipo"},
    ],
    ids=["accumulated", "lora", "precomputed", "means of answers", "flip_aware", "ipo"],
)
def test_nor_does_it_on_other_ways(tmp_path, monkeypatch, settings):
    assert on_both(confidence_dpo(tmp_path, **settings), monkeypatch).steps == [[], [], []]


def test_what_moves_beta_waits_for_the_gaps_of_every_batch(tmp_path, monkeypatch):
    """beta-DPO: their mean and spread, those of the pairs that are kept, and which are."""
    found = on_both(confidence_dpo(tmp_path, **DPO, objective="beta_dpo"), monkeypatch)
    assert [len(step) for step in found.steps] == [5, 5, 5], found.steps
    assert all("objectives.py" in why for step in found.steps for why in step)


def test_a_step_waits_once_where_all_of_a_ranks_pairs_are_cut(tmp_path, monkeypatch):
    """Whether other ranks have pairs that teach the reward."""
    found = on_device(confidence_dpo(tmp_path, max_length=14), monkeypatch)
    assert max(map(len, found.steps)) == 1 and all("live_reward.py" in why for step in found.steps for why in step)


def test_reward_models_and_fine_tuning_wait_for_nothing(tmp_path, monkeypatch):
    rows = [(row["prompt_ids"] + row["chosen_ids"], row["prompt_ids"] + row["rejected_ids"], row) for row in pairs(26)]

    def reward_model(use_cpu: bool, callbacks: list) -> Trainer:
        data = [{"chosen_ids": chosen, "rejected_ids": rejected, "margin": 0.5} for chosen, rejected, _ in rows]
        return MarginRewardTrainer(
            model_of("llama", "sdpa", AutoModelForSequenceClassification),
            MarginRewardConfig(str(tmp_path), **{**SETTINGS, "use_cpu": use_cpu}), Dataset.from_list(data),
            processing_class=byte_tokenizer("chatml"), callbacks=callbacks,
        )  # fmt: skip

    def fine_tuning(use_cpu: bool, callbacks: list) -> Trainer:
        data = [
            {"input_ids": text, "labels": [-100] * len(row["prompt_ids"]) + row["chosen_ids"]} for text, _, row in rows
        ]
        return PackedSFTTrainer(
            model_of("llama", "sdpa"), SFTConfig(str(tmp_path), **{**SETTINGS, "use_cpu": use_cpu}), Packing(),
            train_dataset=Dataset.from_list(data), processing_class=byte_tokenizer("chatml"), callbacks=callbacks,
        )  # fmt: skip

    for build in (reward_model, fine_tuning):
        assert on_both(build, monkeypatch).steps == [[], [], []]


def test_an_evaluation_waits_where_it_logs(tmp_path, monkeypatch):
    with device_rank(monkeypatch) as mode:
        trainer = confidence_dpo(tmp_path)(use_cpu=False, callbacks=[])
        mode.waits.clear()
        trainer.evaluate(pairs(9, seed=5))
        assert len(mode.waits) == 3 and trainer.model.device == DEVICE, (
            mode.waits
        )  # the losses, if all was finite, the rest
