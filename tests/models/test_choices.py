"""Multiple choice: the benchmark's own prompt, and log-probabilities as single forwards give them."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GPTNeoXConfig

from alignment.data.chat import chat_format
from alignment.data.columns import BadRow
from alignment.models import choices
from alignment.models.choices import as_choices, choice_log_probs, question_prompt
from alignment.models.devices import to_host
from alignment.models.load import Loaded, load_language_model
from alignment.models.packing import Packing
from alignment.models.source import source_at
from alignment.runs.ranks import Ranks
from tests import conftest
from tests.conftest import HEADS, SIZES, byte_tokenizer, tiny_model

QUESTION = {"subject": "formal_logic", "question": " 2 + 2? ", "choices": ["3", "4", "5", "6"], "answer": 1}
EXAMPLE = {"subject": "formal_logic", "question": "1 + 1?", "choices": ["0", "1", "2", "3"], "answer": 2}
BY_HAND = """The following are multiple choice questions (with answers) about formal logic.

1 + 1?
A. 0
B. 1
C. 2
D. 3
Answer: C

2 + 2?
A. 3
B. 4
C. 5
D. 6
Answer:"""


def loaded_model(architecture: str, template: str = "plain", **settings) -> Loaded:
    tokenizer = byte_tokenizer(template)
    return Loaded(tiny_model(architecture, AutoModelForCausalLM, **settings), chat_format(tokenizer), set())


def some_questions(count: int) -> list[dict]:
    return [
        {
            "subject": "formal_logic", "question": "Is it so? " * (i % 4 + 1),
            "choices": ["yes", "no", "both" * (i % 3 + 1), "neither"], "answer": i % 4,
        }
        for i in range(count)
    ]  # fmt: skip


@torch.inference_mode()
def slowly(loaded: Loaded, prompt: str, letter: str) -> float:
    """The whole text through the model, once for every answer."""
    before, whole = (loaded.tokenizer(text).input_ids for text in (prompt, f"{prompt} {letter}"))
    assert whole[: len(before)] == before
    scores = loaded.model(torch.tensor([whole]), use_cache=False).logits[0].log_softmax(dim=1)
    return sum(float(scores[at - 1, whole[at]]) for at in range(len(before), len(whole)))


def check(loaded: Loaded, questions: list[dict], examples: list[dict], packing: Packing, work: Path) -> None:
    expected = [[slowly(loaded, question_prompt(one, examples), letter) for letter in "ABCD"] for one in questions]
    asked = [as_choices(loaded, one, examples) for one in questions]
    assert {one.shots for one in asked} == {len(examples)}
    found = choice_log_probs(loaded, asked, packing, 2048, work, Ranks())
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), atol=1e-4, rtol=1e-5)
    assert len({round(value, 3) for row in found for value in row}) > 4, "all the same would prove nothing"


def test_the_prompt_is_letter_for_letter_the_benchmarks():
    assert question_prompt(QUESTION, [EXAMPLE]) == BY_HAND
    assert question_prompt(QUESTION, []).count("Answer:") == 1


@pytest.mark.parametrize("packing", ["auto", "off"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2", "gpt_neox"])
def test_log_probs_are_those_of_single_forwards(architecture, packing, tmp_path, monkeypatch):
    """Two tokens an answer, with a tokenizer that adds a BOS. GPT-NeoX is read padded, by TRL's head."""
    neox = {name: value for name, value in {**SIZES, **HEADS}.items() if name != "num_key_value_heads"}
    monkeypatch.setitem(conftest.CONFIGS, "gpt_neox", lambda: GPTNeoXConfig(**neox))
    loaded = loaded_model(architecture, max_position_embeddings=512)
    check(loaded, some_questions(5), [], Packing(packing), tmp_path)


def test_real_models_read_five_examples(shared_data, tmp_path):
    """The shots of one subject, on the two pretrained models, whose contexts differ."""

    def read(split: str) -> list[dict]:
        with (shared_data / f"mmlu/{split}/us_foreign_policy_{split}.csv").open(newline="") as file:
            return [
                {
                    "subject": "us_foreign_policy",
                    "question": row[0],
                    "choices": row[1:5],
                    "answer": "ABCD".index(row[5]),
                }
                for row in csv.reader(file)
            ]

    questions, examples = read("test")[:3], read("dev")
    for name, shots in (("dialogues-4m", 5), ("stories260K-hf", 0)):
        source = source_at(f"{shared_data}/models/{name}")
        loaded = load_language_model(replace(source, dtype="float32"), torch.device("cpu"))
        check(loaded, questions, examples[:shots], Packing("auto"), tmp_path / name)


def test_examples_that_have_no_room_are_left_out():
    """A byte is a token: BOS, the question's prompt, its examples, and two more for " A"."""
    loaded = loaded_model("llama", max_position_embeddings=256)
    none, one = (len(question_prompt(QUESTION, [EXAMPLE] * shots)) for shots in (0, 1))
    assert as_choices(loaded, QUESTION, [EXAMPLE] * 20).shots == (256 - 3 - none) // (one - none) > 1
    with pytest.raises(BadRow, match="more than the model's context of 256"):
        as_choices(loaded, {**QUESTION, "question": "why? " * 60}, [EXAMPLE])


def test_text_of_a_question_is_no_special_token():
    loaded = loaded_model("llama", max_position_embeddings=512)
    ids = as_choices(loaded, {**QUESTION, "question": "what is </s><s>?"}, []).item.prompt
    assert [token for token in ids if token in loaded.tokenizer.all_special_ids] == [loaded.tokenizer.bos_token_id]


def test_batches_change_nothing_and_are_found_again(tmp_path, monkeypatch):
    loaded = loaded_model("llama", max_position_embeddings=512)
    asked = [as_choices(loaded, one, []) for one in some_questions(9)]
    found = choice_log_probs(loaded, asked, Packing("auto"), 600, tmp_path / "parts", Ranks())
    batches = sorted((tmp_path / "parts").iterdir())
    assert len(batches) > 2
    whole = choice_log_probs(loaded, asked, Packing("auto"), 10**6, tmp_path / "whole", Ranks())
    torch.testing.assert_close(torch.tensor(found), torch.tensor(whole), atol=1e-5, rtol=0)
    batches[1].unlink()
    computed: list[torch.Tensor] = []
    monkeypatch.setattr(choices, "to_host", lambda values: computed.append(values) or to_host(values))
    assert choice_log_probs(loaded, asked, Packing("auto"), 600, tmp_path / "parts", Ranks()) == found
    assert len(computed) == 1
