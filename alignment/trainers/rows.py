"""How our trainers lay out rows. At start rows of several texts are put to the test, and a line says what was decided.

A real micro-batch, with the longest pair of the data in it, is computed together, and padded with each answer alone:
the values must agree, and their gradients where the model's weights are whole. If they don't, rows are padded.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from torch.utils.data import Sampler
from transformers import PreTrainedModel, TrainerCallback
from transformers.modeling_layers import GradientCheckpointingLayer

from alignment.models.devices import to_device, without_a_trace
from alignment.models.packing import Item, Layout, Packing, laid_out_padded
from alignment.models.packing_check import agreement_key, why_different
from alignment.models.routers import require_told
from alignment.runs.agreements import agreements
from alignment.runs.once import once
from alignment.runs.ranks import Ranks
from alignment.trainers.dealing import BalancedSampler, seeded


class LaidOutRows:
    """Mixin for a TRL trainer that has `read_answers(model, layout, batch)`: tensors by name, a row for each answer."""

    layout: Layout

    def lay_out(self, packing: Packing, pad_id: int, longest: Callable[[], int]) -> None:
        """What models say of rows themselves, once they and the data are there. longest: tokens of the longest text."""
        multiple = self.args.pad_to_multiple_of or 1
        self.layout, self._layout_line = packing.layout(self._models(), self.args.device, pad_id, longest, multiple)
        self.add_callback(_AtStart(self))

    def refuse_routers(self, without_router_loss: bool) -> None:
        """UserError for a mixture of experts, unless it is to train without its routers' loss."""
        model = self.inner(self.model)
        self._router_line = require_told(model.config, without_router_loss, "without_router_loss")

    def begin(self) -> None:
        """Before the first step, on every rank: puts rows of several texts to the test; says how they are laid out."""
        self.check_rows(self.model_wrapped, gradient=not self._split())
        self.say_once(self._layout_line)
        if self._router_line is not None:
            self.say_once(self._router_line)

    def check_rows(self, wrapped: torch.nn.Module, gradient: bool) -> None:
        """From here on rows are padded unless those of several texts give the same. wrapped: the model as it trains."""
        if not self.layout.together:
            return
        args, inner = self.args, self.inner(wrapped)
        items = [self.data_collator.item(row) for row in self._rows_with_longest()]
        half = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else inner.dtype
        key = agreement_key(inner, self.layout, type(self).__name__, len(items), items[0].longest, half, gradient)

        def read(layout: Layout, some: Sequence[Item]) -> dict[str, Tensor]:
            batch = {name: value.to(self.accelerator.device) for name, value in layout.batch(some).items()}
            with self.accelerator.autocast():
                return self.read_answers(inner if gradient else wrapped, layout, batch)

        def find() -> str | None:
            with without_a_trace(self.accelerator.device), self.aside(wrapped):
                if gradient:
                    _recompute(inner)
                return why_different(read, inner, self.layout, items, half, gradient)

        why = agreements.why_not(key, find, Ranks(args.process_index, args.world_size))
        if why is not None:
            self.layout, self._layout_line = laid_out_padded(self.layout, self._models(), why)
            self.data_collator.layout = self.layout

    def _models(self) -> list[PreTrainedModel]:
        models = (self.model, getattr(self, "ref_model", None))
        return [self.inner(model) for model in models if model is not None]

    def _split(self) -> bool:
        """Are the weights in parts on several ranks, or may no gradient be asked for (reentrant checkpointing)?"""
        plugin = self.args.deepspeed_plugin if self.is_deepspeed_enabled else None
        reentrant = (self.args.activation_checkpointing_kwargs or {}).get("use_reentrant", False)
        return self.is_fsdp_enabled or (plugin is not None and plugin.zero_stage == 3) or bool(reentrant)

    def _rows_with_longest(self) -> list[dict[str, Any]]:
        """As many training rows as a micro-batch has: that with the longest text, and the first others."""
        sizes = [self.data_collator.item(row).longest for row in self.train_dataset]
        longest = max(range(len(sizes)), key=lambda number: sizes[number])
        first = self.first_rows()
        others = [row for number, row in enumerate(first) if number != longest]
        return [self.train_dataset[longest], *others][: len(first)]

    def say_once(self, line: str) -> None:
        """Of a run's many trainings, the first says what is the same for all."""
        if once.first(line):
            self.say(line)

    def say(self, line: str) -> None:
        if self.state.is_world_process_zero:
            print(line, flush=True)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        """On several ranks, the rows that are computed at the same time are dealt to them by their tokens."""
        order = super()._get_train_sampler(train_dataset)
        ranks, size = self.args.world_size, self.args.per_device_train_batch_size
        if ranks == 1 or order is None:
            return order

        def tokens() -> list[int]:  # when an epoch begins, and so after rows were put to the test
            return [self.layout.size(self.data_collator.item(row)) for row in self.train_dataset]

        return BalancedSampler(seeded(order, self.args.data_seed), tokens, ranks, size)

    def inner(self, model: torch.nn.Module) -> PreTrainedModel:
        """The model itself, however training wraps it.

        A bare one is not unwrapped: accelerate reads what is installed each time, which takes longer than a small step.
        """
        return model if isinstance(model, PreTrainedModel | PeftModel) else self.accelerator.unwrap_model(model)

    def first_rows(self) -> list[dict[str, Any]]:
        """As many training rows as a micro-batch has: the checks at start take them."""
        count = min(self.args.per_device_train_batch_size, len(self.train_dataset))
        return [self.train_dataset[i] for i in range(count)]

    def batch_of(self, rows: Sequence[Mapping[str, Any]], layout: Layout | None = None) -> dict[str, Any]:
        """Rows as the loss takes them, on this rank's device. layout: where it isn't training's."""
        batch = replace(self.data_collator, layout=layout or self.layout)(rows)
        device = self.accelerator.device
        return {name: to_device(value, device) if torch.is_tensor(value) else value for name, value in batch.items()}

    @contextmanager
    def aside(self, wrapped: torch.nn.Module | None = None) -> Iterator[torch.nn.Module]:
        """The wrapped model for computing as training does, but without dropout and gradients."""
        model = self.model_wrapped if wrapped is None else wrapped
        was_training = model.training
        model.eval()
        with torch.no_grad(), self.compute_loss_context_manager():
            yield model
        model.train(was_training)


