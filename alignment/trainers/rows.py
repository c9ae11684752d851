"""What our trainers share of laying out rows: which path a training takes, said at start, and put to the test.

One real micro-batch is run packed by our head and padded by transformers' and TRL's own forward; they must agree.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler
from transformers import PreTrainedModel, TrainerCallback

from alignment.models.packing import Item, Layout, Packing
from alignment.models.packing_check import agree
from alignment.trainers.dealing import BalancedSampler, seeded


class LaidOutRows:
    """Mixin for a TRL trainer, whose `read_answers` says what it reads of a micro-batch, by name, one row an answer."""

    layout: Layout
    answers = 2  # to a prompt

    def lay_out(self, packing: Packing, pad_id: int, longest: Callable[[], int], multiple: int | None) -> None:
        """Decides for packed or padded rows, once models and data are there."""
        models = [self.inner(model) for model in (self.model, getattr(self, "ref_model", None)) if model is not None]
        self.layout, line = packing.layout(models, self.args.device, pad_id, longest, multiple or 1)
        self.add_callback(RowsAtStart(self, line))

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

    def read_answers(self, model: torch.nn.Module, layout: Layout, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        raise NotImplementedError


@dataclass
class RowCollator:
    """Rows of a data set as a batch: its columns by pair, and the items laid out."""

    layout: Layout
    item: Callable[[Mapping[str, Any]], Item]
    columns: tuple[str, ...] = ()  # those of them that the data has

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        batch = self.layout.batch([self.item(row) for row in rows])
        for name in self.columns:
            if name in rows[0]:
                batch[name] = torch.tensor([row[name] for row in rows], dtype=torch.float32)
        return batch | self.beside(rows, batch)

    def beside(self, rows: Sequence[Mapping[str, Any]], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """For collators that add something."""
        return {}


class RowsAtStart(TrainerCallback):
    """Says which path runs and why, and checks the packed one."""

    def __init__(self, trainer: Any, line: str) -> None:
        self._trainer, self._line = trainer, line

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            print(self._line, flush=True)
        if self._trainer.layout.packed:
            check(self._trainer)


@torch.no_grad()
def check(trainer: Any) -> None:
    """StageFailed unless a micro-batch gives the same packed, and padded pair by pair (which takes little memory)."""
    count = min(trainer.args.per_device_train_batch_size, len(trainer.train_dataset))
    rows = [trainer.train_dataset[i] for i in range(count)]
    model = trainer.model_wrapped
    was_training = model.training
    model.eval()
    with trainer.compute_loss_context_manager():
        together = _read(trainer, trainer.layout, rows)
        alone = [_read(trainer, replace(trainer.layout, packed=False), [row]) for row in rows]
    model.train(was_training)
    half = trainer.args.bf16 or trainer.args.fp16 or trainer.inner(model).dtype != torch.float32
    for name, packed in together.items():
        sides = zip(*(found[name].float().chunk(trainer.answers) for found in alone), strict=True)
        padded = torch.cat([value for side in sides for value in side])
        agree(name, packed, padded, half)


def _read(trainer: Any, layout: Layout, rows: list[Mapping[str, Any]]) -> dict[str, Tensor]:
    batch = replace(trainer.data_collator, layout=layout)(rows)
    batch = {name: value.to(trainer.accelerator.device) for name, value in batch.items()}
    return trainer.read_answers(trainer.model_wrapped, layout, batch)
