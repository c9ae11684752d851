"""What our trainers share of laying out rows: which path a training takes, said at start, and put to the test.

One real micro-batch is run packed by our head and padded by transformers' and TRL's own forward; they must agree.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import Sampler
from transformers import PreTrainedModel, TrainerCallback

from alignment.models.packing import Item, Layout, Packing
from alignment.models.packing_check import agree
from alignment.trainers.dealing import BalancedSampler, seeded


class LaidOutRows:
    """Mixin for a TRL trainer, whose `read_answers(model, layout, batch)` gives tensors by name, one row an answer."""

    layout: Layout
    answers = 2  # to a prompt

    def lay_out(self, packing: Packing, pad_id: int, longest: Callable[[], int], multiple: int | None) -> None:
        """Decides for packed or padded rows, once models and data are there."""
        models = [self.inner(model) for model in (self.model, getattr(self, "ref_model", None)) if model is not None]
        self.layout, self._line = packing.layout(models, self.args.device, pad_id, longest, multiple or 1)
        self.add_callback(AtStart(self))

    def begin(self) -> None:
        """Before the first step, on every rank: says which path runs and why, and checks the packed one."""
        self.say(self._line)
        if self.layout.packed:
            check(self)

    def say(self, line: str) -> None:
        if self.state.is_world_process_zero:
            print(line, flush=True)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        """On several ranks, what they compute at the same time is dealt by its tokens."""
        order = super()._get_train_sampler(train_dataset)
        ranks, size = self.args.world_size, self.args.per_device_train_batch_size
        if ranks == 1 or order is None:
            return order
        tokens = [self.layout.size(self.data_collator.item(row)) for row in self.train_dataset]
        return BalancedSampler(seeded(order, self.args.data_seed), tokens, ranks, size)

    def inner(self, model: torch.nn.Module) -> PreTrainedModel:
        """The model itself, however training wraps it."""
        return self.accelerator.unwrap_model(model)

    def first_rows(self) -> list[dict[str, Any]]:
        """Of the training data, as many as a micro-batch has: what is checked at start."""
        count = min(self.args.per_device_train_batch_size, len(self.train_dataset))
        return [self.train_dataset[i] for i in range(count)]

    def batch_of(self, rows: Sequence[Mapping[str, Any]], layout: Layout | None = None) -> dict[str, Tensor]:
        """Rows as the loss sees them, on this rank's device; layout: another one than training's."""
        batch = replace(self.data_collator, layout=layout or self.layout)(rows)
        return {name: value.to(self.accelerator.device) for name, value in batch.items()}

    @contextmanager
    def aside(self) -> Iterator[torch.nn.Module]:
        """The wrapped model, to compute as training does, but without dropout and gradients."""
        model, was_training = self.model_wrapped, self.model_wrapped.training
        model.eval()
        with torch.no_grad(), self.compute_loss_context_manager():
            yield model
        model.train(was_training)


def longest(item: Callable[[Mapping[str, Any]], Item], *data: Dataset) -> int:
    """Tokens of the longest text of data sets."""
    return max(item(row).longest for rows in data for row in rows)


@dataclass
class RowCollator:
    """Rows of a data set as a batch: its columns by pair, and the items laid out."""

    layout: Layout
    item: Callable[[Mapping[str, Any]], Item]
    columns: tuple[str, ...] = ()  # left out where the data has none
    beside: Callable[[Sequence[Mapping[str, Any]], dict[str, Tensor]], dict[str, Tensor]] | None = None  # adds its own

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        batch = self.layout.batch([self.item(row) for row in rows])
        for name in self.columns:
            if name in rows[0]:
                batch[name] = torch.tensor([row[name] for row in rows], dtype=torch.float32)
        return batch if self.beside is None else batch | self.beside(rows, batch)


class AtStart(TrainerCallback):
    """Has the trainer begin when training does, once the model is wrapped."""

    def __init__(self, trainer: LaidOutRows) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trainer.begin()


def check(trainer: LaidOutRows) -> None:
    """StageFailed unless a micro-batch gives the same packed, and padded pair by pair (which takes little memory)."""
    rows, padded_layout = trainer.first_rows(), replace(trainer.layout, packed=False)
    with trainer.aside() as model:
        together = trainer.read_answers(model, trainer.layout, trainer.batch_of(rows))
        alone = [trainer.read_answers(model, padded_layout, trainer.batch_of([row], padded_layout)) for row in rows]
    half = trainer.args.bf16 or trainer.args.fp16 or trainer.inner(model).dtype != torch.float32
    for name, packed in together.items():
        sides = zip(*(found[name].float().chunk(trainer.answers) for found in alone), strict=True)
        padded = torch.cat([value for side in sides for value in side])
        agree(name, packed, padded, half)
