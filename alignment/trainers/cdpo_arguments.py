"""Arguments of ConfidenceDPOTrainer that can't work, refused before a model is loaded."""

from typing import Any

from alignment.trainers.cdpo_config import ConfidenceDPOConfig
from alignment.trainers.own_data import check_numbers, refuse_changed
from alignment.types import UserError


def refuse_arguments(
    args: ConfidenceDPOConfig, train_dataset: Any, reward: Any, calibration: Any, others: dict[str, Any]
) -> None:
    """UserError for those that don't go together. others: the trainer's keywords that are TRL's."""
    if others.get("data_collator") is not None:
        raise UserError("data_collator", "ConfidenceDPOTrainer has its own", "leave it out; images don't work")
    if others.get("compute_metrics") is not None:
        raise UserError("compute_metrics", "the loss has no logits to give", "leave it out; the log has the metrics")
    if reward is not None:
        if not args.live:
            raise UserError("reward", f"confidence={args.confidence!r} uses none", "leave one of the two out")
        refuse_changed(args, dict.fromkeys(("gate", "pooling", "reward_pairs"), "a reward is given"))
    if calibration is not None and args.confidence != "calibrated":
        raise UserError("calibration_dataset", f"confidence={args.confidence!r} reads none", "leave it out")
    if args.confidence == "column":
        check_numbers(train_dataset, "train_dataset", "confidence", 0, 1)
        check_numbers(others["eval_dataset"], "eval_dataset", "confidence", 0, 1)
