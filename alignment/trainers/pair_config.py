"""What the configurations of both pair trainers share: the layout of rows, and the settings they refuse.

A setting is refused where the loss would no longer be the mean over the pairs of a step (pair_mean.py).
"""

from dataclasses import dataclass, field

from transformers import TrainingArguments

from alignment.models.packing import Packing
from alignment.trainers.own_data import no_effect, refuse_changed, refuse_text_for_numbers
from alignment.types import UserError

# Of TrainingArguments: off their defaults, pairs would be counted wrongly.
UNWEIGHABLE = {
    "label_smoothing_factor": "it is for labels of classes",
    "auto_find_batch_size": "the mean over pairs needs to know the batch size",
    "dataloader_drop_last": "the last, short batch is weighted by its pairs",
    "ignore_data_skip": "a resumed epoch goes on where it was, or its short last batch would be taken for another",
}
# Of train_sampling_strategy, beside random and sequential.
OTHER_ORDERS = {
    "batch_rebalance": "changes how many rows a batch has",
    "group_by_length": "draws another order on every rank",
}


@dataclass
class PairConfig:
    """The first base of a configuration whose second one is TRL's.

    packing: "auto" reads what the two texts of a pair have in common once, where the model can (models/packing.py),
        "off" never; "segments" reads all texts whole, one behind the other, without padding: for flash attention.
    packing_max_tokens: the longest a row of several pairs may be.
    without_router_loss: True trains a mixture of experts, without the loss that keeps its routers balanced.
    """

    packing: str = field(default="auto", metadata={"help": "Whether prompts are read once: auto, off, segments."})
    packing_max_tokens: int = field(default=4096, metadata={"help": "The longest a packed row may be."})
    without_router_loss: bool = field(default=False, metadata={"help": "Trains a mixture of experts all the same."})

    def __post_init__(self) -> None:
        refuse_text_for_numbers(self)
        super().__post_init__()
        Packing(self.packing, self.packing_max_tokens)  # refuses what it can't be
        refuse_changed(self, UNWEIGHABLE)
        _refuse_other_batches(self)


def _refuse_other_batches(arguments: TrainingArguments) -> None:
    """Settings under which batches aren't dealt to ranks as pair_mean.py counts them."""
    order, accelerator = arguments.train_sampling_strategy, arguments.accelerator_config
    if order in OTHER_ORDERS:
        remedy = "leave it at its default: rows are dealt to ranks by their tokens"
        raise UserError("train_sampling_strategy", f"{order} {OTHER_ORDERS[order]}", remedy)
    if accelerator.even_batches is False:
        problem = "False would give ranks different numbers of batches"
        remedy = "leave it at its default: what fills up the last batch has no weight"
        raise UserError("accelerator_config.even_batches", problem, remedy)
    for name in ("split_batches", "dispatch_batches"):
        if getattr(accelerator, name):
            no_effect(f"accelerator_config.{name}", "batches are dealt to ranks whole, in turn")
