"""Answers of a language model to prompts of any length, one batch at a time."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from alignment.maths.noise import gumbel
from alignment.models.load import Loaded


@dataclass(frozen=True)
class Sample:
    """An answer's text; `finished` is false when it ran into the limit of new tokens."""

    text: str
    finished: bool


def generate_greedily(loaded: Loaded, prompts: list[list[int]], max_new_tokens: int) -> list[Sample]:
    """The likeliest answer to each prompt, token by token."""
    return _generate(loaded, prompts, max_new_tokens, LogitsProcessorList())


def generate_samples(
    loaded: Loaded, prompts: list[list[int]], keys: Sequence[int], settings: Mapping[str, Any]
) -> list[Sample]:
    """A sampled answer to each prompt; its key (maths.noise.row_key) decides which, whatever else is in the batch.

    Up to float rounding, that is, which can turn a choice between two tokens that come out nearly equal; and answers
    end where the longest prompt of their batch leaves the model's context. settings, applied in transformers' order:
    repetition_penalty (of the tokens in prompt and answer), temperature, top_k (0: all), top_p; max_new_tokens.
    """
    lengths = [len(prompt) for prompt in prompts]
    warpers: list[LogitsProcessor] = []
    if settings["repetition_penalty"] != 1.0:
        warpers.append(RepetitionPenalty(settings["repetition_penalty"], lengths))
    if settings["temperature"] != 1.0:
        warpers.append(TemperatureLogitsWarper(settings["temperature"]))
    if settings["top_k"]:
        warpers.append(TopKLogitsWarper(settings["top_k"]))
    if settings["top_p"] < 1.0:
        warpers.append(TopPLogitsWarper(settings["top_p"]))
    warpers.append(_Noise(keys, max(lengths)))
    return _generate(loaded, prompts, settings["max_new_tokens"], LogitsProcessorList(warpers))


class _Noise(LogitsProcessor):
    """Adds the answers' own Gumbel noise; the maximum is then a sample."""

    def __init__(self, keys: Sequence[int], width: int) -> None:
        self._keys, self._width = torch.tensor(list(keys), dtype=torch.long), width

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self._keys = self._keys.to(scores.device)
        return scores.double() + gumbel(self._keys, input_ids.shape[1] - self._width, scores.shape[1])


class RepetitionPenalty(LogitsProcessor):
    """transformers' penalty, without counting the padding before a prompt as tokens of it."""

    def __init__(self, penalty: float, lengths: list[int]) -> None:
        self._penalty, self._padding = penalty, torch.tensor([max(lengths) - length for length in lengths])

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        first = self._padding.to(input_ids.device)
        padding = torch.arange(input_ids.shape[1], device=input_ids.device) < first[:, None]
        seen = torch.where(padding, input_ids.gather(1, first[:, None]), input_ids)
        score = scores.gather(1, seen)
        return scores.scatter(1, seen, torch.where(score < 0, score * self._penalty, score / self._penalty))


@torch.inference_mode()
def _generate(
    loaded: Loaded, prompts: list[list[int]], max_new_tokens: int, processors: LogitsProcessorList
) -> list[Sample]:
    """The token of the highest processed score at every position. The model's own settings count for nothing."""
    width = max(len(prompt) for prompt in prompts)
    pad_id = loaded.tokenizer.pad_token_id
    if loaded.context is not None:
        max_new_tokens = min(max_new_tokens, loaded.context - width)
    ids = torch.tensor([[pad_id] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    highest = GenerationConfig(
        do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=sorted(loaded.end_ids), pad_token_id=pad_id
    )
    stop = loaded.format.stop
    with _without_own_settings(loaded.model):
        generated = loaded.model.generate(
            input_ids=ids.to(loaded.model.device),
            attention_mask=mask.to(loaded.model.device),
            generation_config=highest,
            logits_processor=processors,
            **({} if stop is None else {"stop_strings": [stop], "tokenizer": loaded.tokenizer}),
        )[:, width:]
    return [_sample(row.tolist(), loaded) for row in generated]


@contextmanager
def _without_own_settings(model: PreTrainedModel) -> Iterator[None]:
    """generate() fills whatever its configuration leaves open from the model's own: penalties, shortest lengths."""
    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


def _sample(ids: list[int], loaded: Loaded) -> Sample:
    end = next((i for i, token in enumerate(ids) if token in loaded.end_ids), None)
    text = loaded.tokenizer.decode(ids[:end], skip_special_tokens=True)
    before, stopped, _ = text.partition(loaded.format.stop) if loaded.format.stop else (text, "", "")
    return Sample(before.strip(), finished=end is not None or bool(stopped))
