"""Small random models of many architectures: which of them read several texts in a row, as docs/speed.md has it."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import transformers as hf
from transformers import AutoModelForCausalLM, PreTrainedConfig

from alignment.maths.pooling import find_spans
from alignment.models.activations import check_layers, reading
from alignment.models.architecture import decoder_blocks, layer_count, network_by_token, output_head
from alignment.models.completions import add_completion_head, answer_log_probs, token_log_probs
from alignment.models.packing import Item, Layout, Packing, answers
from alignment.models.packing_check import why_different
from alignment.models.routers import router_coefficient
from tests.conftest import REPOSITORY

PAD = 0
SIZES = {"vocab_size": 600, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
WITHIN = {**SIZES, "max_position_embeddings": 256, "num_attention_heads": 4, "pad_token_id": PAD, "bos_token_id": 1,
          "eos_token_id": 2}  # fmt: skip
HEADS = {**WITHIN, "num_key_value_heads": 2}
WIDE = {**HEADS, "head_dim": 8}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
SLIDES = {"sliding_window": 128, "layer_types": ["sliding_attention", "full_attention"]}
LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
MAMBA = {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_chunk_size": 8}
LLAMA_4 = {**WIDE, "num_local_experts": 4, "intermediate_size_mlp": 48, "interleave_moe_layer_step": 2,
           "attention_chunk_size": 128, "no_rope_layers": [1, 0]}  # fmt: skip
OLDER = {"vocab_size": 600, "hidden_size": 32, "num_attention_heads": 4}


@dataclass(frozen=True)
class Family:
    """config: of a small model. about: what is its own. why: rows are padded; None: they are packed."""

    config: Callable[[], PreTrainedConfig]
    about: str = ""
    why: str | None = None
    attention: str = "sdpa"


POSITIONS = "takes no positions: it counts the tokens of a row"
FAMILIES = {
    "Llama 2, 3": Family(lambda: hf.LlamaConfig(**HEADS)),
    "Qwen 2, 2.5": Family(lambda: hf.Qwen2Config(**HEADS)),
    "Qwen 3": Family(lambda: hf.Qwen3Config(**WIDE)),
    "Mistral": Family(lambda: hf.MistralConfig(**HEADS, sliding_window=128), "windows"),
    "GPT-2": Family(
        lambda: hf.GPT2Config(vocab_size=600, n_embd=32, n_layer=2, n_head=4, n_positions=256), "learned positions"
    ),
    "Gemma": Family(lambda: hf.GemmaConfig(**WIDE)),
    "Gemma 2": Family(
        lambda: hf.Gemma2Config(**WIDE, **SLIDES, final_logit_softcapping=5.0), "windows, soft caps", attention="eager"
    ),
    "Gemma 3, text": Family(lambda: hf.Gemma3TextConfig(**WIDE, **SLIDES), "windows"),
    "Gemma 4, text": Family(
        lambda: hf.Gemma4TextConfig(
            **WIDE,
            **SLIDES,
            global_head_dim=8,
            hidden_size_per_layer_input=8,
            vocab_size_per_layer_input=600,
            num_kv_shared_layers=0,
            final_logit_softcapping=5.0,
        ),
        "windows, soft cap, a second embedding for each layer",
    ),
    "OLMo 2": Family(lambda: hf.Olmo2Config(**HEADS), "norms after the blocks"),
    "OLMo 3": Family(lambda: hf.Olmo3Config(**HEADS, **SLIDES), "windows"),
    "Phi 3, 4": Family(lambda: hf.Phi3Config(**HEADS)),
    "SmolLM 3": Family(lambda: hf.SmolLM3Config(**HEADS), "layers without positions"),
    "Granite": Family(
        lambda: hf.GraniteConfig(**HEADS, logits_scaling=4.0, attention_multiplier=0.2, residual_multiplier=0.5),
        "logits, attention and residuals scaled",
    ),
    "Granite, experts": Family(
        lambda: hf.GraniteMoeConfig(**HEADS, **EXPERTS, logits_scaling=4.0), "experts, logits scaled"
    ),
    "Cohere 2": Family(
        lambda: hf.Cohere2Config(**HEADS, **SLIDES, logit_scale=0.3), "windows, logits scaled, parallel blocks"
    ),
    "GLM 4": Family(lambda: hf.Glm4Config(**WIDE)),
    "StarCoder 2": Family(lambda: hf.Starcoder2Config(**HEADS, sliding_window=None), "biases"),
    "GPT-NeoX": Family(lambda: hf.GPTNeoXConfig(**WITHIN), "parallel blocks"),
    "Qwen 3, experts": Family(
        lambda: hf.Qwen3MoeConfig(**WIDE, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16), "experts"
    ),
    "gpt-oss": Family(
        lambda: hf.GptOssConfig(
            **WIDE, **SLIDES, **EXPERTS, rope_parameters={"rope_type": "default", "rope_theta": 1e4}
        ),
        "experts, sinks, windows",
        attention="eager",
    ),
    "Llama 4, text, without scaled attention": Family(
        lambda: hf.Llama4TextConfig(**LLAMA_4, attn_temperature_tuning=False), "experts, chunks"
    ),
    "Llama 4, text": Family(
        lambda: hf.Llama4TextConfig(**LLAMA_4, floor_scale=4),
        "experts, chunks",
        "scales attention by a token's place in its row (attn_temperature_tuning)",
    ),
    "Qwen 3.5": Family(
        lambda: hf.Qwen3_5TextConfig(**WIDE, **LINEAR, layer_types=["linear_attention", "full_attention"]),
        "linear attention",
        "its layers of linear_attention carry what they read from one text of a row into the next",
    ),
    "Falcon H1": Family(
        lambda: hf.FalconH1Config(**WIDE, **MAMBA),
        "a state space beside attention",
        "its layers of hybrid carry what they read from one text of a row into the next",
    ),
    "BLOOM": Family(lambda: hf.BloomConfig(**OLDER, n_layer=2), "ALiBi", POSITIONS, "eager"),
    "MPT": Family(
        lambda: hf.MptConfig(vocab_size=600, d_model=32, n_layers=2, n_heads=4, max_seq_len=256),
        "ALiBi",
        POSITIONS,
        "eager",
    ),
    "Falcon, with ALiBi": Family(
        lambda: hf.FalconConfig(**OLDER, num_hidden_layers=2, alibi=True), "ALiBi", POSITIONS, "eager"
    ),
}
PACKED = [name for name, family in FAMILIES.items() if family.why is None]


def model_of(name: str) -> torch.nn.Module:
    family = FAMILIES[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(family.config(), attn_implementation=family.attention).eval()
        for weight in model.parameters():  # initial weights of 0.02 would leave all states nearly equal
            torch.nn.init.normal_(weight, std=0.2) if weight.ndim > 1 else None
    return model


def some_items() -> list[Item]:
    random = torch.Generator().manual_seed(0)

    def ids(most: int) -> list[int]:
        return torch.randint(
            10, 500, (int(torch.randint(1, most + 1, (), generator=random)),), generator=random
        ).tolist()

    return [Item(ids(20), [ids(12), ids(12)]) for _ in range(5)]


def read_of(model: torch.nn.Module) -> Callable:
    """Log-probabilities, which have a gradient, and the states of all layers, of one pass as in training."""

    def read(layout: Layout, items: list[Item]) -> dict[str, torch.Tensor]:
        batch = layout.batch(items)
        spans = find_spans(batch["input_ids"], answers(batch), set(), "endpoint")
        with reading(model, range(1, layer_count(model) + 1), spans) as reader:
            log_probs = answer_log_probs(model, model, layout, batch)
        return {"log-probabilities": log_probs, "activations": reader.states}

    return read


@pytest.mark.parametrize("name", FAMILIES)
def test_what_the_model_says_of_its_rows_is_what_is_found(name):
    """Models that say they can share rows can, forward and gradient; those that say they can't, are found out too."""
    model, family, items = model_of(name), FAMILIES[name], some_items()
    add_completion_head(model)
    layout, line = Packing(max_tokens=100).layout([model], model.device, PAD, lambda: 32)
    assert layout.packed == (family.why is None), line
    if family.why is None:
        assert model.has_completion_head
        check_layers(model.base_model if name != "Llama 4, text, without scaled attention" else model.model, 2)
        assert len(layout.batch(items)["input_ids"]) < len(items), "a row holds several pairs"
    else:
        assert family.why in line
        model.set_attn_implementation(family.attention)
    why = why_different(read_of(model), model, layout if layout.packed else Layout(True, 100, PAD), items,
                        torch.float32, gradient=True)  # fmt: skip
    assert (why is None) == (family.why is None), why
    assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize(
    "name, autocast", [*((name, True) for name in PACKED), *((name, False) for name in ("Llama 2, 3", "Gemma 4, text"))]
)
def test_in_bfloat16_rounding_is_what_it_is_said_to_be(name, autocast):
    model, items = model_of(name), some_items()
    if not autocast:
        model.to(torch.bfloat16)
    add_completion_head(model)
    layout, _ = Packing(max_tokens=100).layout([model], model.device, PAD, lambda: 32)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        assert why_different(read_of(model), model, layout, items, torch.bfloat16, gradient=True) is None


