"""Hidden states at response ends, read by hooks: the model is observed, never wrapped or changed.

Layer l = 1..L is the output of decoder block l, the last one after the final norm: the layers are transformers'
`hidden_states[1:]`. The language-model head is never computed, nor is anything above the highest layer that is asked
for: the hook on it ends the forward pass.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from alignment.maths.pooling import Spans, find_spans, pool
from alignment.models.architecture import decoder_blocks, layer_count, network_by_token
from alignment.models.devices import to_device
from alignment.models.packing import Item, Layout, Packing, answers
from alignment.models.packing_check import checked_layout
from alignment.runs.ranks import Ranks
from alignment.types import Pooling, UserError


class _HighestLayerRead(Exception):
    """Ends a forward pass once the highest wanted layer has been read."""


class Reader:
    """Keeps the answers' states of the wanted layers, as a forward pass comes to them."""

    def __init__(self, layers: Sequence[int], spans: Spans) -> None:
        self._layers, self._spans = tuple(layers), spans
        self._states: dict[int, Tensor] = {}

    def record(self, layer: int, hidden: Tensor) -> None:
        self._states[layer] = pool(hidden.detach(), self._spans)

    @property
    def states(self) -> Tensor:
        """(answer, layer, width), the layers in the order in which they were wanted."""
        return torch.stack([self._states[layer] for layer in self._layers], dim=1)


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
    if stop and spans.single:
        handles += network_only_at(blocks[max(layers) - 1], spans.row, spans.start)
    try:
        yield reader
    except _HighestLayerRead:
        pass
    finally:
        for handle in handles:
            handle.remove()


def network_only_at(block: nn.Module, rows: Tensor, tokens: Tensor) -> list[RemovableHandle]:
    """Hooks with which the highest block that is read computes its feed-forward network at these places alone.

    Elsewhere its output is zeros, which nobody reads. None where that network may do more than go token by token.
    """
    network = network_by_token(block)
    if network is None:
        return []
    shape: list[torch.Size] = []

    def before(module: nn.Module, args: tuple[Tensor]) -> Tensor:
        shape.append(args[0].shape)
        return args[0][rows, tokens][None]

    def after(module: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
        whole = output.new_zeros(shape.pop())
        whole[rows, tokens] = output[0]
        return whole

    return [network.register_forward_pre_hook(before), network.register_forward_hook(after)]


@torch.inference_mode()
def response_states(
    backbone: PreTrainedModel,
    layout: Layout,
    items: Sequence[Item],
    layers: Sequence[int],
    pooling: Pooling | Sequence[Pooling],
    end_ids: set[int],
) -> tuple[Tensor, Tensor]:
    """(answer, layer, width) float32 states of one batch, in answer_order, and which answers had an end token.

    Several poolings are read in one pass, and stand one after the other where the layers of one stand. The spans are
    computed on the host: nothing here waits for the device, which may still be at the batch before.
    """
    batch = layout.batch(items)
    poolings = [pooling] if isinstance(pooling, str) else pooling
    on_host = [find_spans(batch["input_ids"], answers(batch), end_ids, one) for one in poolings]
    if len(on_host) > 1:  # the network of the highest block is needed where any of them reads
        on_host[-1] = on_host[-1]._replace(single=False)
    batch = {name: to_device(value, backbone.device) for name, value in batch.items()}
    with ExitStack() as stack:
        readers = [
            stack.enter_context(reading(backbone, layers, _on_device(spans, backbone), stop=spans is on_host[-1]))
            for spans in on_host  # the last one ends the pass: others have read by then what they want
        ]
        backbone(**layout.inputs(batch, backbone), use_cache=False)
    return torch.cat([reader.states for reader in readers], dim=1).float(), on_host[0].ended


def _on_device(spans: Spans, backbone: PreTrainedModel) -> Spans:
    if not spans.single:  # slices, whose places the host has to know
        return spans
    places = {name: to_device(getattr(spans, name), backbone.device) for name in ("row", "start", "stop")}
    return spans._replace(**places)


def states_layout(
    backbone: PreTrainedModel, packing: Packing, pad_id: int, items: Sequence[Item], ranks: Ranks | None
) -> Layout:
    """How these items will be read; several in a row only if that gives the same states. ranks: see checked_layout."""
    layers = range(1, layer_count(backbone) + 1)

    def endpoint_states(layout: Layout, items: Sequence[Item]) -> Tensor:
        return response_states(backbone, layout, items, layers, "endpoint", set())[0]

    return checked_layout("activations", endpoint_states, backbone, packing, pad_id, items, ranks)


def check_layers(backbone: PreTrainedModel, token_id: int) -> None:
    """Refuses an architecture whose hooked layers aren't its hidden states, on a text of four tokens."""
    ids = torch.full((1, 4), token_id, device=backbone.device)
    spans = Spans(*(torch.tensor([at], device=backbone.device) for at in (0, 3, 4)), torch.tensor([True]), True)
    layers = range(1, layer_count(backbone) + 1)
    with torch.inference_mode(), reading(backbone, layers, spans) as reader:
        output = backbone(input_ids=ids, output_hidden_states=True, use_cache=False)
    expected = torch.stack([hidden[:, 3] for hidden in output.hidden_states[1:]], dim=1)
    if not torch.equal(reader.states, expected):
        problem = f"{type(backbone).__name__} keeps its layers where they can't be read"
        raise UserError("model", problem, "use a decoder-only model that transformers ships")
