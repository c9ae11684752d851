"""Answers as a guard reads them: in the model's chat template, cut where they are too long, at two places each.

Of each layer the state at the token that ends the turn, and the mean over the answer: on SmolLM2 both together tell
more than either (docs/guard.md).
"""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from alignment.data.cells import BadRow
from alignment.data.columns import text_message
from alignment.models.activations import check_layers, response_states, states_layout
from alignment.models.load import Loaded
from alignment.models.packing import Item, Layout, Packing, answer_order
from alignment.runs.batches import plan_batches
from alignment.types import Message, Pooling

PLACES: tuple[Pooling, ...] = ("endpoint", "mean")
ANSWERS = 6  # to a prompt that are read together at most: attention in a row grows with its square


class Text(NamedTuple):
    """An answer behind its prompt. cut: was it too long?"""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    cut: bool = False


def answer_text(loaded: Loaded, prompt: list[Message], answer: str, max_length: int) -> Text:
    """BadRow where nothing of the answer can be read."""
    (text,) = loaded.format.render(prompt, [text_message("assistant", answer)], max_length)
    if len(text.ids) <= text.prompt_length:
        raise BadRow(f"its prompt alone has {max_length} tokens or more")
    ids = text.ids.tolist()
    return Text(tuple(ids[: text.prompt_length]), tuple(ids[text.prompt_length :]), text.truncated)


def prompt_alone(text: Text) -> Text:
    """A prompt as its last token behind the rest: what the model knows where an answer is about to begin."""
    return Text(text.prompt[:-1], text.prompt[-1:])


def together(texts: Sequence[Text], most_tokens: int) -> list[list[int]]:
    """The numbers of the texts that are read as one item: answers to the same prompt."""
    by_prompt: dict[tuple[int, ...], list[int]] = {}
    for number, text in enumerate(texts):
        by_prompt.setdefault(text.prompt, []).append(number)
    items: list[list[int]] = []
    for numbers in by_prompt.values():
        tokens = 0
        for number in numbers:
            own = len(texts[number].answer) + 1
            if tokens == 0 or len(items[-1]) == ANSWERS or tokens + own > most_tokens:
                items.append([])
                tokens = len(texts[number].prompt)
            items[-1].append(number)
            tokens += own
    return items


def as_item(texts: Sequence[Text]) -> Item:
    return Item(texts[0].prompt, [text.answer for text in texts])


class StateReader:
    """Reads the states of some layers, counted from 1: (answer, place and layer, width), a place's layers in a row."""

    def __init__(self, loaded: Loaded, layers: range, packing: Packing) -> None:
        check_layers(loaded.model, loaded.tokenizer.eos_token_id)
        self.loaded, self.layers, self._packing = loaded, layers, packing
        self._checked = False

    def states(self, texts: Sequence[Text], batch_tokens: int) -> Tensor:
        """The states of these texts in float32, on the CPU."""
        numbers = together(texts, batch_tokens)
        items = [as_item([texts[i] for i in some]) for some in numbers]
        layout = self.layout(items)
        width = self.loaded.model.config.get_text_config().hidden_size
        states = torch.empty(len(texts), len(PLACES) * len(self.layers), width)
        for batch in plan_batches([layout.size(item) for item in items], batch_tokens):
            some = [items[i] for i in batch]
            of_batch = self.states_of(some, layout).cpu()
            states[[numbers[batch[place]][which] for place, which in answer_order(some)]] = of_batch
        return states

    def states_of(self, items: Sequence[Item], layout: Layout) -> Tensor:
        """Those of one batch, in answer_order, where the model computes."""
        return response_states(self.loaded.model, layout, items, self.layers, PLACES, self.loaded.end_ids)[0]

    def layout(self, items: Sequence[Item]) -> Layout:
        """How these items are read: several in a row only if that gave the same for the first ones."""
        loaded, pad = self.loaded, self.loaded.tokenizer.pad_token_id
        pad = loaded.tokenizer.eos_token_id if pad is None else pad
        if not self._checked and len(items) > 1:  # one item shows nothing
            self._checked = True
            layout = states_layout(loaded.model, self._packing, pad, items, None)
            if not layout.together:
                self._packing = Packing("off")
            return layout
        longest = max(item.longest for item in items)
        return self._packing.layout([loaded.model], loaded.model.device, pad, lambda: longest)[0]

    def known_text(self, conversation: list[Message]) -> Text:
        """A short conversation, by whose states a model is known."""
        return answer_text(self.loaded, conversation[:-1], conversation[-1]["content"], self.limit)

    @cached_property
    def limit(self) -> int:
        """The most tokens that a text may have."""
        return self.loaded.context or 2**31 - 1