@pytest.mark.parametrize("name", PACKED)
def test_the_head_is_the_models_own(name):
    model = model_of(name)
    add_completion_head(model)
    layout, items = Layout(False, 100, PAD), some_items()
    batch = layout.batch(items)
    with torch.no_grad():
        logits = model(**layout.inputs(batch, model), use_cache=False).logits.flatten(0, 1)[batch["predictors"]]
        expected = logits.log_softmax(dim=1).gather(1, batch["targets"][:, None])[:, 0]
        torch.testing.assert_close(token_log_probs(model, model, layout, batch), expected, rtol=1e-5, atol=1e-5)
    assert len(expected) == sum(len(item.answers[which]) for item in items for which in range(2))


def test_a_head_that_is_not_what_the_configuration_says_stays_as_it_is():
    """HyperCLOVA X multiplies by what Granite divides by, and another may do what no configuration tells."""
    model = model_of("Granite")
    model.config.logits_scaling = 4.0
    forward = model.forward

    def squared(*args, **kwargs):
        output = forward(*args, **kwargs)
        output.logits = output.logits * 1.1
        return output

    model.forward = squared
    assert output_head(model).scale == 0.25
    add_completion_head(model)
    assert not model.has_completion_head and model.forward is squared


def test_a_wrong_mask_is_found_in_every_precision(monkeypatch):
    """An answer that sees the one before it, which bfloat16's rounding mustn't hide."""
    from alignment.models import packing

    mask = packing.packed_mask
    for dtype in (torch.float32, torch.bfloat16):
        model = model_of("Llama 2, 3").to(dtype)
        add_completion_head(model)
        with monkeypatch.context() as patched:
            patched.setattr(packing, "packed_mask", lambda item, branch, *more: mask(item, branch.clamp(max=1), *more))
            layout = Layout(True, 100, PAD)
            found = [
                why_different(read_of(model), model, layout, some_items(), dtype, gradient)
                for gradient in (True, False)
            ]
        assert all(why is not None and why.startswith("packed, ") for why in found)


