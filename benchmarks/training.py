"""One side of the trainings: confidence DPO, DPO, or a reward model; ours or TRL's, each with TRL's defaults but for
float32 and no checkpointing: python -m benchmarks.training name=cdpo side=ours folder=... batch=8

A step is all that Trainer does from one end of a step to the next: collate, forward, reference, backward, clipping,
optimiser, and for a live reward its re-fit.
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, Trainer
from transformers import TrainerCallback as Callback
from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer

from alignment.trainers.cdpo import ConfidenceDPOTrainer
from alignment.trainers.cdpo_config import ConfidenceDPOConfig
from alignment.trainers.margin_rm import MarginRewardConfig, MarginRewardTrainer
from benchmarks import arguments, lengths, models
from benchmarks.operations import TRAINING, TRAINING_WITH_REFERENCE, forward_operations
from benchmarks.turns import Turns

DEFAULTS = {
    "name": "cdpo", "side": "ours", "folder": "", "size": "{}", "batch": 8, "rows": 512, "tokens": None,
}  # fmt: skip
# What our side is told beyond the settings that both have. TRL has no confidence: its DPO stands beside all of them.
OURS = {
    "cdpo": {},
    "cdpo_unpacked": {"packing": "off"},
    "dpo": {"confidence": "fixed", "fixed_confidence": 1.0},
    "reward_model": {},
}
BOTH = {
    "bf16": False, "use_cpu": True, "activation_checkpointing": False, "report_to": "none", "disable_tqdm": True,
    "save_strategy": "no", "dataloader_pin_memory": False, "train_sampling_strategy": "sequential",
    "max_steps": 1_000_000,
}  # fmt: skip


class TheirDPO(DPOTrainer):
    """TRL's, with rows that are token ids already: it would tokenize text before the first step."""

    def _prepare_dataset(self, dataset: Dataset, *others: object) -> Dataset:
        return dataset


def main(argv: Sequence[str], asked: TextIO | None = None, said: TextIO | None = None) -> None:
    turns = Turns(asked, said)
    given = arguments.read(argv, DEFAULTS)
    size = models.Size(**json.loads(given["size"]))
    rows = lengths.pairs(given["rows"], size.vocabulary, size.longest, given["tokens"])
    with tempfile.TemporaryDirectory() as output:
        trainer = build(given["name"], given["side"], Path(given["folder"]), size, given["batch"], rows, Path(output))
        trainer.add_callback(OneStepATurn(turns, trainer, rows, needed(given["name"], size)))
        turns.ready(**told(given["name"], given["side"]))
        trainer.train()


def build(
    name: str, side: str, folder: Path, size: models.Size, batch: int, rows: list[lengths.Pair], output: Path
) -> Trainer:
    """A trainer with its model, ready to train."""
    settings = BOTH | {"output_dir": str(output), "per_device_train_batch_size": batch, "max_length": size.longest}
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        settings["ddp_backend"] = "gloo"
    rest = {"processing_class": AutoTokenizer.from_pretrained(folder)}
    if name == "reward_model":
        rest["model"] = _reward_model(folder)
        rest["train_dataset"] = Dataset.from_list([_texts(row) for row in rows])
        kind = MarginRewardTrainer if side == "ours" else RewardTrainer
        config = MarginRewardConfig if side == "ours" else RewardConfig
        return kind(args=config(**settings), **rest)
    rest["model"] = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    rest["train_dataset"] = Dataset.from_list(rows)
    if side == "theirs":
        return TheirDPO(args=DPOConfig(**settings), **rest)
    config = ConfidenceDPOConfig(**settings, **OURS[name])
    return ConfidenceDPOTrainer(args=config, reward=models.reward(size) if config.live else None, **rest)


def told(name: str, side: str) -> dict:
    """The settings that matter, for the records."""
    if side == "ours":
        trainer = "MarginRewardTrainer" if name == "reward_model" else "ConfidenceDPOTrainer"
    else:
        trainer = "trl.RewardTrainer" if name == "reward_model" else "trl.DPOTrainer, sigmoid"
    shared = {"dtype": "float32", "checkpointing": False}
    if name != "reward_model":
        shared["reference"] = "a second model, each step"
    return {"trainer": trainer, **shared, **(OURS[name] if side == "ours" else {})}


def needed(name: str, size: models.Size) -> Callable[[lengths.Pair], int]:
    """The operations that training on a pair needs."""
    policy = name != "reward_model"
    times = TRAINING_WITH_REFERENCE if policy else TRAINING

    def operations(row: lengths.Pair) -> int:
        answers = [len(row["chosen_ids"]), len(row["rejected_ids"])]
        return times * forward_operations(size.shape, len(row["prompt_ids"]), answers, head=policy)

    return operations


class OneStepATurn(Callback):
    """Holds the trainer at the end of every step until the next one is asked for."""

    def __init__(
        self, turns: Turns, trainer: Trainer, rows: list[lengths.Pair], operations: Callable[[lengths.Pair], int]
    ) -> None:
        self._turns, self._rows, self._operations = turns, rows, operations
        self._trainer, self._batch = trainer, trainer.args.per_device_train_batch_size
        self._rank, self._ranks = trainer.args.process_index, trainer.args.world_size

    def on_train_begin(self, args: object, state: object, control: object, **kwargs: object) -> None:
        control.should_training_stop = not self._turns.begin()

    def on_step_end(self, args: object, state: object, control: object, **kwargs: object) -> None:
        first = (self._turns.number * self._ranks + self._rank) * self._batch
        pairs = range(first, first + self._batch)
        rows = [self._rows[i % len(self._rows)] for i in pairs]
        tokens = sum(map(lengths.length_of, rows))
        self._turns.end(pairs, len(rows), tokens, sum(self._operations(row) for row in rows), **self.more())
        control.should_training_stop = not self._turns.begin()

    def more(self) -> dict:
        """What else is said of a step."""
        return {}


def _reward_model(folder: Path) -> torch.nn.Module:
    torch.manual_seed(0)  # its head is new
    return AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=1, problem_type="regression", dtype=torch.float32
    )


def _texts(row: lengths.Pair) -> lengths.Pair:
    """As reward trainers take pairs: both texts whole."""
    return {side: row["prompt_ids"] + row[side] for side in ("chosen_ids", "rejected_ids")}


if __name__ == "__main__":
    main(sys.argv[1:])
