"""A process that sees several GPUs (here: believes it) trains as one that sees a single one."""

import pytest
from datasets import Dataset
from transformers import AutoModelForCausalLM
from trl import DPOConfig, SFTConfig

from alignment.models.packing import Packing
from alignment.trainers.cdpo_config import ConfidenceDPOConfig
from alignment.trainers.margin_rm import MarginRewardConfig, MarginRewardTrainer
from alignment.trainers.one_device import on_one_device
from alignment.trainers.sft import PackedSFTTrainer
from alignment.types import UserError
from tests.conftest import byte_tokenizer, tiny_model
from tests.trainers import test_margin_rm
from tests.trainers.test_cdpo import CPU, ConfidenceDPOTrainer, Steps, pairs
from tests.trainers.trl_alone import checks, new

FIXED = {"confidence": "fixed", "fixed_confidence": 1.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("policy")
    tiny_model("llama", AutoModelForCausalLM).save_pretrained(path)
    byte_tokenizer("chatml").save_pretrained(path)
    return path


def losses_of(kind: str, folder, out, gpus: int) -> list[float]:
    settings = {**CPU, "output_dir": str(out), "per_device_train_batch_size": 4, "max_steps": 3, "learning_rate": 1e-3}
    steps = Steps()
    shared = {"processing_class": byte_tokenizer("chatml"), "callbacks": [steps]}
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    if kind == "sft":
        arguments = SFTConfig(**settings)
        rows = [{"input_ids": [5, 6, 7 + i, 2], "labels": [-100, 6, 7 + i, 2]} for i in range(20)]
        make = lambda: PackedSFTTrainer(  # noqa: E731
            model, arguments, Packing("auto", 512), train_dataset=Dataset.from_list(rows), **shared
        )
    elif kind == "reward model":
        arguments = MarginRewardConfig(**settings)
        rows = test_margin_rm.pairs(20, [0.5] * 20)
        make = lambda: MarginRewardTrainer(test_margin_rm.new_model(), arguments, rows, **shared)  # noqa: E731
    else:
        arguments = ConfidenceDPOConfig(**settings, **FIXED)
        make = lambda: ConfidenceDPOTrainer(model, arguments, pairs(20), **shared)  # noqa: E731
    arguments._n_gpu = gpus
    trainer = make()
    assert trainer.args.train_batch_size == 4, "Trainer loads as many pairs as there are GPUs"
    trainer.train()
    assert len(steps.logs) == 3
    return steps.of("loss")


@checks("transformers.TrainingArguments", "_n_gpu")
@pytest.mark.parametrize("kind", ["cdpo", "reward model", "sft"])
def test_two_visible_gpus_train_as_one_does(kind, folder, tmp_path):
    with pytest.warns(UserWarning, match="sees 2 GPUs and trains on cpu; launch=ddp, or accelerate launch"):
        two = losses_of(kind, folder, tmp_path, gpus=2)
    assert two == losses_of(kind, folder, tmp_path, gpus=1)


@checks("transformers.TrainingArguments", "_n_gpu")
def test_trl_refuses_to_train_on_two(folder, tmp_path, monkeypatch):
    """What we spare our users."""
    monkeypatch.setattr(DPOConfig, "n_gpu", 2)
    with pytest.raises(ValueError, match=r"does not support `nn.DataParallel`"):
        new(folder, tmp_path)


def test_a_named_model_is_not_spread_over_the_devices_that_are_there(folder, tmp_path):
    arguments = ConfidenceDPOConfig(output_dir=str(tmp_path), **CPU, **FIXED, model_init_kwargs={"dtype": "bfloat16"})
    on_one_device(arguments, str(folder))
    assert arguments.model_init_kwargs == {"dtype": "bfloat16", "device_map": None}
    arguments.model_init_kwargs = {"device_map": {"": 0}}  # as TRL's get_kbit_device_map gives it
    on_one_device(arguments, str(folder))
    assert arguments.model_init_kwargs == {"device_map": {"": 0}}
    arguments.model_init_kwargs = {"device_map": "auto"}
    with pytest.raises(UserError, match="model_init_kwargs: device_map puts a model in several places; leave it out"):
        on_one_device(arguments, str(folder))


def test_a_model_in_several_places_is_refused(tmp_path):
    model = tiny_model("llama", AutoModelForCausalLM)
    arguments = ConfidenceDPOConfig(output_dir=str(tmp_path), **CPU, **FIXED)
    model.hf_device_map = {"": 0}  # as a quantized one has it
    on_one_device(arguments, model)
    model.hf_device_map = {"model.embed_tokens": 0, "model.layers.0": 0, "lm_head": 1}
    with pytest.raises(UserError, match="model: its layers are spread over 2 devices; load it without device_map"):
        ConfidenceDPOTrainer(model, arguments, pairs(20), processing_class=byte_tokenizer("chatml"))


def test_the_reference_comes_from_the_revision_that_was_loaded(folder, tmp_path, monkeypatch):
    """Not from whatever the hub's main branch is by now."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa")
    asked, load = {}, type(model).from_pretrained
    monkeypatch.setattr(type(model), "from_pretrained", lambda *name, **more: asked.update(more) or load(*name, **more))
    arguments = ConfidenceDPOConfig(output_dir=str(tmp_path), **CPU, **FIXED)
    tokenizer = byte_tokenizer("chatml")
    ConfidenceDPOTrainer(model, arguments, pairs(20), revision="abc", processing_class=tokenizer)
    assert asked == {"revision": "abc", "dtype": model.dtype, "attn_implementation": "sdpa"}


def test_the_reference_of_a_model_that_was_given_is_as_it_was_loaded(folder, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    arguments = ConfidenceDPOConfig(output_dir=str(tmp_path), **CPU, **FIXED)
    trainer = ConfidenceDPOTrainer(model, arguments, pairs(20), processing_class=byte_tokenizer("chatml"))
    assert trainer.ref_model is not model and trainer.starts_at_reference
    assert trainer.ref_model.config._attn_implementation == "eager"
