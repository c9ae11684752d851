"""Tiny guards: random models of the guards' architectures, whose verdicts are forced as far as a test wants them."""

from collections.abc import Mapping
from itertools import pairwise

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from alignment.judges.generative import GuardJudge
from alignment.judges.guard_formats import GUARDS
from tests.conftest import byte_tokenizer, tiny_model

KINDS = {  # guard: architecture, tokenizer
    "llama_guard_2": ("llama", "llama3"),
    "llama_guard_3": ("llama", "llama3"),
    "md_judge": ("mistral", "llama2"),
    "shieldgemma": ("gemma2", "plain"),
    "wildguard": ("mistral", "llama2"),
}


def guard_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """Bytes; the two words of the guard's verdict and the long lines of its format are tokens of their own."""
    tokenizer, guard = byte_tokenizer(KINDS[name][1]), GUARDS[name]
    tokenizer.chat_template = None
    if name == "shieldgemma":
        turns = ["<start_of_turn>", "<end_of_turn>"]
        tokenizer.add_special_tokens({"bos_token": "<bos>", "eos_token": "<eos>", "additional_special_tokens": turns})
    lines = [*guard.task.splitlines(), *(policy for _, policy in guard.policies)]
    tokenizer.add_tokens([*guard.words, *(line for line in lines if len(line) > 15 and "{" not in line)])
    return tokenizer


def guard_judge(name: str, script: Mapping[str, str] | str | None = None, **settings) -> GuardJudge:
    """A guard with random weights; `script` says what it writes (see `force`)."""
    tokenizer = guard_tokenizer(name)
    more = {"max_position_embeddings": settings.pop("context", 8192)}
    model = tiny_model(KINDS[name][0], AutoModelForCausalLM, seed=settings.pop("seed", 0), **more)
    if script is not None:
        force(model, tokenizer, script)
    return GuardJudge(GUARDS[name], model, tokenizer, batch_tokens=settings.pop("batch_tokens", 4096), **settings)


def force(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, script: Mapping[str, str] | str) -> None:
    """Adds to the logits until the model writes what it shall.

    A text: written token by token, then the end. A mapping: the model itself chooses which of the keys it begins with,
    and each is followed by its value and the end.
    """
    ends = [tokenizer.eos_token_id]
    if isinstance(script, str):
        starts, rest = None, _ids(tokenizer, script) + ends
    else:
        starts = [_ids(tokenizer, word)[0] for word in script]
        rest = {start: _ids(tokenizer, text) + ends for start, text in zip(starts, script.values(), strict=True)}
    written: list[list[int]] = []  # what every row was given since the prompt, last token last

    def hook(module, args, kwargs, output):
        ids, logits = kwargs["input_ids"], output.logits
        if ids.shape[1] > 1 or not written:
            written[:] = [[] for _ in range(len(ids))]
            step = 0
        else:
            step = len(written[0]) + 1
            written[:] = [[0] * step for _ in range(len(ids))]
        for row in range(len(ids)):
            if starts is None:
                wanted = [rest[min(step, len(rest) - 1)]]
            elif step == 0:
                wanted = starts
            else:
                wanted = [_after(rest, int(ids[row, -1]), step)]
            logits[row, -1, wanted] += 100.0  # more would round the logits away
        return output

    model.register_forward_hook(hook, with_kwargs=True)


def _after(rest: Mapping[int, list[int]], last: int, step: int) -> int:
    """The token after `last`: of the one continuation it belongs to at this step."""
    for start, tokens in rest.items():
        sequence = [start, *tokens]
        if step < len(sequence) and sequence[step - 1] == last:
            return sequence[step]
    return next(iter(rest.values()))[-1]


def _ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False).input_ids


def chain_model(tokenizer: PreTrainedTokenizerFast, text: str, after: str) -> PreTrainedModel:
    """A Llama whose weights write `text` and its end after the token `after`: each token decides the next.

    Blocks add nothing to the embeddings, so the head reads the last token alone. No token may come twice.
    """
    model = tiny_model("llama", AutoModelForCausalLM, max_position_embeddings=8192)
    sequence = [tokenizer.convert_tokens_to_ids(after), *_ids(tokenizer, text), tokenizer.eos_token_id]
    assert len(set(sequence)) == len(sequence)
    with torch.no_grad():
        for block in model.model.layers:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
        states = model.model.norm(model.model.embed_tokens.weight)
        model.lm_head.weight.zero_()
        for token, following in pairwise(sequence):
            model.lm_head.weight[following] += states[token]
    return model
