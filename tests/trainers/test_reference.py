"""Reference log-probabilities that were kept are taken again only for what they were computed of."""

from types import SimpleNamespace

import torch
from datasets import Dataset

from alignment.trainers.reference import TOKENS, _key

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
