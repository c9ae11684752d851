"""A user's own data, settings and reward: what can't work is one line that names the thing, before work."""

import math

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from alignment.models.hybrid_reward import HybridReward
from alignment.trainers.cdpo_config import ConfidenceDPOConfig
from alignment.trainers.margin_rm import MarginRewardConfig, MarginRewardTrainer
from alignment.trainers.own_data import check_numbers, plain
from alignment.types import UserError
from tests.conftest import byte_tokenizer, tiny_model
from tests.trainers.test_cdpo import CPU, ConfidenceDPOTrainer

SETTINGS = {**CPU, "max_steps": 1, "per_device_train_batch_size": 4}
TRAINERS = {
    "policy": (ConfidenceDPOTrainer, ConfidenceDPOConfig, {"confidence": "fixed", "fixed_confidence": 1.0}),
    "reward model": (MarginRewardTrainer, MarginRewardConfig, {}),
}


def text(count: int = 8, **columns) -> Dataset:
    rows = {
        "prompt": [f"question {i}? " for i in range(count)], "chosen": [f"good {i}" for i in range(count)],
        "rejected": [f"bad {i}" for i in range(count)],
    }  # fmt: skip
    return Dataset.from_dict(rows | columns)


def messages() -> Dataset:
    roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
    return Dataset.from_list(
        [{name: [{"role": role, "content": row[name]}] for name, role in roles.items()} for row in text()]
    )


UNUSABLE = {
    "messages and no template": (messages(), {}, "processing_class: the tokenizer has no chat template, and the data"),
    "no column chosen": (
        text().rename_column("chosen", "good"),
        {},
        "it has no column `chosen`, only prompt, good, rej",
    ),
    "no column rejected": (text().remove_columns("rejected"), {}, "it has no column `rejected`, only prompt, chosen;"),
    "an answer that is a number": (text(chosen=list(range(8))), {}, "chosen of row 0 is 0; give text, or messages"),
    "an answer that is missing": (text(rejected=["x"] * 7 + [None]), {}, "rejected of row 7 is None; give text"),
    "all answers alike": (text(rejected=[f"good {i}" for i in range(8)]), {}, "chosen and rejected are the same in ev"),
    "ids without a prompt": (
        Dataset.from_dict({"chosen_ids": [[5, 6]] * 8, "rejected_ids": [[7]] * 8}),
        {},
        "it has no column `prompt_ids`",
    ),
    "text beside messages": (
        text(chosen=[[{"role": "assistant", "content": "x"}]] * 8),
        {},
        "row 0 has text beside messages; give one or",
    ),
    "a prompt that is missing": (text(prompt=["a"] * 3 + [None] * 5), {}, "prompt of row 3 is None; give text, or mes"),
    "messages without content": (
        text(**{side: [[{"role": "assistant"}]] * 8 for side in ("prompt", "chosen", "rejected")}),
        {},
        "prompt of row 0 is [{'role': 'assistant'}]; give text, or messages with content",
    ),
    "nothing": (text(0), {}, "it has no rows; give pairs"),
    "all too long": (text(prompt=["long " * 60] * 8), {"max_length": 40}, "all 8 pairs are longer than max_length=40"),
}


@pytest.mark.parametrize("kind", TRAINERS)
@pytest.mark.parametrize("what", UNUSABLE)
def test_data_that_cannot_be_learned_from_is_one_line(kind, what, tmp_path, monkeypatch):
    trainer, config, more = TRAINERS[kind]
    data, settings, says = UNUSABLE[what]
    if (kind, what) == ("reward model", "ids without a prompt"):
        return  # it needs none
    if what != "all too long":  # which only the tokenizer knows
        monkeypatch.setattr("trl.trainer.dpo_trainer.create_model_from_path", None)
        monkeypatch.setattr("trl.trainer.reward_trainer.create_model_from_path", None)
    arguments = config(str(tmp_path / "out"), **SETTINGS, **more, **settings)
    folder = tmp_path / "model"
    tokenizer = byte_tokenizer("plain")
    tiny_model("llama", AutoModelForCausalLM, pad_token_id=tokenizer.pad_token_id).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with pytest.raises(UserError) as error:
        trainer(str(folder), arguments, data)
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("kind", TRAINERS)
def test_some_answers_alike_are_counted(kind, tmp_path):
    trainer, config, more = TRAINERS[kind]
    model = tiny_model("llama", AutoModelForSequenceClassification, num_labels=1, pad_token_id=0)
    if kind == "policy":
        tiny_model("llama", AutoModelForCausalLM).save_pretrained(tmp_path / "model")
        model = str(tmp_path / "model")
    data = text(rejected=["good 0", "good 1", *["bad"] * 6])
    with pytest.warns(UserWarning, match="train_dataset: 2 of 8 pairs have two answers alike, and teach nothing"):
        trainer(model, config(str(tmp_path), **SETTINGS, **more), data, processing_class=byte_tokenizer("plain"))


