"""The end of a training: what is saved is what was trained."""

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from alignment.models.load import saved_dtype
from alignment.models.source import ModelSource
from alignment.runs.ranks import Ranks
from alignment.trainers.finishing import save_whole
from alignment.trainers.saved_weights import INDEX, round_saved, tied_weights
from alignment.types import StageFailed
from tests.conftest import tiny_model

TRAINED, NEWER = "a" * 40, "b" * 40


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """The local cache of a model with two revisions, of which `main` is the newer one."""
    folder = tmp_path / "hub" / "models--some--model"
    for seed, revision in enumerate((TRAINED, NEWER)):
        tiny_model("llama", AutoModelForCausalLM, seed).save_pretrained(folder / "snapshots" / revision)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(NEWER)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return folder


def test_adapters_are_merged_into_the_revision_that_was_trained(hub, tmp_path):
    base = AutoModelForCausalLM.from_pretrained("some/model", revision=TRAINED, dtype=torch.float32)
    expected = {name: value.clone() for name, value in base.state_dict().items()}
    model = get_peft_model(base, LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))  # they add 0 at first
    trainer = Trainer(model, TrainingArguments(str(tmp_path / "out"), use_cpu=True, report_to="none"))
    save_whole(
        trainer, {"name": "adapters"}, AutoModelForCausalLM, tmp_path / "policy", Ranks(), TRAINED, torch.float32
    )
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "policy").state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert sorted(path.name for path in tmp_path.glob("policy*")) == ["policy"]
    assert not list(tmp_path.rglob("training_args.bin"))
    again = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained("some/model", revision=TRAINED), tmp_path / "policy/adapters"
    )
    assert again.peft_config["default"].r == 8, "they stay beside what they were merged into"
    assert not (tmp_path / "policy/adapters/README.md").exists(), "peft's form names a local path"


def test_a_model_is_saved_as_its_base_lies_on_disk(tmp_path):
    """Trained in float32, it was saved at twice the base's size. What was rounded is what was trained."""
    base = tiny_model("llama", AutoModelForCausalLM).to(torch.bfloat16)
    base.save_pretrained(tmp_path / "base")
    source = ModelSource(str(tmp_path / "base"))
    trained = load_trainable_model(tmp_path / "base")
    trainer = Trainer(trained, TrainingArguments(str(tmp_path / "out"), use_cpu=True, report_to="none"))
    sizes = {}
    for wanted in ("auto", "float32", "float16"):
        dtype, folder = saved_dtype(source, wanted), tmp_path / wanted
        save_whole(trainer, {"name": "none"}, AutoModelForCausalLM, folder, Ranks(), None, dtype)
        found = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
        assert found.dtype == {"auto": torch.bfloat16}.get(wanted, dtype)
        for name, value in trained.state_dict().items():
            assert torch.equal(found.state_dict()[name], value.to(dtype))
        sizes[wanted] = (folder / "model.safetensors").stat().st_size
    assert sizes["auto"] < 0.55 * sizes["float32"]


def load_trainable_model(folder: Path) -> torch.nn.Module:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for parameter in model.parameters():
        parameter.data += 1e-4 * torch.randn_like(parameter)
    return model


def test_a_configuration_without_a_dtype_leaves_it_to_the_weights(tmp_path):
    tiny_model("llama", AutoModelForCausalLM).half().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "dtype": None}))
    assert saved_dtype(ModelSource(str(tmp_path)), "auto") == torch.float16


def test_tied_weights_that_were_copied_to_be_saved_are_saved_once(tmp_path):
    """As accelerate copies them under DeepSpeed's ZeRO-1 and 2."""
    model = tiny_model("llama", AutoModelForCausalLM, tie_word_embeddings=True)
    copies = {name: weight.clone() for name, weight in model.state_dict().items()}
    model.save_pretrained(tmp_path, state_dict=copies, max_shard_size="100kB")
    assert "lm_head.weight" in json.loads((tmp_path / INDEX).read_text())["weight_map"], "twice, without us"
    round_saved(tmp_path, torch.bfloat16, tied_weights(model))
    index = json.loads((tmp_path / INDEX).read_text())
    assert "lm_head.weight" not in index["weight_map"]
    found = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert found.lm_head.weight is found.model.embed_tokens.weight and found.dtype == torch.bfloat16
    untied = tiny_model("llama", AutoModelForCausalLM)
    untied.save_pretrained(tmp_path / "untied")
    round_saved(tmp_path / "untied", torch.float32, tied_weights(untied))
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "untied")
    assert torch.equal(found.lm_head.weight, untied.lm_head.weight)


def test_numbers_too_large_for_float16_are_refused(tmp_path):
    model = tiny_model("llama", AutoModelForCausalLM)
    model.model.norm.weight.data.fill_(1e6)
    model.save_pretrained(tmp_path)
    with pytest.raises(StageFailed, match=r"model.norm.weight has numbers too large for float16; set save_dtype"):
        round_saved(tmp_path, torch.float16, {})
