"""One policy's training: the dropout that was asked for is there."""

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

from alignment.data.chat import chat_format
from alignment.models.packing import Packing
from alignment.models.source import ModelSource
from alignment.policies import training
from alignment.policies.systems import Candidate
from alignment.policies.training import Training, tokenize, train_policy
from alignment.runs.ranks import Ranks
from alignment.settings.compose import compose_config
from alignment.trainers.progress import ProgressBar
from alignment.types import Stopped
from tests.conftest import byte_tokenizer, tiny_model
from tests.trainers.test_cdpo import a_reward
from tests.trainers.trl_alone import checks


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A GPT-2, whose configuration asks for dropout."""
    path = tmp_path_factory.mktemp("policy")
    tiny_model("gpt2", AutoModelForCausalLM).save_pretrained(path)
    byte_tokenizer("chatml").save_pretrained(path)
    return path


@checks("peft.tuners.lora", "LoraLayer")
@pytest.mark.parametrize("system", ["sft", "dpo", "cdpo"])
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_adapters_have_the_dropout_that_was_asked_for(folder, system, share, tmp_path, monkeypatch):
    """TRL switches off all that there are, but in fine-tuning."""
    found: dict[str, float] = {}

    def train(trainer, *rest) -> None:
        for name, module in trainer.model.named_modules():
            if isinstance(module, torch.nn.Dropout):
                found[name] = module.p
        raise Stopped

    monkeypatch.setattr(training, "train", train)
    a_reward().save(tmp_path / "reward")
    cfg = compose_config(["+recipe=cdpo", "lora=adapters", f"lora.dropout={share}"])
    shared = Training(
        ModelSource(str(folder)), cfg.policy, cfg.confidence, cfg.lora, Packing(), tmp_path / "reward",
        (), (), tmp_path, Ranks(),
    )  # fmt: skip
    pairs = [
        {
            "id": str(i), "prompt": [{"role": "user", "content": f"question {i}"}],
            "chosen": [{"role": "assistant", "content": "good"}], "rejected": [{"role": "assistant", "content": "no"}],
        }
        for i in range(16)
    ]  # fmt: skip
    with pytest.raises(Stopped):
        train_policy(shared, Candidate(system, 0.1, 1e-4, 0), pairs, tmp_path / "out", ProgressBar("policy"))
    adapters = {share for name, share in found.items() if "lora_dropout" in name}
    assert adapters == ({share} if share else set())
    models_own = 0.1 if system == "sft" else 0.0  # preference losses compare two answers: noise would be half of it
    assert {share for name, share in found.items() if "lora_dropout" not in name} == {models_own}


def pair(name: str, chosen: str, rejected: str, **more) -> dict:
    return {
        "id": name, "prompt": [{"role": "user", "content": "why?"}],
        "chosen": [{"role": "assistant", "content": chosen}], "rejected": [{"role": "assistant", "content": rejected}],
        **more,
    }  # fmt: skip


def test_a_pair_is_split_where_its_answers_begin_and_left_out_where_one_is_too_long():
    tokenizer = byte_tokenizer("chatml")
    loaded = SimpleNamespace(format=chat_format(tokenizer))
    pairs = [pair("fits", "good", "no", confidence=0.75), pair("long", "good", "no" * 100), pair("bare", "a", "a")]
    rows, left_out = tokenize(loaded, pairs, 100, "policy.max_length")
    texts = [[tokenizer.decode(row[f"{part}_ids"]) for part in ("prompt", "chosen", "rejected")] for row in rows]
    assert [text[0].count("why?") for text in texts] == [1, 1]
    assert texts[0][1].startswith("good") and texts[0][2].startswith("no")
    assert [row["confidence"] for row in rows] == [0.75, None]
    assert left_out == [("long", "one of its texts has more tokens than policy.max_length")]
