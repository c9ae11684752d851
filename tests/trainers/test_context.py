"""No row is longer than what the model can read: GPT-2's positions end, where others would only be guessing."""

import pytest
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from alignment.data.chat import chat_format
from alignment.models.load import Loaded
from alignment.policies.training import tokenize
from alignment.trainers.margin_rm import MarginRewardConfig, MarginRewardTrainer
from tests.conftest import byte_tokenizer, tiny_model
from tests.trainers.test_cdpo import CPU, END, ConfidenceDPOConfig, ConfidenceDPOTrainer

CONTEXT = 256
SETTINGS = {**CPU, "per_device_train_batch_size": 4, "max_steps": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("gpt2")
    tiny_model("gpt2", AutoModelForCausalLM).save_pretrained(path)
    byte_tokenizer("chatml").save_pretrained(path)
    return path


def rows(lengths: list[int]) -> Dataset:
    return Dataset.from_list(
        [{"prompt_ids": [5] * 20, "chosen_ids": [7] * n + [END], "rejected_ids": [9, 8, END]} for n in lengths]
    )


@pytest.mark.parametrize("given", ["a name", "a model"])
@pytest.mark.parametrize("limit", [None, 1024, 100])
def test_a_policy_learns_from_pairs_longer_than_its_context(folder, given, limit, tmp_path):
    model = str(folder) if given == "a name" else AutoModelForCausalLM.from_pretrained(folder)
    arguments = ConfidenceDPOConfig(
        str(tmp_path), **SETTINGS, max_length=limit, confidence="fixed", fixed_confidence=1.0
    )
    trainer = ConfidenceDPOTrainer(model, arguments, rows([300, 10, 500, 236] * 2))
    assert trainer.args.max_length == min(limit or CONTEXT, CONTEXT)
    trainer.train()
    assert trainer.state.global_step == 2


def test_a_reward_model_leaves_out_pairs_longer_than_its_context(folder, tmp_path):
    model = tiny_model("gpt2", AutoModelForSequenceClassification, num_labels=1, pad_token_id=0)
    data = Dataset.from_list([{"chosen_ids": [7] * n, "rejected_ids": [9, 8]} for n in [300, 10, 500, 256] * 2])
    arguments = MarginRewardConfig(str(tmp_path), **SETTINGS)
    trainer = MarginRewardTrainer(model, arguments, data, processing_class=byte_tokenizer("chatml"))
    trainer.train()
    assert trainer.dropped_pairs == 4 and trainer.state.global_step == 2


def test_a_recipe_sets_them_aside_and_says_why(folder):
    loaded = Loaded(AutoModelForCausalLM.from_pretrained(folder), chat_format(byte_tokenizer("chatml")), {END})
    pairs = [
        {
            "id": name, "prompt": [{"role": "user", "content": "?"}],
            "chosen": [{"role": "assistant", "content": text}],
            "rejected": [{"role": "assistant", "content": "no"}],
        }
        for name, text in (("short", "yes"), ("long", "yes" * 90))
    ]  # fmt: skip
    kept, left_out = tokenize(loaded, pairs, *loaded.token_limit("policy.max_length", 1024))
    assert len(kept) == 1 and left_out == [("long", "one of its texts has more tokens than the model's context of 256")]
    kept, left_out = tokenize(loaded, pairs, *loaded.token_limit("policy.max_length", 20))
    assert not kept and left_out[0] == ("short", "one of its texts has more tokens than policy.max_length=20")
