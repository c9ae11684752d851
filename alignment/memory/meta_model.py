"""A model on PyTorch's meta device: shapes without numbers, which take no memory however large the model is.

Its parameters are counted, and a micro-batch is sent through its blocks: that shows what autograd would keep for the
backward pass, for every architecture and with or without adapters, and no formula has to follow the libraries.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import linear, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
)

from alignment.memory.parts import Kept, Shape
from alignment.models import item_attention
from alignment.models.architecture import decoder_blocks
from alignment.models.packing import PADDING, Item, Layout, Packing
from alignment.models.source import ModelSource, ready_path
from alignment.models.upper_blocks import part_config

KINDS = {"language": AutoModelForCausalLM, "reward": AutoModelForSequenceClassification, "backbone": AutoModel}
PRODUCTS = (linear, torch.matmul, torch.addmm, torch.bmm)  # the functions that autocast runs in half precision


def configuration(source: ModelSource) -> PreTrainedConfig:
    """The configuration of the model that a run uses."""
    return AutoConfig.from_pretrained(ready_path(source), revision=source.revision)


def build(
    config: PreTrainedConfig, kind: str, dtype: torch.dtype = torch.float32, lora: LoraConfig | None = None,
    upper_blocks: int | None = None,
) -> nn.Module:  # fmt: skip
    """A model without weights. kind: one of KINDS. upper_blocks: only so many of its blocks, which train on states."""
    config = deepcopy(config)
    if kind == "reward":
        config.num_labels = 1
    if upper_blocks is not None:
        config = part_config(config, config.num_hidden_layers - upper_blocks, config.num_hidden_layers)
    with torch.device("meta"):
        model = KINDS[kind].from_config(config, dtype=dtype)
        if upper_blocks is not None:
            model.get_input_embeddings().requires_grad_(False)
        return model if lora is None else get_peft_model(model, lora).to(dtype)  # peft makes adapters in float32


def without_adapters(model: nn.Module) -> PreTrainedModel:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def shape(model: nn.Module) -> Shape:
    plain = without_adapters(model)
    blocks, _ = decoder_blocks(plain)
    head = plain.get_output_embeddings()
    parameters = list(model.parameters())
    return Shape(
        parameters=_numbers(parameters),
        trainable=_numbers(parameter for parameter in parameters if parameter.requires_grad),
        layers=len(blocks),
        width=plain.config.get_text_config().hidden_size,
        block=max(_numbers(block.parameters()) for block in blocks),
        head=0 if head is None else head.weight.numel(),
        head_trains=head is not None and head.weight.requires_grad,
        tied=head is not None and head.weight is plain.get_input_embeddings().weight,
    )


def with_frozen(trained: Shape, whole: nn.Module) -> Shape:
    """The shape of a model of which a part is trained, upper blocks of it."""
    return replace(shape(whole), trainable=trained.trainable, layers=trained.layers)


def _numbers(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def layout(model: nn.Module, packing: Packing, gpu: bool, longest: int) -> Layout:
    """How the model reads rows on a GPU or a CPU. A layout changes a model's attention, which is set back first."""
    plain = without_adapters(model)
    if plain.config._attn_implementation == item_attention.NAME:
        plain.set_attn_implementation("sdpa")
    return packing.layout([plain], torch.device("cuda" if gpu else "cpu"), 0, lambda: longest)[0]


def kept(model: nn.Module, layout: Layout, items: Sequence[Item], autocast: bool) -> Kept:
    """What a forward pass over these items keeps, without the head."""
    plain = without_adapters(model)
    batch = layout.batch(items)
    inputs = _inputs(layout, batch, plain)
    count = _KeptBytes(model)
    with count.following(plain), saved_tensors_hooks(count.keep, lambda saved: saved), _AsOnDevice(autocast, count):
        states = plain.base_model(**inputs, use_cache=False)[0]
    masks = [mask for *_, mask in inputs.get("stretches", ())] + [inputs["attention_mask"]]
    return Kept(
        blocks=count.blocks, outside=count.outside, hidden=states.nbytes, widest=count.widest, casts=count.casts,
        inputs=sum(mask.nbytes for mask in masks if mask is not None), targets=len(batch["targets"]),
    )  # fmt: skip


