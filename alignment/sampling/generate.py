"""A language model's answers to prompts of any length, one batch at a time."""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from alignment.data.thinking import ANY, split_off
from alignment.maths.noise import gumbel, gumbel_of
from alignment.models.decoding import generate_ids
from alignment.models.devices import to_device
from alignment.models.load import Loaded

NUMBERS_IN_CACHE = 2**18  # of 8 bytes; for 56 rows of 50,257 this takes 0.6 times as long as all rows at once
UNLIKELY = -80.0  # e to this power adds nothing to a sum above 1, and a CPU takes a hundred times as long below e^-87
LIKELIEST = 256  # tokens among which top_p's are looked for first: to sort all of 49,152 takes longer than the model


@dataclass(frozen=True)
class Sample:
    """An answer. finished: false if it was cut off at the limit of new tokens.

    thoughts: what a model that thinks wrote before its answer; they are kept, and neither judged nor ranked.
    """

    text: str
    finished: bool
    thoughts: str = ""


def generate_greedily(loaded: Loaded, prompts: list[list[int]], max_new_tokens: int) -> list[Sample]:
    """The likeliest answer to each prompt, token by token."""
    answers = generate_ids(loaded, prompts, max_new_tokens, likeliest)
    return [_sample(prompt, answer, loaded) for prompt, answer in zip(prompts, answers, strict=True)]


def generate_samples(
    loaded: Loaded, prompts: list[list[int]], keys: Sequence[int], settings: Mapping[str, Any]
) -> list[Sample]:
    """A sampled answer to each prompt. Its key (maths.noise.row_key) decides which, whatever else is in the batch.

    There are two exceptions: float rounding can turn a choice between two tokens that come out nearly equal, and
    answers end where the longest prompt of their batch leaves the model's context. settings: max_new_tokens, and
    applied in transformers' order, repetition_penalty (of the tokens in prompt and answer), temperature, top_k (0: all)
    and top_p.
    """
    answers = generate_ids(loaded, prompts, settings["max_new_tokens"], Draw(keys, settings, loaded.model.device))
    return [_sample(prompt, answer, loaded) for prompt, answer in zip(prompts, answers, strict=True)]


def likeliest(ids: Tensor, scores: Tensor, numbers: Tensor, position: int) -> Tensor:
    return scores.argmax(dim=1)


class Draw:
    """Draws the token with the highest sum of processed score and the answer's own Gumbel noise: that is a sample."""

    def __init__(self, keys: Sequence[int], settings: Mapping[str, Any], device: torch.device) -> None:
        self._keys = to_device(torch.tensor(list(keys), dtype=torch.long), device)
        warpers: list[LogitsProcessor] = []
        if settings["repetition_penalty"] != 1.0:
            warpers.append(RepetitionPenaltyLogitsProcessor(settings["repetition_penalty"]))
        if settings["temperature"] != 1.0:
            warpers.append(TemperatureLogitsWarper(settings["temperature"]))
        if settings["top_k"]:
            warpers.append(TopKLogitsWarper(settings["top_k"]))
        self._warpers, self._top_k = LogitsProcessorList(warpers), bool(settings["top_k"])
        self._share = settings["top_p"]
        self._top_p = LogitsProcessorList([TopPLogitsWarper(self._share)] if self._share < 1.0 else [])

    def __call__(self, ids: Tensor, scores: Tensor, numbers: Tensor, position: int) -> Tensor:
        keys, scores = self._keys[numbers], self._warpers(ids, scores)
        if scores.device.type != "cpu":  # a GPU sorts fast, and would wait for the host in what follows
            return _highest(self._top_p(ids, scores), keys, position)
        if self._top_k:
            left = int((scores != -math.inf).sum(dim=1).max())  # top_k, or more where tokens are equally likely
            scores, tokens = scores.topk(left)
            scores = self._top_p(ids, scores)
        elif self._share < 1.0:
            scores, tokens = _nucleus(scores, self._share)
        else:
            return _highest(self._top_p(ids, scores), keys, position)
        chosen = gumbel_of(tokens, keys, position).add_(scores).argmax(dim=1, keepdim=True)
        return tokens.gather(1, chosen)[:, 0]


def _nucleus(scores: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """The likeliest tokens of each row, and their scores: -inf where likelier ones have this share of the probability.

    As many are taken as the row that needs most has need of, rounded up.
    """
    highest, count = scores.amax(dim=1, keepdim=True), LIKELIEST
    total = highest + (scores - highest).clamp_(min=UNLIKELY).exp_().sum(dim=1, keepdim=True).log_()
    while True:
        likeliest, tokens = scores.topk(min(count, scores.shape[1]))
        probabilities = (likeliest - total).exp_()
        likelier = probabilities.cumsum(dim=1) - probabilities
        if count >= scores.shape[1] or bool((likelier[:, -1] >= share).all()):
            return likeliest.masked_fill_(likelier >= share, -math.inf), tokens
        count *= 8


def _highest(scores: Tensor, keys: Tensor, position: int) -> Tensor:
    """The token with the highest score plus noise. On a CPU a few rows at a time, whose noise fits into its cache."""
    rows = len(keys) if keys.device.type != "cpu" else max(1, NUMBERS_IN_CACHE // scores.shape[1])
    parts = zip(scores.split(rows), keys.split(rows), strict=True)
    return torch.cat([gumbel(key, position, part.shape[1]).add_(part).argmax(dim=1) for part, key in parts])


def _sample(prompt: list[int], ids: list[int], loaded: Loaded) -> Sample:
    end = next((i for i, token in enumerate(ids) if token in loaded.end_ids), None)
    thoughts, answer = _thoughts_and_answer(ids[:end], loaded, loaded.format.opens_thoughts(prompt))
    text = loaded.tokenizer.decode(answer, skip_special_tokens=True)
    before, stopped, _ = text.partition(loaded.format.stop) if loaded.format.stop else (text, "", "")
    return Sample(before.strip(), finished=end is not None or bool(stopped), thoughts=thoughts)


def _thoughts_and_answer(ids: list[int], loaded: Loaded, begun: bool) -> tuple[str, list[int]]:
    """The text of the thoughts, and the tokens after it. Tags may be special tokens, or parts of larger tokens."""

    def decoded(count: int) -> str:
        return loaded.tokenizer.decode(ids[:count], skip_special_tokens=False)

    tags, whole = loaded.format.tags or ANY, decoded(len(ids))
    thoughts, answer = split_off(whole, tags, begun, loaded.format.thinking)
    if answer is None or answer == whole:
        return thoughts, [] if answer is None else ids
    return thoughts, ids[bisect_left(range(len(ids)), True, key=lambda count: tags.end in decoded(count)) :]
