"""The loss of an optimiser step is the mean over its real pairs, however they are cut into micro-batches and ranks.

Left to themselves, Trainer averages micro-batches and accelerate fills up the last batch of an epoch with pairs from
its beginning, so that a short batch weighs more per pair and filler pairs count. Here every loss is scaled by its share
of the real pairs of the step, and filler has no weight: one rank or many, any accumulation, the same gradient.
"""

import math

import torch
from torch import Tensor


class PairMean:
    """Mixin for a TRL trainer: micro-batches carry `real_pairs`, and `step_mean` averages over the whole step."""

    def get_batch_samples(self, epoch_iterator, num_batches: int, device: torch.device) -> tuple[list, int]:
        """The micro-batches of one optimiser step on this rank, and its number of real pairs over all ranks."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        size, ranks = self.args.per_device_train_batch_size, self.args.world_size
        first = self._micro_batches_before(size, ranks)
        total = 0
        for i, batch in enumerate(batches):
            counts = [self._real_pairs((first + i) * ranks + rank, size) for rank in range(ranks)]
            batch["real_pairs"] = counts[self.args.process_index]
            total += sum(counts)
        return batches, total

    def step_mean(self, losses: Tensor, real_pairs: int | None, pairs_in_step: int | None) -> Tensor:
        """The mean of the real losses, weighted so that ranks and micro-batches average to the step's mean.

        With full batches the weight is exactly 1, and this is losses.mean() bit for bit. In evaluation there is no
        step, and no filler.
        """
        if real_pairs is None:
            return losses.mean()
        if real_pairs == 0:
            return losses.sum() * 0.0
        share = real_pairs * self.args.world_size * self.current_gradient_accumulation_steps / pairs_in_step
        return losses[:real_pairs].mean() * share

    def _micro_batches_before(self, size: int, ranks: int) -> int:
        """How many micro-batches each rank had in this epoch before the step at hand."""
        accumulation = self.args.gradient_accumulation_steps
        per_epoch = math.ceil(math.ceil(len(self.train_dataset) / size) / ranks)
        steps_per_epoch = math.ceil(per_epoch / accumulation)
        return self.state.global_step % steps_per_epoch * accumulation

    def _real_pairs(self, batch: int, size: int) -> int:
        """Of the epoch's `batch`-th batch; accelerate deals batches to ranks in turn and fills up at the end."""
        return min(max(len(self.train_dataset) - batch * size, 0), size)
