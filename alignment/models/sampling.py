"""Answers of a language model to prompts of any length, one batch at a time."""

from dataclasses import dataclass

import torch
from transformers import GenerationConfig

from alignment.models.load import Loaded


@dataclass(frozen=True)
class Sample:
    """An answer's text; `finished` is false when it ran into the limit of new tokens."""

    text: str
    finished: bool


@torch.inference_mode()
def generate_greedily(loaded: Loaded, prompts: list[list[int]], max_new_tokens: int) -> list[Sample]:
    """The likeliest answer to each prompt, token by token."""
    width = max(len(prompt) for prompt in prompts)
    pad_id = loaded.tokenizer.pad_token_id
    if loaded.context is not None:
        max_new_tokens = min(max_new_tokens, loaded.context - width)
    ids = torch.tensor([[pad_id] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    greedy = GenerationConfig(  # the model's own may hold penalties
        do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=sorted(loaded.end_ids), pad_token_id=pad_id
    )
    stop = loaded.format.stop
    generated = loaded.model.generate(
        input_ids=ids.to(loaded.model.device),
        attention_mask=mask.to(loaded.model.device),
        generation_config=greedy,
        **({} if stop is None else {"stop_strings": [stop], "tokenizer": loaded.tokenizer}),
    )[:, width:]
    return [_sample(row.tolist(), loaded) for row in generated]


def _sample(ids: list[int], loaded: Loaded) -> Sample:
    end = next((i for i, token in enumerate(ids) if token in loaded.end_ids), None)
    text = loaded.tokenizer.decode(ids[:end], skip_special_tokens=True)
    before, stopped, _ = text.partition(loaded.format.stop) if loaded.format.stop else (text, "", "")
    return Sample(before, finished=end is not None or bool(stopped))
