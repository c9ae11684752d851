"""lora=quantized: adapters learn on weights in 4 bits, and are merged into the weights as they were before."""

import bitsandbytes
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, LlamaConfig

from alignment.models.load import load_reward_base, load_trainable
from alignment.models.source import ModelSource
from alignment.runs.ranks import Ranks
from alignment.settings.compose import compose_config
from alignment.trainers.arguments import lora_config, quantized_on
from alignment.trainers.finishing import save_whole
from alignment.types import UserError
from tests.conftest import byte_tokenizer
from tests.trainers.test_cdpo import new_trainer, pairs

CPU = torch.device("cpu")
LORA = {"name": "quantized", "r": 4, "alpha": 8, "dropout": 0.0, "target_modules": ["q_proj", "down_proj"]}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> ModelSource:
    """Its width is one of bitsandbytes' blocks."""
    path, tokenizer = tmp_path_factory.mktemp("policy"), byte_tokenizer("chatml")
    config = LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, vocab_size=len(tokenizer)
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return ModelSource(str(path))


@pytest.fixture(autouse=True)
def one_kernel(monkeypatch):
    """bitsandbytes lays weights out anew for inference on some CPUs; on GPUs training and inference are alike."""
    monkeypatch.setattr(bitsandbytes.nn.modules, "has_avx512bf16", lambda: False)


def four_bit(model: torch.nn.Module) -> set[str]:
    kind = bitsandbytes.nn.Linear4bit
    return {name.rpartition(".")[2] for name, part in model.named_modules() if isinstance(part, kind)}


def test_a_policy_learns_on_four_bits_and_is_saved_whole(source, tmp_path):
    assert quantized_on({"name": "adapters"}) is None and quantized_on(LORA) == CPU
    loaded = load_trainable(source, quantized=CPU)
    assert "q_proj" in four_bit(loaded.model) and "lm_head" not in four_bit(loaded.model)
    trainer, steps = new_trainer(
        source.path, tmp_path / "out", pairs(26), model=loaded.model, peft_config=lora_config(LORA, "CAUSAL_LM", None),
        confidence="paper", learning_rate=1e-2,
    )  # fmt: skip
    trainer.train()
    losses = steps.of("loss")
    assert losses[0] == pytest.approx(0.6931, abs=1e-3) and losses[-1] < losses[0]
    save_whole(trainer, LORA, AutoModelForCausalLM, tmp_path / "policy", Ranks(), None, torch.float32)
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    assert not four_bit(found) and not hasattr(found.config, "quantization_config")
    before = AutoModelForCausalLM.from_pretrained(source.path).state_dict()
    for name, weight in found.state_dict().items():
        learned = any(target in name for target in LORA["target_modules"])
        assert weight.dtype == torch.float32 and torch.equal(weight, before[name]) != learned, name
        if learned:
            assert torch.linalg.matrix_rank(weight - before[name], atol=1e-5) <= LORA["r"]


def test_the_score_head_of_a_reward_model_stays_whole(source):
    model = load_reward_base(source, seed=0, quantized=CPU).model
    assert isinstance(model, AutoModelForSequenceClassification.from_pretrained(source.path).__class__)
    assert type(model.score) is torch.nn.Linear and "q_proj" in four_bit(model)


@pytest.mark.parametrize("layout", ["zero3", "zero3_offload", "fsdp2"])
def test_four_bits_cannot_be_split(layout):
    with pytest.raises(
        UserError, match=f"lora: weights in 4 bits can't be split by {layout}; choose launch ddp, zero1"
    ):
        compose_config(["+recipe=cdpo", "lora=quantized", f"launch={layout}", "launch.processes=2"])