@pytest.mark.parametrize("config", [ConfidenceDPOConfig, MarginRewardConfig])
@pytest.mark.parametrize("name", ["learning_rate", "max_length", "num_train_epochs", "packing_max_tokens"])
def test_text_in_the_place_of_a_number_is_named(config, name):
    with pytest.raises(UserError, match=f"^{name}: '0.1' is text; give a number, without quotes"):
        config("out", **SETTINGS | {name: "0.1"})


@pytest.mark.parametrize("name", ["beta", "alpha", "refit_margin", "refit_learning_rate", "fixed_confidence"])
def test_text_in_the_place_of_a_number_of_ours_is_named(name):
    with pytest.raises(UserError, match=f"^{name}: '0.1' is text"):
        ConfidenceDPOConfig("out", **SETTINGS, **{name: "0.1"})


@pytest.mark.parametrize(("layers", "width"), [(4, 32), (3, 64)])
def test_a_reward_of_another_model_is_named(layers, width, tmp_path):
    states = torch.randn(2, 40, layers, width, generator=torch.Generator().manual_seed(0))
    reward = HybridReward.fit(states[0] + 0.3, states[1])
    tiny_model("llama", AutoModelForCausalLM).save_pretrained(tmp_path / "model")
    with pytest.raises(UserError) as error:
        ConfidenceDPOTrainer(
            str(tmp_path / "model"), ConfidenceDPOConfig(str(tmp_path), **SETTINGS), text(), reward=reward,
            processing_class=byte_tokenizer("plain"),
        )  # fmt: skip
    said = f"reward: it reads {layers} layers of {width}, and the policy has 3 of 32; fit it on this policy"
    assert said in str(error.value)


@pytest.mark.parametrize("kind", TRAINERS)
@pytest.mark.parametrize("form", ["torch", "numpy"])
def test_data_in_a_format_of_its_own_is_read(kind, form, tmp_path):
    trainer, config, more = TRAINERS[kind]
    ids = {"prompt_ids": [[5, 6]] * 8, "chosen_ids": [[7, 8, 9, 2]] * 8, "rejected_ids": [[9, 2]] * 8}
    model = tiny_model("llama", AutoModelForSequenceClassification, num_labels=1, pad_token_id=0)
    if kind == "policy":
        tiny_model("llama", AutoModelForCausalLM).save_pretrained(tmp_path / "model")
        model = str(tmp_path / "model")
    data = Dataset.from_dict(ids).with_format(form)
    trainer(model, config(str(tmp_path), **SETTINGS, **more), data, processing_class=byte_tokenizer("plain")).train()


def test_an_evaluation_set_without_a_length_is_one_line(tmp_path):
    model = tiny_model("llama", AutoModelForSequenceClassification, num_labels=1, pad_token_id=0)
    with pytest.raises(UserError, match="eval_dataset: its length is not known; give a Dataset"):
        MarginRewardTrainer(
            model, MarginRewardConfig(str(tmp_path), **SETTINGS), text(), eval_dataset=text().to_iterable_dataset(),
            processing_class=byte_tokenizer("plain"),
        )  # fmt: skip


def test_a_template_to_come_is_a_template(tmp_path):
    """MarginRewardConfig(chat_template_path=...): TRL clones it before it reads the data."""
    model = tiny_model("llama", AutoModelForSequenceClassification, num_labels=1, pad_token_id=0)
    byte_tokenizer("chatml").save_pretrained(tmp_path / "other")
    arguments = MarginRewardConfig(str(tmp_path), **SETTINGS, chat_template_path=str(tmp_path / "other"))
    MarginRewardTrainer(model, arguments, messages(), processing_class=byte_tokenizer("plain"))


def test_the_callers_settings_stay_as_they_are(tmp_path):
    """A second trainer may have a model that reads more."""
    arguments = MarginRewardConfig(str(tmp_path), **SETTINGS, max_length=4096)
    model = tiny_model("llama", AutoModelForSequenceClassification, num_labels=1, pad_token_id=0)
    trainer = MarginRewardTrainer(model, arguments, text(), processing_class=byte_tokenizer("plain"))
    assert trainer.args.max_length == 256 and arguments.max_length == 4096


def test_a_column_of_numbers_is_read_in_any_format_of_a_data_set():
    data = Dataset.from_dict({"confidence": [0.0, 0.5, 1.0]})
    for given in (data, data.with_format("torch"), data.with_format("numpy")):
        check_numbers(plain({"one": given}), "eval_dataset", "confidence", 0, 1)
    check_numbers(None, "eval_dataset", "confidence", 0, 1)
    check_numbers("one", "eval_dataset", "confidence", 0, 1)
    with pytest.raises(UserError, match=r"the confidence of row 2 is 1\.0; give numbers from 0 to 0\.5"):
        check_numbers(data, "eval_dataset", "confidence", 0, 0.5)
    with pytest.raises(UserError, match="it has no column `margin`"):
        check_numbers(data, "train_dataset", "margin", -math.inf, math.inf)
