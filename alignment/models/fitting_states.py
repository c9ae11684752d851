"""The states that a hybrid reward can be fitted on; others are refused, by the first pair that is wrong."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from alignment.maths.cross_fitting import FOLDS
from alignment.types import UserError

FEWEST_PAIRS = 2 * FOLDS


def require_tensor(name: str, states: Any) -> None:
    if not isinstance(states, Tensor):
        what = f"{type(states).__module__}.{type(states).__name__}".removeprefix("builtins.")
        raise UserError(name, f"it is a {what}", "give a tensor, as torch.as_tensor makes one")


def require_pairs(chosen: Tensor, rejected: Tensor) -> None:
    sides = {"chosen": chosen, "rejected": rejected}
    for name, states in sides.items():
        require_tensor(name, states)
        if not states.is_floating_point():
            raise UserError(name, f"its numbers are {states.dtype}", "give states in float32, bfloat16 or float16")
    if chosen.ndim != 3 or chosen.shape != rejected.shape:
        shapes = f"their shapes are {tuple(chosen.shape)} and {tuple(rejected.shape)}"
        raise UserError("chosen and rejected", shapes, "give two tensors (pair, layer, width)")
    if len(chosen) < FEWEST_PAIRS:
        raise UserError("chosen and rejected", f"{len(chosen)} pairs are too few", f"give {FEWEST_PAIRS} or more")
    for name, states in sides.items():
        bad = ~states.flatten(1).isfinite().all(dim=1)
        if bad.any():
            which = f"pair {int(bad.nonzero()[0])} holds numbers that are not finite"
            raise UserError(f"{name} states", which, "leave it out, or read the states in float32")
    if torch.equal(chosen, rejected):
        raise UserError("chosen and rejected", "they are the same states", "give those of two answers to a prompt")


def require_prompts(prompts: Sequence[int], pairs: int) -> Tensor:
    """The numbers of the pairs' prompts, if they can be dealt into folds."""
    numbers = torch.as_tensor(prompts)
    if numbers.shape != (pairs,) or numbers.is_floating_point():
        raise UserError("prompts", f"they are not {pairs} whole numbers", "give one for each pair, or none at all")
    if (count := len(numbers.unique())) < FOLDS:
        raise UserError("prompts", f"{count} are too few", f"give pairs of {FOLDS} prompts or more")
    return numbers
