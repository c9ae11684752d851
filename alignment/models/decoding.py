"""Answers token by token: a prompt is computed once for all its answers; an answer that is done leaves the batch."""

import inspect
import math
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from alignment.models.devices import to_device
from alignment.models.load import Loaded
from alignment.models.packing import why_padded
from alignment.types import UserError

# Chooses the next tokens: of (row, token) ids so far, (row, vocabulary) scores of the next one, (row,) numbers of the
# answers in the batch, and how many tokens each has, to (row,) ids.
Choose = Callable[[Tensor, Tensor, Tensor, int], Tensor]


@torch.inference_mode()
def generate_ids(loaded: Loaded, prompts: list[list[int]], max_new_tokens: int, choose: Choose) -> list[list[int]]:
    """The tokens of an answer to each prompt, its end included. The model's generation_config is not read.

    Shorter prompts are filled up at their start by their first token: `choose` sees it, the model doesn't.
    """
    accepted = set(inspect.signature(loaded.model.forward).parameters)
    if "past_key_values" not in accepted:
        problem = f"{type(loaded.model).__name__} keeps no keys and values"
        raise UserError("model", problem, "answer with a model that has attention")
    width, device = max(len(prompt) for prompt in prompts), loaded.model.device
    if (
        device.type == "cpu"
        and len({*map(len, prompts)}) == 1
        and width + max_new_tokens < (loaded.context or math.inf)
    ):
        # Where nothing is filled up, transformers leaves the mask out; and without one the kernel of torch 2.13 for
        # heads that share their keys takes five times as long for a token on a CPU.
        width += 1
    if loaded.context is not None:
        max_new_tokens = min(max_new_tokens, loaded.context - width)
    distinct = list(dict.fromkeys(tuple(prompt) for prompt in prompts))
    number_of = {prompt: i for i, prompt in enumerate(distinct)}
    ids = _sent([[*prompt[:1] * (width - len(prompt)), *prompt] for prompt in distinct], device)
    mask = _sent([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in distinct], device)
    cache = _Cache(loaded.model.config, max_new_tokens)
    own_mask = takes_our_mask(loaded, width + max_new_tokens)
    scores = _next_scores(loaded, accepted, ids, mask, cache, own_mask)

    prompt_of = _sent([number_of[tuple(prompt)] for prompt in prompts], device)
    ids, mask, scores = ids[prompt_of], mask[prompt_of], scores[prompt_of]
    cache.repeat(prompt_of)
    answers: list[list[int]] = [[] for _ in prompts]
    going_on, numbers = list(range(len(prompts))), torch.arange(len(prompts), device=device)
    length = 0
    while True:
        tokens = choose(ids, scores, numbers, length)
        for number, token in zip(going_on, tokens.tolist(), strict=True):  # the one time the host waits for the device
            answers[number].append(token)
        length += 1
        ids = torch.cat([ids, tokens[:, None]], dim=1)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        unfinished = [row for row, number in enumerate(going_on) if not _is_done(answers[number], loaded)]
        if not unfinished or length >= max_new_tokens:
            return answers
        if len(unfinished) < len(going_on):
            order = _moved_up(unfinished)
            going_on, rows = [going_on[row] for row in order], _sent(order, device)
            ids, mask, numbers = ids[rows], mask[rows], numbers[rows]
            cache.take(order, rows)
        scores = _next_scores(loaded, accepted, ids[:, -1:], mask, cache, own_mask)


def _next_scores(
    loaded: Loaded, accepted: set[str], ids: Tensor, mask: Tensor, cache: "_Cache", own_mask: bool
) -> Tensor:
    """(row, vocabulary) float32 logits of the token after `ids`.

    accepted: arguments of the model's forward. mask: of the tokens in the cache, then of `ids`. own_mask: is the model
    given who sees whom, or which tokens are padding?
    """
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    optional = {"position_ids": positions, "logits_to_keep": 1}
    output = loaded.model(
        input_ids=ids,
        attention_mask=_whom_they_see(mask, ids.shape[1], loaded.model) if own_mask else mask,
        past_key_values=cache,
        use_cache=True,
        **{name: value for name, value in optional.items() if name in accepted},
    )
    return output.logits[:, -1].float()


