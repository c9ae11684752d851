"""The states of whole conversations, for users with a model in hand: HybridReward.judge and Guard.judge score them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alignment.data.cells import BadRow
from alignment.data.chat import chat_format, end_ids
from alignment.data.columns import messages
from alignment.models.activations import check_layers, response_states
from alignment.models.architecture import layer_count
from alignment.models.load import Loaded
from alignment.models.packing import Item, Layout
from alignment.runs.batches import plan_batches
from alignment.types import Message, Pooling, UserError


@torch.no_grad()
def conversation_states(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[list[Message]],
    pooling: Pooling,
    batch_tokens: int,
) -> Tensor:
    """(conversation, layer, width) states at the end of each conversation's last answer, all layers, on the CPU.

    They are read as fit_reward reads them: in the tokenizer's own chat template, in which no text can forge a turn.
    """
    with evaluating(model, tokenizer) as loaded:
        items = [_item(loaded, number, conversation) for number, conversation in enumerate(conversations)]
        pad = loaded.tokenizer.eos_token_id if loaded.tokenizer.pad_token_id is None else loaded.tokenizer.pad_token_id
        layout, layers = Layout(packed=False, max_tokens=1, pad_id=pad), range(1, layer_count(model) + 1)
        states = torch.empty(len(items), len(layers), model.config.get_text_config().hidden_size)
        check_layers(model, pad)
        for batch in plan_batches([layout.size(item) for item in items], batch_tokens):
            some = [items[i] for i in batch]
            states[batch] = response_states(model, layout, some, layers, pooling, loaded.end_ids)[0].cpu()
    return states


@contextmanager
def evaluating(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Iterator[Loaded]:
    """A model in hand as the house loads one, in evaluation; after the block it trains again, if it did before."""
    tokenizer = deepcopy(tokenizer)  # a format settles its template and whether it adds a BOS
    format = chat_format(tokenizer)
    generation = getattr(model, "generation_config", None) or model.config.get_text_config()
    training = model.training
    model.eval()
    try:
        yield Loaded(model, format, end_ids(tokenizer, generation.eos_token_id))
    finally:
        model.train(training)


def whole_conversation(number: int, conversation: list[Message]) -> list[Message]:
    """Its messages, of which the last one is an answer; UserError names the one that isn't so."""
    try:
        return _answered(conversation)
    except BadRow as error:
        raise _unreadable(number, error) from error


def _answered(conversation: list[Message]) -> list[Message]:
    if isinstance(conversation, str):
        raise BadRow("it is text: give messages with role and content")
    turns = messages(conversation, "conversation", "user")
    if len(turns) < 2 or turns[-1]["role"] != "assistant":
        raise BadRow("it doesn't end with an answer of the assistant to something")
    return turns


def _item(loaded: Loaded, number: int, conversation: list[Message]) -> Item:
    try:
        turns = _answered(conversation)
        (answer,) = loaded.format.render(turns[:-1], [turns[-1:]], loaded.context)
        if answer.truncated:
            raise BadRow(f"it is longer than the model's context of {loaded.context} tokens")
    except BadRow as error:
        raise _unreadable(number, error) from error
    return Item.of([answer])


def _unreadable(number: int, error: BadRow) -> UserError:
    return UserError(f"conversation {number}", str(error), "mend it, or leave it out")
