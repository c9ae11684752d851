"""The loss of an optimiser step is the mean over its real pairs, however they are cut into micro-batches and ranks.

Trainer alone averages micro-batches, and accelerate fills up the last batches of an epoch with pairs from its beginning
(filler): a short batch would weigh more per pair, and filler pairs would count. Here every loss is scaled by its share
of the real pairs of the step, and filler has no weight: the gradient is the same on one rank or many, however often it
is accumulated. Nor does an evaluation have filler in its loss.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from alignment.types import UserError


class PairMean:
    """Mixin for a TRL trainer: micro-batches carry `real_pairs`, and `step_mean` averages over the whole step."""

    _evaluated_pairs = _evaluated_batches = (
        0  # of the evaluation in progress: all pairs, and this rank's batches so far
    )

    def get_batch_samples(self, epoch_iterator, num_batches: int, device: torch.device) -> tuple[list, int]:
        """The micro-batches of one optimiser step on this rank, and how many real pairs the step has on all ranks."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        size, ranks = self.args.per_device_train_batch_size, self.args.world_size
        first = self._micro_batches_before(size, ranks)
        total = 0
        for i, batch in enumerate(batches):
            pairs = len(self.train_dataset)
            counts = [_real_pairs(pairs, (first + i) * ranks + rank, size) for rank in range(ranks)]
            batch["real_pairs"] = counts[self.args.process_index]
            total += sum(counts)
        return batches, total

    def step_mean(self, losses: Tensor, real_pairs: int | None, pairs_in_step: int | None) -> Tensor:
        """The mean of the real losses, weighted so that ranks and micro-batches average to the step's mean.

        With full batches the weight is exactly 1, and this is losses.mean() bit for bit. In evaluation, where there is
        no step, Trainer weights a batch's mean by its real pairs itself.
        """
        if real_pairs is None:
            return losses.mean()
        if real_pairs == 0:
            return losses.sum() * 0.0
        if pairs_in_step is None:
            return losses[:real_pairs].mean()
        share = real_pairs * self.args.world_size * self.current_gradient_accumulation_steps / pairs_in_step
        return losses[:real_pairs].mean() * share

    def _micro_batches_before(self, size: int, ranks: int) -> int:
        """How many micro-batches each rank had in this epoch before the step at hand."""
        accumulation = self.args.gradient_accumulation_steps
        per_epoch = math.ceil(math.ceil(len(self.train_dataset) / size) / ranks)
        steps_per_epoch = math.ceil(per_epoch / accumulation)
        return self.state.global_step % steps_per_epoch * accumulation

    # ---- evaluation --------------------------------------------------------------------------------------------------

    def evaluation_loop(self, dataloader: DataLoader, *args: Any, **kwargs: Any) -> Any:
        self._evaluated_pairs, self._evaluated_batches = len(dataloader.dataset), 0
        return super().evaluation_loop(dataloader, *args, **kwargs)

    def prediction_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Tensor, None, None]:
        """The loss alone: evaluate() needs no more."""
        if not prediction_loss_only:
            remedy = "use evaluate, or score and generate with the model"
            raise UserError("predict", "the loss has no outputs to give", remedy)
        inputs = self._prepare_inputs(inputs)
        batch = self._evaluated_batches * self.args.world_size + self.args.process_index
        inputs["real_pairs"] = _real_pairs(self._evaluated_pairs, batch, self.args.per_device_eval_batch_size)
        self._evaluated_batches += 1
        with torch.no_grad(), self.compute_loss_context_manager():
            return self.compute_loss(model, inputs).detach(), None, None


def _real_pairs(pairs: int, batch: int, size: int) -> int:
    """How many pairs of the `batch`-th batch aren't filler: accelerate fills up the last batches at their end."""
    return min(max(pairs - batch * size, 0), size)
