"""Upper blocks on kept states beside the whole model with frozen lower ones: the same numbers, on tiny models."""

import copy

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification

from alignment.data.chat import Rendered
from alignment.models.lower_states import NumberedTexts, StatesTable, StoredStates, read_lower_states
from alignment.models.packing import Packing
from alignment.models.upper_blocks import check_split, lower_part, require_split, upper_part
from alignment.runs.ranks import Ranks
from alignment.trainers.margin_rm import MarginRewardConfig, MarginRewardTrainer
from alignment.types import UserError
from tests.conftest import byte_tokenizer, tiny_model
from tests.trainers.test_margin_rm import Losses

PADDING = byte_tokenizer("llama3").pad_token_id


def classifier(name: str = "llama", **settings) -> torch.nn.Module:
    model = tiny_model(name, AutoModelForSequenceClassification, num_labels=1, pad_token_id=PADDING, **settings)
    if name != "gemma2":
        model.set_attn_implementation("sdpa")
    return model


def text(*ids: int, prompt: int) -> Rendered:
    return Rendered(np.array(ids, dtype=np.int32), prompt, False)


def pairs(count: int = 12) -> list[list[Rendered]]:
    """Every second prompt is that of the pair before; some texts end with padding."""
    random, drawn = np.random.default_rng(0), []
    for number in range(count):
        if number % 2 == 0:
            prompt = random.integers(10, 250, random.integers(3, 9)).tolist()
        answers = [random.integers(10, 250, random.integers(2, 9)).tolist() for _ in range(2)]
        if number % 3 == 0:
            answers[0].append(PADDING)
        drawn.append([text(*prompt, *answer, prompt=len(prompt)) for answer in answers])
    return drawn


def table(model, blocks: int, texts: NumberedTexts, folder, dtype=torch.float32, packing="auto") -> StatesTable:
    return read_lower_states(lower_part(model, blocks), texts, Packing(packing), dtype, folder, Ranks())


def numbered(drawn: list[list[Rendered]]) -> NumberedTexts:
    return NumberedTexts.of((one for pair in drawn for one in pair), PADDING)


def test_tokens_of_a_prompt_have_one_number_and_those_of_answers_their_own():
    first, second = text(5, 6, 7, prompt=2), text(5, 6, 7, 7, prompt=2)
    other = text(5, 9, PADDING, 8, PADDING, prompt=1)
    texts = NumberedTexts.of([first, second, first, other], PADDING)
    one = PADDING + 1
    assert texts[first].ids.tolist() == [one, one + 1, one + 2]
    assert texts[second].ids.tolist() == [one, one + 1, one + 3, one + 4]
    assert texts[other].ids.tolist() == [*range(one + 5, one + 9), PADDING], "its last token is padding to transformers"
    assert texts.count == 10 and texts[other].prompt_length == 1


@pytest.mark.parametrize("packing", ["auto", "off"])
@pytest.mark.parametrize("name", ["llama", "qwen2", "mistral"])
def test_parts_give_what_the_whole_model_gives(tmp_path, name, packing):
    model, drawn = classifier(name), pairs(6)
    texts = [one for pair in drawn for one in pair]
    with torch.inference_mode():
        expected = [model(torch.from_numpy(one.ids).long()[None]).logits for one in texts]
    kept = table(model, 2, numbered(drawn), tmp_path, packing=packing)
    upper = upper_part(model, 2, kept.module())
    with torch.inference_mode():
        found = [upper(torch.from_numpy(numbered(drawn)[one].ids).long()[None]).logits for one in texts]
    torch.testing.assert_close(torch.cat(found), torch.cat(expected), rtol=1e-5, atol=1e-5)


def test_layers_of_different_kinds_stay_what_they_are(tmp_path):
    """Upper blocks that see all of a text, above ones that see three tokens of it."""
    kinds = ["sliding_attention", "full_attention", "full_attention"]
    model = classifier("qwen2", use_sliding_window=True, sliding_window=3, layer_types=kinds)
    assert check_split(model, 2, pairs(2)[0], PADDING) == torch.float16
    assert upper_part(model, 2, StoredStates(torch.zeros(2, 32), 0)).config.layer_types == kinds[1:]


