"""The end of a training: what is saved is what was trained."""

from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from alignment.runs.ranks import Ranks
from alignment.trainers.finishing import save_whole
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
    save_whole(trainer, {"name": "adapters"}, AutoModelForCausalLM, tmp_path / "policy", Ranks(), TRAINED)
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "policy").state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert sorted(path.name for path in tmp_path.glob("policy*")) == ["policy"]
    assert not (tmp_path / "policy" / "training_args.bin").exists()