def test_a_wrong_gradient_alone_is_found():
    """Of a network that gives packed rows, which are wide, the right states, and half the gradient."""
    model, items = model_of("Llama 2, 3"), some_items()
    add_completion_head(model)
    network = decoder_blocks(model)[0][0].mlp
    longest = max(item.longest for item in items)

    def halved(module, args, output):
        return output if output.shape[1] <= longest else output.detach() + 0.5 * (output - output.detach())

    network.register_forward_hook(halved)
    why = why_different(read_of(model), model, Layout(True, 100, PAD), items, torch.float32, gradient=True)
    assert why is not None and why.startswith("packed, gradients of some rows differ by ")
    assert why_different(read_of(model), model, Layout(True, 100, PAD), items, torch.float32, gradient=False) is None


def test_a_model_that_cannot_read_several_texts_at_all_says_so():
    model = model_of("BLOOM")
    why = why_different(read_of(model), model, Layout(True, 100, PAD), some_items(), torch.float32, gradient=False)
    assert why == "rows of several texts are more than it can read (too many values to unpack (expected 2))"


def test_networks_that_may_do_more_than_go_token_by_token_are_left_whole():
    by_token = {name for name in FAMILIES if network_by_token(decoder_blocks(model_of(name))[0][-1]) is not None}
    experts = {name for name, family in FAMILIES.items() if "experts" in family.about}
    assert not by_token & experts and "BLOOM" not in by_token, "BLOOM's takes the residual as well"
    assert {"Llama 2, 3", "GPT-2", "GPT-NeoX", "Cohere 2", "Phi 3, 4"} <= by_token


def test_who_has_a_loss_for_routers():
    found = {name for name, family in FAMILIES.items() if router_coefficient(family.config())}
    assert found == {name for name, family in FAMILIES.items() if "experts" in family.about}


def table() -> str:
    """The table of docs/speed.md."""
    lines = ["| family | `model_type` | attention | what is its own | rows |", "|---|---|---|---|---|"]
    for name, family in FAMILIES.items():
        rows = "packed" if family.why is None else f"padded: {family.why}"
        kind = family.config().model_type
        lines.append(f"| {name} | `{kind}` | {family.attention} | {family.about or '-'} | {rows} |")
    return "\n".join(lines)


def test_the_docs_have_the_table():
    assert table() in (REPOSITORY / "docs" / "speed.md").read_text(), f"docs/speed.md should have\n{table()}"
