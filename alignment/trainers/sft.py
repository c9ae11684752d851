"""Supervised fine-tuning on chosen answers, in rows laid out as those of the other trainers.

L = mean of -log pi(token) over the answer tokens of the optimiser step, as in TRL's SFTTrainer
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from trl import SFTConfig, SFTTrainer

from alignment.models.completions import add_completion_head, token_log_probs
from alignment.models.packing import Item, Layout, Packing
from alignment.trainers.arguments import restore_adapters, settled
from alignment.trainers.resuming import seal_checkpoints
from alignment.trainers.rows import LaidOutRows, RowCollator, longest


class PackedSFTTrainer(LaidOutRows, SFTTrainer):
    """TRL's SFTTrainer for data with `input_ids` and `labels`, which are -100 up to the answer."""

    def __init__(
        self, model: Any, args: SFTConfig, packing: Packing, without_router_loss: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(model=model, args=settled(args, model), **kwargs)
        restore_adapters(self.model)
        config = self.inner(self.model).config.get_text_config()
        if hasattr(config, "output_router_logits"):
            config.output_router_logits = False  # TRL switched it on, and would save that
        self.refuse_routers(without_router_loss)
        add_completion_head(self.inner(self.model))
        texts = partial(longest, _answer, self.train_dataset)
        self.lay_out(packing, self.processing_class.pad_token_id, texts)
        self.data_collator = RowCollator(self.layout, _answer, beside=_labels)
        seal_checkpoints(self)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        log_probs = token_log_probs(model, self.inner(model), self.layout, inputs)
        if num_items_in_batch is None:
            return -log_probs.mean()
        ranks = self.args.world_size if self.args.average_tokens_across_devices else 1  # over which DDP averages
        return -log_probs.sum() * ranks / num_items_in_batch

    def read_answers(self, model: nn.Module, layout: Layout, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tokens' log-probabilities, for the check of packed rows."""
        return {"log-probabilities": token_log_probs(model, self.inner(model), layout, batch)}


def _answer(row: Mapping[str, Any]) -> Item:
    start = next(i for i, label in enumerate(row["labels"]) if label != -100)
    return Item(row["input_ids"][:start], [row["input_ids"][start:]])


def _labels(rows: Sequence[Mapping[str, Any]], batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The target tokens under the names by which Trainer counts them, so that the mean is over the whole step."""
    return {"labels": batch["targets"], "shift_labels": batch["targets"]}
