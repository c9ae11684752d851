"""What surrounds the trainers, in accelerate and transformers, still does what we rely on."""

import gc
import inspect
import weakref
from pathlib import Path

import pytest
from accelerate.data_loader import prepare_data_loader
from accelerate.state import AcceleratorState
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM
from transformers.integrations.deepspeed import (
    HfTrainerDeepSpeedConfig,
    is_deepspeed_zero3_enabled,
    unset_hf_deepspeed_config,
)
from trl.models import prepare_deepspeed

from alignment.trainers.finishing import release
from tests.conftest import tiny_model
from tests.trainers.trl_alone import checks, new


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("policy")
    tiny_model("llama", AutoModelForCausalLM).save_pretrained(path)
    return path


@checks("accelerate.data_loader", "prepare_data_loader")
@pytest.mark.parametrize("count, size, ranks", [(26, 4, 2), (25, 4, 3), (24, 4, 2), (9, 4, 3), (3, 2, 4)])
def test_batches_are_dealt_to_ranks_in_turn_and_filled_up_at_the_end(count, size, ranks):
    """PairMean knows from its number how many rows of a batch are real: they come first, and none is left out."""
    dealt = [
        [
            batch.tolist()
            for batch in prepare_data_loader(
                DataLoader(range(count), size), num_processes=ranks, process_index=rank, put_on_device=False
            )
        ]
        for rank in range(ranks)
    ]
    assert len({len(batches) for batches in dealt}) == 1, "ranks no longer have equally many batches"
    for rank, batches in enumerate(dealt):
        for i, batch in enumerate(batches):
            start = (i * ranks + rank) * size
            real = list(range(start, min(start + size, count)))
            assert batch[: len(real)] == real and len(batch) == size
            assert all(row < count for row in batch)


@checks("transformers.integrations.deepspeed", "is_deepspeed_zero3_enabled", "unset_hf_deepspeed_config")
def test_a_deepspeed_configuration_can_be_forgotten():
    config = HfTrainerDeepSpeedConfig({"zero_optimization": {"stage": 3}, "train_micro_batch_size_per_gpu": 1})
    assert config.is_zero3() and is_deepspeed_zero3_enabled()
    unset_hf_deepspeed_config()
    assert not is_deepspeed_zero3_enabled(), "from_pretrained would still split models"


@checks("accelerate.state.AcceleratorState", "_reset_state")
def test_the_state_of_a_process_can_be_forgotten(folder, tmp_path):
    old = new(folder, tmp_path).accelerator.state
    kept = dict(vars(old))
    AcceleratorState._reset_state()
    try:
        assert not vars(old), "the next trainer would find this one's DeepSpeed configuration"
    finally:
        vars(old).update(kept)


@checks("trl.models", "prepare_deepspeed")
def test_an_engine_is_made_of_a_model_and_an_accelerator():
    """What it does is seen in ranks (test_cdpo_in_ranks.py)."""
    model, accelerator, *others = inspect.signature(prepare_deepspeed).parameters.values()
    assert (model.name, accelerator.name) == ("model", "accelerator")
    assert all(one.default is not inspect.Parameter.empty for one in others)


@checks("transformers.PreTrainedConfig", "_name_or_path", "_attn_implementation")
@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_a_configuration_knows_where_its_model_came_from_and_how_it_computes(folder, kernel):
    """The merge of adapters and TRL's reference are loaded from there; kept references are one kernel's."""
    config = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=kernel).config
    assert (config._name_or_path, config._attn_implementation) == (str(folder), kernel)


def test_nothing_holds_memory_after_a_training_that_was_released(folder, tmp_path):
    trainer = new(folder, tmp_path, max_steps=1, save_strategy="no")
    trainer.train()
    optimizer, model = weakref.ref(trainer.optimizer), weakref.ref(trainer.model)
    release(trainer)
    gc.collect()
    assert optimizer() is None, "something else holds the optimizer's states"
    assert model() is None, "something else holds the model"