def takes_our_mask(loaded: Loaded, longest: int) -> bool:
    """On a device, where the architecture does. transformers makes a mask, or none where nothing is padding, for which
    it looks into that of the tokens: the host would wait for it at every token. longest: tokens of a text."""
    model = loaded.model
    made = model.config._attn_implementation in ("sdpa", "eager")
    return model.device.type != "cpu" and made and why_padded(model, lambda: longest) is None


def _whom_they_see(mask: Tensor, queries: int, model: PreTrainedModel) -> Tensor:
    """(row, 1, query, token) for the last tokens: padding itself, others what isn't padding, up to themselves."""
    tokens = mask.shape[1]
    key = torch.arange(tokens, device=mask.device)
    query = key[tokens - queries :, None]
    allowed = (key == query) | ((key <= query) & mask.bool()[:, None, None, :])
    if model.config._attn_implementation == "sdpa":
        return allowed
    dtype = model.dtype
    return torch.zeros(allowed.shape, dtype=dtype, device=mask.device).masked_fill(~allowed, torch.finfo(dtype).min)


def _sent(numbers: list, device: torch.device) -> Tensor:
    """Numbers of the host on the device, which it doesn't wait for."""
    return to_device(torch.tensor(numbers, dtype=torch.long), device)


def _is_done(answer: list[int], loaded: Loaded) -> bool:
    """Has the last token ended the answer? A stop string has at most as many tokens as characters."""
    if answer[-1] in loaded.end_ids:
        return True
    stop = loaded.format.stop
    return stop is not None and stop in loaded.tokenizer.decode(answer[-len(stop) :], skip_special_tokens=True)


def _moved_up(rows: list[int]) -> list[int]:
    """The rows that stay in the batch: the first ones in their places, and the last ones in the gaps between."""
    staying, last = set(rows), [row for row in rows if row >= len(rows)]
    return [row if row in staying else last.pop() for row in range(len(rows))]


# ---- keys and values ------------------------------------------------------------------------------------------------


class _Cache(DynamicCache):
    """transformers' cache for the model, but with room for the answers in every layer of keys and values.

    A layer with a sliding window keeps all of them as well: the model masks what is outside.
    """

    def __init__(self, config: PreTrainedConfig, room: int) -> None:
        super().__init__(config=config)
        replaced = (DynamicLayer, DynamicSlidingWindowLayer)
        self.layers = [_RoomyLayer(room) if type(layer) in replaced else layer for layer in self.layers]

    def repeat(self, rows: Tensor) -> None:
        """Makes row i of what was row rows[i]."""
        for layer in self.layers:
            layer.repeat(rows) if isinstance(layer, _RoomyLayer) else layer.reorder_cache(rows)

    def take(self, order: list[int], rows: Tensor) -> None:
        """Takes the order of _moved_up, which the host knows, and the device as `rows`."""
        moved = [place for place, row in enumerate(order) if row != place]
        places = _sent(moved, rows.device), _sent([order[place] for place in moved], rows.device)
        for layer in self.layers:
            layer.take(len(order), *places) if isinstance(layer, _RoomyLayer) else layer.reorder_cache(rows)


class _RoomyLayer(DynamicLayer):
    """Writes a new token's keys and values into room kept for them; transformers' layer copies all at every token."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self._room = room
        self._whole: list[Tensor] = []  # self.keys and self.values are the parts of these that are in use

    def repeat(self, rows: Tensor) -> None:
        used = [self.keys, self.values]
        self._whole = [
            part.new_empty(len(rows), part.shape[1], part.shape[2] + self._room, part.shape[3]) for part in used
        ]
        for whole, part in zip(self._whole, used, strict=True):
            whole[:, :, : part.shape[2]] = part[rows]
        self._use(len(rows), self.keys.shape[2])

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        if not self._whole:  # the prompts
            return super().update(key_states, value_states)
        rows, _, length, _ = self.keys.shape
        for whole, states in zip(self._whole, (key_states, value_states), strict=True):
            whole[:rows, :, length : length + states.shape[2]] = states
        self._use(rows, length + key_states.shape[2])
        return self.keys, self.values

    def take(self, count: int, places: Tensor, rows: Tensor) -> None:
        """Leaves so many rows: in these places those from behind the last one, elsewhere what is there."""
        length = self.keys.shape[2]
        for whole in self._whole:
            whole[places, :, :length] = whole[rows, :, :length]
        self._use(count, length)

    def _use(self, rows: int, length: int) -> None:
        self.keys, self.values = (whole[:rows, :, :length] for whole in self._whole)
