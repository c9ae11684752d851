"""The parity gate passes for a model as trained, and fails for every way in which published reward models go wrong."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from alignment.data.chat import chat_format
from alignment.models.load import load_reward_model
from alignment.models.model_card import Origin, reward_model_card
from alignment.models.parity import TrainedScores, check_parity, save_tokenizer
from alignment.models.scoring import reward_scores
from alignment.trainers.finishing import scores_in_training
from alignment.trainers.saved_weights import round_saved
from alignment.types import StageFailed
from tests.conftest import byte_tokenizer, tiny_model

CPU = torch.device("cpu")
PROMPTS = [[{"role": "user", "content": f"question {'very ' * i}?"}] for i in range(4)]
ANSWERS = [[{"role": "assistant", "content": text}] for text in ("no", "yes, of course, at once", "well")]


@pytest.fixture
def saved(tmp_path):
    """A reward model on disk, with what the trainer knows of it."""

    def save(architecture="llama", template="llama3"):
        format = chat_format(byte_tokenizer(template))
        pad_id = format.tokenizer.pad_token_id
        model = tiny_model(
            architecture, AutoModelForSequenceClassification, num_labels=1, pad_token_id=pad_id,
            problem_type="regression",
        )  # fmt: skip
        rows = [row for prompt in PROMPTS for row in format.render(prompt, ANSWERS)]
        texts = [format.text(prompt, answer) for prompt in PROMPTS for answer in ANSWERS]
        model.save_pretrained(tmp_path)
        save_tokenizer(format, tmp_path)
        return tmp_path, rows, texts, reward_scores(model, rows, pad_id)

    return save


def check(folder, rows, texts, scores, exact=True, **adapters) -> dict[str, float]:
    return check_parity(
        load_reward_model(folder, CPU), folder, rows, texts, TrainedScores(scores, exact, **adapters)
    )  # fmt: skip


@pytest.mark.parametrize("template", ["chatml", "llama2", "llama3", "plain"])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt2"])
def test_a_saved_model_gives_its_scores(saved, architecture, template):
    folder, rows, texts, scores = saved(architecture, template)
    found = check(folder, rows, texts, scores)
    assert set(found) == {"loaded", "one_by_one", "pipeline", "left_padding", "bfloat16"}
    assert max(found["loaded"], found["one_by_one"], found["pipeline"]) <= 1e-4
    assert scores.std() > 0.01


def test_scores_of_rounded_weights_may_lie_as_far_apart_as_rounding_takes_them(saved):
    """As ranks give them that hold split weights in bfloat16; the same are refused where weights were whole."""
    folder, rows, texts, _ = saved("llama")
    rounded = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.bfloat16).eval()
    assert rounded.model.rotary_emb.inv_freq.dtype == torch.float32, "bfloat16 is for weights, not for positions"
    scores = reward_scores(rounded, rows, rounded.config.pad_token_id)
    found = check(folder, rows, texts, scores, exact=False)
    assert 1e-4 < found["loaded"] == pytest.approx(found["bfloat16"], rel=0.02), "the same rounding"
    with pytest.raises(StageFailed, match="loaded; at most 1e-04 is allowed"):
        check(folder, rows, texts, scores, exact=True)
    elsewhere = scores.mean() + 0.5 * (scores - scores.mean())  # a head at half its size
    assert float((elsewhere - scores).abs().max()) > 5 * found["bfloat16"]
    with pytest.raises(StageFailed, match=r"differ by .* \(loaded; at most"):
        check(folder, rows, texts, elsewhere, exact=False)


def test_weights_that_are_saved_in_bfloat16_are_compared_as_they_are_saved(saved):
    """What rounding changes is no error, and no reason to allow more: the trained model is rounded likewise."""
    folder, rows, texts, scores = saved("llama")
    model = load_reward_model(folder, CPU)
    round_saved(folder, torch.bfloat16, {})
    with pytest.raises(StageFailed, match="loaded; at most 1e-04 is allowed"):
        check(folder, rows, texts, scores)
    trained = scores_in_training(model, {"name": "none"}, torch.bfloat16, rows, model.config.pad_token_id)
    assert trained.exact and check(folder, rows, texts, trained.scores)["loaded"] <= 1e-6
    found = check(folder, rows, texts, trained.scores, unrounded=trained.unrounded)
    assert found["unrounded"] > 1e-4, "the card says what rounding changed"
    adapted = scores_in_training(model, {"name": "adapters"}, torch.bfloat16, rows, model.config.pad_token_id)
    assert adapted.rounded and not adapted.exact, "what they are merged into is rounded afterwards"


def test_adapters_on_four_bits_are_compared_by_loading_them_twice(saved):
    folder, rows, texts, scores = saved("llama")
    in_4_bits = scores + 0.3  # what four bits change
    found = check(folder, rows, texts, in_4_bits, exact=False, reloaded=in_4_bits, unmerged=scores)
    assert found["loaded"] == pytest.approx(0.3 / max(1, float(in_4_bits.abs().max())), rel=1e-3)
    assert found["reloaded_in_4_bits"] == 0 and found["unmerged"] < 1e-5
    with pytest.raises(StageFailed, match="reloaded_in_4_bits"):
        check(folder, rows, texts, in_4_bits, exact=False, reloaded=scores, unmerged=scores)
    with pytest.raises(StageFailed, match="unmerged"):
        check(folder, rows, texts, in_4_bits, exact=False, reloaded=in_4_bits, unmerged=in_4_bits)


def test_absolute_positions_show_in_left_padding_and_fail_nothing(saved):
    folder, rows, texts, scores = saved("gpt2")
    assert check(folder, rows, texts, scores)["left_padding"] > 1e-4


def test_a_template_that_writes_something_else_than_was_trained_on_is_no_failure_and_on_the_card(saved):
    """DeepSeek R1's closes no thoughts before an answer, GLM's writes no end: users are told how to write it."""
    folder, rows, texts, scores = saved("llama")
    others = [text.replace("<|eot_id|>", "") for text in texts]
    trained = TrainedScores(scores, exact=True)
    found = check_parity(load_reward_model(folder, CPU), folder, rows, texts, trained, others)
    assert found["chat_template"] > 1e-4 and found["pipeline"] <= 1e-4
    origin = Origin("base", "1", [], "pairs", "today", "legend_rm")

    def card(parity: dict) -> str:
        return reward_model_card(
            origin, "none", 0, {"pairs": 9, "steps": 3, "parity": parity, "conversation": "A B"}, "none"
        )

    assert "Give it a conversation as above: its chat template writes something else" in card(found)
    assert "Give it a conversation as its chat template renders it" in card(check(folder, rows, texts, scores))


def break_head(folder):
    weights = load_file(folder / "model.safetensors")
    weights.pop("score.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def break_problem_type(folder):
    config = json.loads((folder / "config.json").read_text())
    config["problem_type"] = "multi_label_classification"  # the pipeline then applies a sigmoid
    (folder / "config.json").write_text(json.dumps(config))


def break_weights(folder):
    weights = load_file(folder / "model.safetensors")
    weights["score.weight"] += 0.01
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("damage", [break_head, break_problem_type, break_weights])
def test_a_model_that_scores_otherwise_is_not_published(saved, damage):
    folder, rows, texts, scores = saved()
    damage(folder)
    with pytest.raises(StageFailed, match="loaded back, its scores differ by") as error:
        check(folder, rows, texts, scores)
    assert error.value.exit_code == 1 and "\n" not in str(error.value)


def test_a_second_bos_is_found(saved):
    folder, rows, texts, scores = saved()
    doubled = ["<|begin_of_text|>" + text for text in texts]
    with pytest.raises(StageFailed, match="pipeline"):
        check(folder, rows, doubled, scores)


def test_scores_that_are_no_numbers_fail(saved):
    folder, rows, texts, scores = saved()
    with pytest.raises(StageFailed):
        check(folder, rows, texts, torch.full_like(scores, np.nan))
