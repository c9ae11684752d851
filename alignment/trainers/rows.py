"""How our trainers lay out rows. At start they say whether rows are packed, and why; packed ones are put to the test.

One real micro-batch is computed packed by our head, and padded by transformers' and TRL's own forward: they must agree.
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

from alignment.models.packing import Item, Layout, Packing
from alignment.models.packing_check import require_same
from alignment.runs.once import once
from alignment.trainers.dealing import BalancedSampler, seeded


class LaidOutRows:
    """Mixin for a TRL trainer that has `read_answers(model, layout, batch)`: tensors by name, a row for each answer."""

    layout: Layout
    answers_per_prompt: int = 2

    def lay_out(self, packing: Packing, pad_id: int, longest: Callable[[], int]) -> None:
        """Decides for packed or padded rows, once models and data are there. longest: tokens of the longest text."""
        models = [self.inner(model) for model in (self.model, getattr(self, "ref_model", None)) if model is not None]
        multiple = self.args.pad_to_multiple_of or 1
        self.layout, self._layout_line = packing.layout(models, self.args.device, pad_id, longest, multiple)
        self.add_callback(_AtStart(self))

    def begin(self) -> None:
        """Before the first step, on every rank: says how rows are laid out, and checks packed ones."""
        self.say_once(self._layout_line)
        if self.layout.packed:
            self._check_packed_rows()

    def _check_packed_rows(self) -> None:
        """StageFailed unless a micro-batch gives the same packed, and padded pair by pair (it takes little memory)."""
        rows, padded_layout = self.first_rows(), replace(self.layout, packed=False)
        with self.aside() as model:
            together = self.read_answers(model, self.layout, self.batch_of(rows))
            alone = [self.read_answers(model, padded_layout, self.batch_of([row], padded_layout)) for row in rows]
        half = self.args.bf16 or self.args.fp16 or self.inner(model).dtype != torch.float32
        for name, packed in together.items():
            sides = zip(*(pair[name].float().chunk(self.answers_per_prompt) for pair in alone), strict=True)
            padded = torch.cat([value for side in sides for value in side])
            require_same(name, packed, padded, half)

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
        tokens = [self.layout.size(self.data_collator.item(row)) for row in self.train_dataset]
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

    def batch_of(self, rows: Sequence[Mapping[str, Any]], layout: Layout | None = None) -> dict[str, Tensor]:
        """Rows as the loss takes them, on this rank's device. layout: where it isn't training's."""
        batch = replace(self.data_collator, layout=layout or self.layout)(rows)
        return {name: value.to(self.accelerator.device) for name, value in batch.items()}

    @contextmanager
    def aside(self) -> Iterator[torch.nn.Module]:
        """The wrapped model for computing as training does, but without dropout and gradients."""
        model, was_training = self.model_wrapped, self.model_wrapped.training
        model.eval()
        with torch.no_grad(), self.compute_loss_context_manager():
            yield model
        model.train(was_training)


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
    beside: Callable[[Sequence[Mapping[str, Any]], dict[str, Tensor]], dict[str, Tensor]] | None = None

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
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
