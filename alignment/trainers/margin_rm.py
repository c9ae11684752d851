"""A reward model that learns a gap as large as the pair's margin (Legend; Llama 2, eq. 2).

    L = -log sigma(r_c - r_r - m), averaged over the pairs of the optimiser step (pair_mean.py)

r_c and r_r are the rewards of the chosen and the rejected answer, m is the pair's margin. TRL's RewardTrainer does the
rest: data preparation, LoRA, saving, DeepSpeed. What it calls "margin" in its logs, the difference of two rewards, is
`reward_gap` here; `margin` is always the data's column.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any

import torch
from torch import Tensor, nn
from trl import RewardConfig, RewardTrainer

from alignment.maths.losses import margin_ranking_loss
from alignment.models.completions import answer_rewards
from alignment.models.packing import Item, Layout, Packing, shared_start
from alignment.trainers.arguments import restore_adapters, settled
from alignment.trainers.own_data import check_numbers, given_pairs, require_room
from alignment.trainers.pair_config import PairConfig
from alignment.trainers.pair_mean import PairMean
from alignment.trainers.resuming import seal_checkpoints
from alignment.trainers.rows import LaidOutRows, RowCollator, longest
from alignment.types import UserError


@dataclass
class MarginRewardConfig(PairConfig, RewardConfig):
    """RewardConfig with `packing`, `packing_max_tokens` and `without_router_loss`, which PairConfig explains."""


class MarginRewardTrainer(LaidOutRows, PairMean, RewardTrainer):
    """TRL's RewardTrainer for a data set with a column `margin`; without that column the loss has no margin.

    Pairs with a text longer than `max_length` tokens are left out, as TRL does it; `dropped_pairs` says how many.
    """

    def __init__(self, model: Any, args: MarginRewardConfig, train_dataset: Any = None, **kwargs: Any) -> None:
        columns, evaluated = ("chosen_ids", "rejected_ids"), kwargs.get("eval_dataset")
        train_dataset, kwargs["eval_dataset"] = given_pairs(
            MarginRewardConfig, args, train_dataset, evaluated, columns, model, kwargs.get("processing_class")
        )
        for name in ("data_collator", "compute_metrics"):
            if kwargs.get(name) is not None:
                raise UserError(name, "MarginRewardTrainer has its own", "leave it out")
        if "margin" in (getattr(train_dataset, "column_names", None) or ()):  # a NaN would spread to every weight
            check_numbers(train_dataset, "train_dataset", "margin", -inf, inf)
        self._sums: dict[str, Tensor] = {}  # "train" or "eval" -> what _record adds up
        args = settled(args, model)
        super().__init__(model=model, args=args, train_dataset=train_dataset, **kwargs)
        restore_adapters(self.model)
        self.refuse_routers(args.without_router_loss)
        self.dropped_pairs = len(train_dataset) - len(self.train_dataset)
        require_room(self.train_dataset, len(train_dataset), args.max_length, "train_dataset")
        pad_id = self.inner(self.model).config.get_text_config().pad_token_id  # its rewards are never read
        packing = Packing(args.packing, args.packing_max_tokens)
        texts = partial(longest, _pair, self.train_dataset)  # an evaluation's beyond a sliding window is refused later
        self.lay_out(packing, pad_id, texts)
        self.data_collator = RowCollator(self.layout, _pair, ("margin",))
        seal_checkpoints(self)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        if return_outputs:
            raise UserError("predict", "rows of several texts have no outputs", "score texts with the saved model")
        real_pairs = inputs.pop("real_pairs", None)
        rewards = answer_rewards(model, self.inner(model), self.layout, inputs)
        chosen, rejected = rewards.chunk(2)
        losses = margin_ranking_loss(chosen, rejected, inputs.get("margin"))
        if self.args.center_rewards_coefficient is not None:  # Eisenstein et al. 2023, eq. 2
            losses = losses + self.args.center_rewards_coefficient * (chosen + rejected) ** 2
        loss = self.step_mean(losses, real_pairs, num_items_in_batch)
        self._record(chosen.detach(), rejected.detach(), real_pairs)
        return loss

    def read_answers(self, model: nn.Module, layout: Layout, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The rewards, for the check of packed rows."""
        return {"rewards": answer_rewards(model, self.inner(model), layout, batch)}

    def _record(self, chosen: Tensor, rejected: Tensor, real_pairs: int | None) -> None:
        """Adds a batch to the sums over this rank's real pairs since the last log."""
        real = slice(real_pairs)
        chosen, rejected = chosen[real].float(), rejected[real].float()
        pairs = chosen.new_full((), len(chosen))
        sums = torch.stack([(chosen > rejected).sum(), (chosen - rejected).sum(), (chosen + rejected).sum() / 2, pairs])
        mode = "train" if self.model.training else "eval"
        self._sums[mode] = self._sums.get(mode, 0) + sums.double()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the means over all ranks' real pairs."""
        mode = "train" if self.model.training else "eval"
        if mode in self._sums:
            accuracy, gap, reward, count = self.accelerator.reduce(self._sums.pop(mode), "sum").tolist()
            for name, value in (("accuracy", accuracy), ("reward_gap", gap), ("mean_reward", reward)):
                self._metrics[mode][name] = [value / count]
        super().log(logs, start_time)


def _pair(row: Mapping[str, Any]) -> Item:
    """Two texts as an item: their common start is the prompt, and each has a token or more after it."""
    texts: list[Sequence[int]] = [row["chosen_ids"], row["rejected_ids"]]
    shared = min(shared_start(texts), len(texts[0]) - 1, len(texts[1]) - 1)
    return Item(texts[0][:shared], [text[shared:] for text in texts])
