"""The parity gate passes for a model as trained, and fails for every way in which published reward models go wrong."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from alignment.data.chat import chat_format
from alignment.models.parity import check_parity, save_tokenizer
from alignment.models.scoring import reward_scores
from alignment.types import StageFailed
from tests.conftest import byte_tokenizer, tiny_model

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


@pytest.mark.parametrize("template", ["chatml", "llama2", "llama3", "plain"])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt2"])
def test_a_saved_model_gives_its_scores(saved, architecture, template):
    folder, rows, texts, scores = saved(architecture, template)
    found = check_parity(folder, rows, texts, scores, "float32")
    assert set(found) == {"loaded", "one_by_one", "pipeline", "left_padding"}
    assert max(found["loaded"], found["one_by_one"], found["pipeline"]) <= 1e-4
    assert scores.std() > 0.01


def test_the_training_precision_is_compared_too(saved):
    folder, rows, texts, scores = saved("llama")
    assert 0 < check_parity(folder, rows, texts, scores, "bfloat16")["bfloat16"] <= 5e-2


def test_absolute_positions_show_in_left_padding_and_fail_nothing(saved):
    folder, rows, texts, scores = saved("gpt2")
    assert check_parity(folder, rows, texts, scores, "float32")["left_padding"] > 1e-4


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
        check_parity(folder, rows, texts, scores, "float32")
    assert error.value.exit_code == 1 and "\n" not in str(error.value)


def test_a_second_bos_is_found(saved):
    folder, rows, texts, scores = saved()
    doubled = ["<|begin_of_text|>" + text for text in texts]
    with pytest.raises(StageFailed, match="pipeline"):
        check_parity(folder, rows, doubled, scores, "float32")


def test_scores_that_are_no_numbers_fail(saved):
    folder, rows, texts, scores = saved()
    with pytest.raises(StageFailed):
        check_parity(folder, rows, texts, torch.full_like(scores, np.nan), "float32")
