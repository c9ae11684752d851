"""Which settings of the confidence and of its re-fit have no effect, and why.

The rules of the command line ask this as well as the trainer, so that nothing here imports torch.
"""

from typing import get_args

from alignment.types import LiveConfidence

OF_THE_REWARD = (
    "alpha", "gate", "pooling", "reward_pairs", "refit", "refit_margin", "refit_learning_rate", "refit_weight_decay",
)  # fmt: skip


def unread(confidence: str, refit: str) -> dict[str, str]:
    """Each setting without effect, and the reason."""
    if confidence not in get_args(LiveConfidence):
        return dict.fromkeys(OF_THE_REWARD, f"confidence={confidence!r} uses no hybrid reward")
    reasons = {"alpha": "the reward brings its calibrated slope"} if confidence == "calibrated" else {}
    if refit == "off":
        reasons |= dict.fromkeys(("refit_margin", "refit_learning_rate", "refit_weight_decay"), "refit='off'")
    elif refit == "no_margin":
        reasons["refit_margin"] = "refit='no_margin'"
    return reasons