def trained(model, columns: dict, folder) -> list[float]:
    losses = Losses()
    settings = MarginRewardConfig(
        output_dir=str(folder), per_device_train_batch_size=4, learning_rate=1e-2, max_steps=5, logging_steps=1,
        report_to="none", disable_tqdm=True, save_strategy="no", seed=3, bf16=False, use_cpu=True,
        dataloader_pin_memory=False, lr_scheduler_type="constant", activation_checkpointing=False,
    )  # fmt: skip
    MarginRewardTrainer(
        model=model, args=settings, train_dataset=Dataset.from_dict(columns),
        processing_class=byte_tokenizer("llama3"), callbacks=[losses],
    ).train()  # fmt: skip
    return losses.losses


def columns(drawn: list[list[Rendered]]) -> dict:
    return {f"{side}_ids": [pair[i].ids for pair in drawn] for i, side in enumerate(("chosen", "rejected"))}


def test_training_is_that_of_the_whole_model_with_frozen_lower_blocks(tmp_path):
    whole, drawn = classifier(), pairs()
    before = copy.deepcopy(whole.state_dict())
    other, texts = copy.deepcopy(whole), numbered(drawn)
    for name, parameter in whole.named_parameters():
        parameter.requires_grad = name.startswith(("model.layers.2.", "model.norm.", "score."))
    expected = trained(whole, columns(drawn), tmp_path / "whole")
    upper = upper_part(other, 1, table(other, 1, texts, tmp_path).module())
    margins = [[texts[one] for one in pair] for pair in drawn]
    found = trained(upper, columns(margins), tmp_path / "upper")
    assert len(found) == 5 and found[-1] != found[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    for name, value in whole.state_dict().items():
        lies_below = name.startswith(("model.embed_tokens.", "model.layers.0.", "model.layers.1."))
        assert torch.equal(other.state_dict()[name], before[name]) == lies_below, name
        torch.testing.assert_close(other.state_dict()[name], value, rtol=1e-3, atol=2e-4)


def test_states_are_kept_in_half_the_size_and_a_killed_run_goes_on(tmp_path, monkeypatch):
    model, texts = classifier(), numbered(pairs(4))
    exact = table(model, 1, texts, tmp_path / "exact").module()
    kept = table(model, 1, texts, tmp_path, torch.float16)
    assert kept.path.stat().st_size == (texts.count + 1) * 32 * 2
    numbers = torch.arange(PADDING, PADDING + texts.count + 1)
    torch.testing.assert_close(kept.module()(numbers), exact(numbers), rtol=1e-3, atol=1e-3)
    assert not kept.module()(numbers)[0].any(), "padding"
    monkeypatch.setattr("alignment.models.lower_states.token_states", None)  # nothing is computed again
    assert table(model, 1, texts, tmp_path, torch.float16) == kept


def test_states_that_float16_cannot_hold():
    model = classifier()
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(1e5)
    assert check_split(model, 1, pairs(1)[0], PADDING) == torch.bfloat16


@pytest.mark.parametrize(
    "kind, count, blocks, line",
    [
        (
            "gemma2",
            3,
            1,
            "models of type gemma2 may .*; leave it out, or use a model of type llama, qwen2, qwen3, mistr",
        ),
        ("llama", 3, 3, "it is 3, the model's blocks are 3, and one at least stays as it is; give 1 to 2, or "),
        ("llama", 1, 1, "it is 1, the model's blocks are 1, and one at least stays as it is; leave it out$"),
    ],
)
def test_models_that_cannot_be_split_are_refused(kind, count, blocks, line):
    with pytest.raises(UserError, match=f"trainer.upper_blocks: {line}"):
        require_split(kind, count, blocks)
    require_split("llama", 3, 2)
