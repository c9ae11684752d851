"""A reward model that asks for a gap as large as the pair's margin (Legend; Llama 2, eq. 2).

    L = -log sigma(r_c - r_r - m), averaged over the pairs of the optimiser step

TRL's RewardTrainer does the rest: data preparation, LoRA, saving, DeepSpeed. What it calls "margin" in its logs, the
difference of two rewards, is `reward_gap` here; `margin` is always the data's column.
"""

from collections.abc import Sized
from math import isfinite
from typing import Any

import torch
from torch import Tensor
from trl import RewardTrainer

from alignment.maths.losses import margin_ranking_loss
from alignment.trainers.checkpoints import SealedCheckpoints
from alignment.trainers.pair_mean import PairMean


class MarginRewardTrainer(SealedCheckpoints, PairMean, RewardTrainer):
    """TRL's RewardTrainer with margins: give it a data set with a column `margin`; without one it is the vanilla loss.

    Pairs with a text longer than `max_length` tokens are left out, as TRL does; `dropped_pairs` says how many.
    """

    def __init__(self, *args: Any, train_dataset=None, **kwargs: Any) -> None:
        if not isinstance(train_dataset, Sized):
            raise TypeError("MarginRewardTrainer needs a train_dataset of known length: its loss is a mean over pairs")
        _check_margins(train_dataset)
        super().__init__(*args, train_dataset=train_dataset, **kwargs)
        self.dropped_pairs = len(train_dataset) - len(self.train_dataset)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: int | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        margin, real_pairs = inputs.pop("margin", None), inputs.pop("real_pairs", None)
        outputs = model(**inputs, use_cache=False)
        chosen, rejected = outputs.logits.squeeze(-1).chunk(2)
        losses = margin_ranking_loss(chosen, rejected, margin)
        if self.args.center_rewards_coefficient is not None:  # Eisenstein et al. 2023, eq. 2
            losses = losses + self.args.center_rewards_coefficient * (chosen + rejected) ** 2
        loss = self.step_mean(losses, real_pairs, num_items_in_batch)
        self._record(chosen.detach(), rejected.detach(), real_pairs)
        return (loss, outputs) if return_outputs else loss

    def _record(self, chosen: Tensor, rejected: Tensor, real_pairs: int | None) -> None:
        """Means over the micro-batch's real pairs of all ranks; log() averages them over the steps between two logs."""
        real = slice(real_pairs)
        chosen, rejected = chosen[real].float(), rejected[real].float()
        pairs = torch.tensor(len(chosen), device=chosen.device)
        sums = torch.stack([(chosen > rejected).sum(), (chosen - rejected).sum(), (chosen + rejected).sum() / 2, pairs])
        accuracy, gap, reward, count = self.accelerator.reduce(sums, "sum").tolist()
        metrics = self._metrics["train" if self.model.training else "eval"]
        for name, value in (("accuracy", accuracy), ("reward_gap", gap), ("mean_reward", reward)):
            metrics[name].append(value / count)


def _check_margins(pairs: Any) -> None:
    """One margin that is no number would turn every weight into NaN."""
    if "margin" not in (getattr(pairs, "column_names", None) or ()):
        return
    for row, margin in enumerate(pairs["margin"]):
        if isinstance(margin, bool) or not isinstance(margin, int | float) or not isfinite(margin):
            raise ValueError(f"train_dataset: the margin of row {row} is {margin!r}, not a finite number")
