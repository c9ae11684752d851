"""Hidden states at response ends, read by hooks: the model is observed, never wrapped or changed.

Layer l = 1..L is the output of decoder block l, the last one after the final norm, so that they equal
`hidden_states[1:]` of transformers. The language-model head is never computed, and nothing above the highest layer
asked for: its hook ends the forward pass.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from alignment.data.chat import Rendered
from alignment.maths.pooling import Spans, find_spans, pool
from alignment.types import Pooling, UserError

_FINAL_NORMS = ("norm", "ln_f", "final_layer_norm", "final_layernorm", "norm_f")


class _HighestLayerRead(Exception):
    """Ends a forward pass once the last wanted layer has been read."""


class Reader:
    """What one forward pass left behind: (row, layer, width) of the wanted layers, in the order of `layers`."""

    def __init__(self, layers: Sequence[int], spans: Spans) -> None:
        self._layers, self._spans = tuple(layers), spans
        self._states: dict[int, Tensor] = {}

    def record(self, layer: int, hidden: Tensor) -> None:
        self._states[layer] = pool(hidden.detach(), self._spans)

    @property
    def states(self) -> Tensor:
        return torch.stack([self._states[layer] for layer in self._layers], dim=1)


def decoder_blocks(model: PreTrainedModel) -> tuple[nn.ModuleList, nn.Module]:
    """The decoder's blocks and the norm after them, wherever the architecture keeps them."""
    count = layer_count(model)
    for module in model.modules():
        for child in module.children():
            if isinstance(child, nn.ModuleList) and len(child) == count:
                norms = [norm for name in _FINAL_NORMS if (norm := getattr(module, name, None)) is not None]
                if norms:
                    return child, norms[0]
    raise UserError(
        "model", f"no stack of {count} decoder blocks with a final norm in {type(model).__name__}",
        "use a decoder-only model",
    )  # fmt: skip


def layer_count(model: PreTrainedModel) -> int:
    return model.config.get_text_config().num_hidden_layers


@contextmanager
def reading(model: PreTrainedModel, layers: Sequence[int], spans: Spans, stop: bool = False) -> Iterator[Reader]:
    """Hooks on the wanted layers for the forward passes in the block; `stop` ends each after the highest one."""
    blocks, norm = decoder_blocks(model)
    reader, last = Reader(layers, spans), len(blocks)

    def hook(layer: int):
        def read(module: nn.Module, args: tuple, output: Tensor | tuple) -> None:
            reader.record(layer, output[0] if isinstance(output, tuple) else output)
            if stop and layer == max(layers):
                raise _HighestLayerRead

        return read

    handles = [(norm if layer == last else blocks[layer - 1]).register_forward_hook(hook(layer)) for layer in layers]
    try:
        yield reader
    except _HighestLayerRead:
        pass
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def response_states(
    backbone: PreTrainedModel,
    rows: Sequence[Rendered],
    layers: Sequence[int],
    pooling: Pooling,
    end_ids: set[int],
    pad_id: int,
) -> tuple[Tensor, Tensor]:
    """(row, layer, width) float32 states of one batch, padded on the right, and which rows had an end token."""
    ids, mask, completion = _padded(rows, pad_id, backbone.device)
    spans = find_spans(ids, completion, end_ids, pooling)
    with reading(backbone, layers, spans, stop=True) as reader:
        backbone(input_ids=ids, attention_mask=mask, use_cache=False)
    return reader.states.float(), spans.ended


def check_layers(backbone: PreTrainedModel, token_id: int) -> None:
    """Refuses an architecture whose hooked layers aren't its hidden states, on a text of four tokens."""
    ids = torch.full((1, 4), token_id, device=backbone.device)
    spans = Spans(*(torch.tensor([at], device=backbone.device) for at in (3, 4)), torch.tensor([True]))
    layers = range(1, layer_count(backbone) + 1)
    with torch.inference_mode(), reading(backbone, layers, spans) as reader:
        output = backbone(input_ids=ids, output_hidden_states=True, use_cache=False)
    expected = torch.stack([hidden[:, 3] for hidden in output.hidden_states[1:]], dim=1)
    if not torch.equal(reader.states, expected):
        raise UserError("model", f"{type(backbone).__name__} keeps its layers where they can't be read",
                        "use a decoder-only model that transformers ships")  # fmt: skip


def _padded(rows: Sequence[Rendered], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    width = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), width), pad_id)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    completion = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = torch.from_numpy(row.ids)
        mask[i, : len(row.ids)] = 1
        completion[i, row.prompt_length : len(row.ids)] = True
    return ids.to(device), mask.to(device), completion.to(device)
