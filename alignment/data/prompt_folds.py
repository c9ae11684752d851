"""Pairs dealt into folds by their prompts: prompts that count as the same are never on both sides of a fit."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from alignment.data.same_prompts import normal_text, opening, text_hash
from alignment.maths.grouped_folds import deal
from alignment.types import Message, UserError


def same_prompts(prompts: Sequence[Sequence[Message]]) -> Int[np.ndarray, " pair"]:
    """A number for each prompt; those with the same words, and a conversation and its later turns, share it.

    Numbers go by first appearance.
    """
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(normal_text(opening(prompt)["content"]), len(numbers)) for prompt in prompts])


def dealt_folds(numbers: Int[np.ndarray, " pair"], folds: int, seed: int, name: str) -> Int[np.ndarray, " pair"]:
    """The fold of each pair: about as many pairs in each, and all of a number in one.

    The seed orders the prompts. name: of the setting that says how many folds there are, for the error where prompts
    are too few.
    """
    prompts = np.unique(numbers)
    if len(prompts) < folds:
        raise UserError(name, f"{len(prompts)} prompts can't be dealt into {folds} folds", "give fewer folds")
    order = sorted(range(len(prompts)), key=lambda place: text_hash(str(prompts[place]), seed))
    return deal(numbers, folds, order)
