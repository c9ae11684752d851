"""Folds by prompt: what is the same stays together, folds are about equal, the seed deals."""

import numpy as np
import pytest

from alignment.data.prompt_folds import dealt_folds, same_prompts
from alignment.types import UserError


def asked(*texts: str) -> list[dict]:
    roles = ("user", "assistant")
    return [{"role": roles[number % 2], "content": text} for number, text in enumerate(texts)]


def test_the_same_words_and_later_turns_are_one_prompt():
    prompts = [asked("How do I bake?"), asked("Why?"), asked("how do I BAKE"), asked("Why?", "So.", "And then?")]
    assert same_prompts(prompts).tolist() == [0, 1, 0, 1]


def test_folds_are_about_equal_and_keep_prompts_together():
    numbers = np.repeat(np.arange(60), np.arange(60) % 7 + 1)
    folds = dealt_folds(numbers, 5, 0, "reward.folds")
    assert set(folds) == set(range(5)) and np.ptp(np.bincount(folds)) <= 1
    assert all(len(set(folds[numbers == number])) == 1 for number in range(60))
    assert (folds == dealt_folds(numbers, 5, 0, "reward.folds")).all()
    assert (folds != dealt_folds(numbers, 5, 1, "reward.folds")).any()


def test_fewer_prompts_than_folds_are_refused():
    with pytest.raises(UserError, match=r"^reward.folds: 2 prompts can't be dealt into 3 folds; give fewer folds$"):
        dealt_folds(np.array([0, 1, 1]), 3, 0, "reward.folds")
