"""A reward model that asks for a gap as large as the pair's margin (Legend; Llama 2, eq. 2).

    L = -log sigma(r_c - r_r - m), averaged over the pairs of the optimiser step

TRL's RewardTrainer does the rest: data preparation, LoRA, saving, DeepSpeed. What it calls "margin" in its logs, the
difference of two rewards, is `reward_gap` here; `margin` is always the data's column.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Any

import torch
from torch import Tensor, nn
from trl import RewardConfig, RewardTrainer

from alignment.maths.losses import margin_ranking_loss
from alignment.models.completions import answer_rewards
from alignment.models.packing import Item, Layout, Packing
from alignment.trainers.arguments import adapters_in_float32, keep_dropout, within_context
from alignment.trainers.checkpoints import seal_checkpoints
from alignment.trainers.one_device import on_one_device
from alignment.trainers.own_data import check_numbers, given_pairs, refuse_text_for_numbers, require_room
from alignment.trainers.pair_mean import PairMean, refuse_unweighable
from alignment.trainers.rows import LaidOutRows, RowCollator, longest
from alignment.types import UserError


@dataclass
class MarginRewardConfig(RewardConfig):
    """RewardConfig with the layout of rows.

    packing: "auto" reads what chosen and rejected text have in common once, where the model can (models/packing.py),
        "off" never.
    packing_max_tokens: the longest a row of several pairs may be.
    """

    packing: str = field(default="auto", metadata={"help": "Whether prompts are read once: auto, off."})
    packing_max_tokens: int = field(default=4096, metadata={"help": "The longest a packed row may be."})

    def __post_init__(self) -> None:
        refuse_text_for_numbers(self)
        super().__post_init__()
        Packing(self.packing, self.packing_max_tokens)  # refuses what it can't be
        refuse_unweighable(self)


class MarginRewardTrainer(LaidOutRows, PairMean, RewardTrainer):
    """TRL's RewardTrainer with margins: give it a data set with a column `margin`; without one it is the vanilla loss.

    Pairs with a text longer than `max_length` tokens are left out, as TRL does; `dropped_pairs` says how many.
    """

    def __init__(self, model: Any, args: MarginRewardConfig, train_dataset: Any = None, **kwargs: Any) -> None:
        columns, evaluated = ("chosen_ids", "rejected_ids"), kwargs.get("eval_dataset")
        train_dataset, kwargs["eval_dataset"] = given_pairs(
            MarginRewardConfig, args, train_dataset, evaluated, columns, model, kwargs.get("processing_class")
        )
        for name in ("data_collator", "compute_metrics"):
            if kwargs.get(name) is not None:
                raise UserError(name, "MarginRewardTrainer has its own", "leave it out")
        if "margin" in (getattr(train_dataset, "column_names", None) or ()):  # a NaN would make one of every weight
            check_numbers(train_dataset, "train_dataset", "margin", -inf, inf)
        self._sums: dict[str, Tensor] = {}  # of the mode
        args = copy.copy(args)  # what is settled here isn't the caller's
        on_one_device(args, model)
        within_context(args, model)
        super().__init__(model=model, args=args, train_dataset=train_dataset, **kwargs)
        adapters_in_float32(self.model)
        keep_dropout(self.model)
        self.dropped_pairs = len(train_dataset) - len(self.train_dataset)
        require_room(self.train_dataset, len(train_dataset), args.max_length, "train_dataset")
        pad_id = self.inner(self.model).config.get_text_config().pad_token_id  # after it rewards are never read
        packing = Packing(args.packing, args.packing_max_tokens)
        texts = partial(longest, _pair, self.train_dataset)  # an evaluation's beyond a sliding window is refused later
        self.lay_out(packing, pad_id, texts, args.pad_to_multiple_of)
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
        """For the check at start."""
        return {"rewards": answer_rewards(model, self.inner(model), layout, batch)}

    def _record(self, chosen: Tensor, rejected: Tensor, real_pairs: int | None) -> None:
        """Sums over the real pairs of this rank since the last log."""
        real = slice(real_pairs)
        chosen, rejected = chosen[real].float(), rejected[real].float()
        pairs = torch.tensor(len(chosen), device=chosen.device)
        sums = torch.stack([(chosen > rejected).sum(), (chosen - rejected).sum(), (chosen + rejected).sum() / 2, pairs])
        mode = "train" if self.model.training else "eval"
        self._sums[mode] = self._sums[mode] + sums.double() if mode in self._sums else sums.double()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """With the means over all ranks' real pairs."""
        mode = "train" if self.model.training else "eval"
        if mode in self._sums:
            accuracy, gap, reward, count = self.accelerator.reduce(self._sums.pop(mode), "sum").tolist()
            for name, value in (("accuracy", accuracy), ("reward_gap", gap), ("mean_reward", reward)):
                self._metrics[mode][name] = [value / count]
        super().log(logs, start_time)


def _pair(row: Mapping[str, Any]) -> Item:
    """What both texts begin with is their prompt; each keeps a token of its own."""
    texts: list[Sequence[int]] = [row["chosen_ids"], row["rejected_ids"]]
    shorter = min(len(text) for text in texts) - 1
    shared = next((i for i in range(shorter) if texts[0][i] != texts[1][i]), shorter)
    return Item(texts[0][:shared], [text[shared:] for text in texts])
