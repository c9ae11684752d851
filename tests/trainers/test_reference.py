"""Reference log-probabilities that were kept are taken again only for what they were computed of."""

from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM

from alignment.trainers import cdpo
from alignment.trainers.cdpo_config import ConfidenceDPOConfig
from alignment.trainers.reference import TOKENS, _key
from alignment.types import Stopped
from tests.conftest import byte_tokenizer, tiny_model

ROWS = {"prompt_ids": [[1, 2], [1, 2]], "chosen_ids": [[3], [4]], "rejected_ids": [[5], [6]]}


def key(rows: dict, **other) -> str:
    facts = {"bf16": False, "fp16": False, "max_length": None, "dtype": torch.float32, "weights": "a", "packed": True}
    is_ = SimpleNamespace(**facts | other)
    model = SimpleNamespace(dtype=is_.dtype, config=SimpleNamespace(_attn_implementation="sdpa"))
    trainer = SimpleNamespace(args=is_, model=model, layout=is_, _precompute_model_hash=is_.weights)
    return _key(trainer, Dataset.from_dict(rows))


def test_they_are_of_every_token_of_prompt_and_answers_in_this_order():
    found = [key({**ROWS, name: [[9], ROWS[name][1]]}) for name in TOKENS]
    found.append(key({name: rows[::-1] for name, rows in ROWS.items()}))
    assert key(ROWS) == key(dict(ROWS)) and len({key(ROWS), *found}) == 5


def test_they_are_of_the_model_its_arithmetic_and_what_is_cut_off():
    others = [{"weights": "b"}, {"max_length": 8}, {"bf16": True}, {"dtype": torch.bfloat16}, {"packed": False}]
    assert len({key(ROWS), *(key(ROWS, **other) for other in others)}) == 6


def test_the_reference_is_loaded_from_the_revision_that_is_named(tmp_path, monkeypatch):
    """A model that was loaded from an older one doesn't know; `revision` or model_init_kwargs say it."""
    asked: list[str | None] = []

    def noted(model, precomputed, peft_config, revision) -> None:
        asked.append(revision)
        raise Stopped

    monkeypatch.setattr(cdpo, "reference_of", noted)
    rows = Dataset.from_dict({**ROWS, "confidence": [0.5, 0.5]})
    for revision, settings in (("a" * 40, {}), (None, {"revision": "b" * 40}), (None, None)):
        args = ConfidenceDPOConfig(
            str(tmp_path), confidence="column", model_init_kwargs=settings, use_cpu=True, bf16=False
        )
        model = tiny_model("llama", AutoModelForCausalLM)
        with pytest.raises(Stopped):
            cdpo.ConfidenceDPOTrainer(
                model, args, rows, revision=revision, processing_class=byte_tokenizer("llama3")
            )  # fmt: skip
    assert asked == ["a" * 40, "b" * 40, None]
