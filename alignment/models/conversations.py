"""The states of whole conversations, for users who have a model in hand: what HybridReward.judge scores."""

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alignment.data.cells import BadRow
from alignment.data.chat import ChatFormat, chat_format, end_ids
from alignment.data.columns import messages
from alignment.models.activations import check_layers, layer_count, response_states
from alignment.models.load import context_of
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
    tokenizer = deepcopy(tokenizer)  # a format settles its template and whether it adds a BOS
    format, context = chat_format(tokenizer), context_of(model.config)
    items = [_item(format, number, conversation, context) for number, conversation in enumerate(conversations)]
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    layout = Layout(packed=False, max_tokens=1, pad_id=pad)
    generation = getattr(model, "generation_config", None) or model.config.get_text_config()
    ends, layers = end_ids(tokenizer, generation.eos_token_id), range(1, layer_count(model) + 1)
    states = torch.empty(len(items), len(layers), model.config.get_text_config().hidden_size)
    training = model.training
    model.eval()
    try:
        check_layers(model, pad)
        for batch in plan_batches([layout.size(item) for item in items], batch_tokens):
            states[batch] = response_states(model, layout, [items[i] for i in batch], layers, pooling, ends)[0].cpu()
    finally:
        model.train(training)
    return states


def _item(format: ChatFormat, number: int, conversation: list[Message], context: int | None) -> Item:
    try:
        if isinstance(conversation, str):
            raise BadRow("it is text: give messages with role and content")
        turns = messages(conversation, "conversation", "user")
        if len(turns) < 2 or turns[-1]["role"] != "assistant":
            raise BadRow("it doesn't end with an answer of the assistant to something")
        (answer,) = format.render(turns[:-1], [turns[-1:]], context)
        if answer.truncated:
            raise BadRow(f"it is longer than the model's context of {context} tokens")
    except BadRow as error:
        raise UserError(f"conversation {number}", str(error), "mend it, or leave it out") from error
    return Item.of([answer])