def _inputs(layout: Layout, batch: dict[str, Tensor], model: PreTrainedModel) -> dict[str, Any]:
    """The arguments of a forward pass. transformers would make the mask itself, if padding had numbers to read."""
    numbers = {"stretches"}  # read while rows are computed, so they stay on the CPU
    batch = {name: value if name in numbers else value.to("meta") for name, value in batch.items()}
    if layout.packed:
        return layout.inputs(batch, model)
    if layout.segments:  # attention is told apart by positions, which have no numbers here: a mask of any size will do
        mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device="meta")
        return {"input_ids": batch["input_ids"], "position_ids": batch["position_ids"], "attention_mask": mask}
    rows, width = batch["item"].shape
    mask = (batch["item"] != PADDING)[:, None, None, :].expand(rows, 1, width, width).contiguous()
    return {"input_ids": batch["input_ids"], "attention_mask": mask}


# ---- what is kept ---------------------------------------------------------------------------------------------------


class _KeptBytes:
    """Counts the bytes that autograd keeps, each storage once and parameters aside, and autocast's copies of weights.

    Autocast keeps its copies of weights that train until the forward pass is over; of frozen weights it keeps only what
    the backward pass needs.
    """

    def __init__(self, model: nn.Module) -> None:
        storages = [parameter.untyped_storage() for parameter in model.parameters()]
        self._seen = {id(storage): storage for storage in storages}  # it holds them, or an id could be used again
        self.inside = False
        self.blocks = self.outside = self.widest = self.casts = 0

    def cast(self, tensor: Tensor) -> None:
        """A copy of a parameter that trains."""
        storage = tensor.untyped_storage()
        self._seen[id(storage)] = storage
        self.casts += tensor.nbytes

    def keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if id(storage) not in self._seen:
            self._seen[id(storage)] = storage
            self.widest = max(self.widest, tensor.nbytes if tensor.is_floating_point() else 0)
            if self.inside:
                self.blocks += storage.nbytes()
            else:
                self.outside += storage.nbytes()
        return tensor

    @contextmanager
    def following(self, model: PreTrainedModel) -> Iterator[None]:
        """Keeps `inside` true while a block of the model is computed."""

        def enter(*_: Any) -> None:
            self.inside = True

        def leave(*_: Any) -> None:
            self.inside = False

        blocks, _ = decoder_blocks(model)
        handles = [block.register_forward_pre_hook(enter) for block in blocks]
        handles += [block.register_forward_hook(leave) for block in blocks]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


class _AsOnDevice(TorchFunctionMode):
    """Computes attention and autocast as a device does, which the meta device does in other ways."""

    def __init__(self, autocast: bool, count: _KeptBytes) -> None:
        super().__init__()
        self._autocast, self._count = autocast, count

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if self._autocast and (function in PRODUCTS or function is scaled_dot_product_attention):
            args = tuple(map(self._half, args))
            kwargs = {name: self._half(value) for name, value in kwargs.items()}
        if function is scaled_dot_product_attention:
            return self._attend(*args, **kwargs)
        return function(*args, **kwargs)

    def _half(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dtype != torch.float32:
            return value
        half = value.to(torch.bfloat16)
        if isinstance(value, nn.Parameter) and value.requires_grad:
            self._count.cast(half)
        return half

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **_: Any) -> Tensor:
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            attn_mask = attn_mask.to(query.dtype)  # as torch does before a kernel sees it, again in every layer
        return _Attention.apply(query, key, value, attn_mask)


class _Attention(torch.autograd.Function):
    """Keeps what a fused kernel keeps: its inputs, its result, and a number for every head and token."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        rows, heads, tokens, _ = query.shape
        result = query.new_empty(rows, tokens, heads, value.shape[-1]).transpose(1, 2)
        ctx.save_for_backward(query, key, value, mask, result, query.new_empty(rows, heads, tokens, dtype=torch.float))
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, ...]:
        raise NotImplementedError("nothing is computed backwards here")