def _recompute(model: PreTrainedModel) -> None:
    """Blocks that checkpoint their activations do it in training only: these do it now, and what is in them does not
    train. Setting the model back sets them back."""
    for block in model.modules():
        if isinstance(block, GradientCheckpointingLayer):
            block.training = True


def longest(item: Callable[[Mapping[str, Any]], Item], *data: Dataset) -> int:
    """Tokens of the longest text in the data sets."""
    return max(item(row).longest for rows in data for row in rows)


@dataclass
class RowCollator:
    """Makes a batch of rows of a data set.

    item: of a row. columns: of numbers, which go into the batch where the data has them. beside: gives what else goes
    into the batch, of its rows and the batch so far.
    """

    layout: Layout
    item: Callable[[Mapping[str, Any]], Item]
    columns: tuple[str, ...] = ()
    beside: Callable[[Sequence[Mapping[str, Any]], dict[str, Tensor]], dict[str, Any]] | None = None

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        batch = self.layout.batch([self.item(row) for row in rows])
        for name in self.columns:
            if name in rows[0]:
                batch[name] = torch.tensor([row[name] for row in rows], dtype=torch.float32)
        return batch if self.beside is None else batch | self.beside(rows, batch)


class _AtStart(TrainerCallback):
    """Calls the trainer's `begin` when training begins: by then the model is wrapped."""

    def __init__(self, trainer: LaidOutRows) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trainer.begin()
