"""Which settings of a confidence and of its re-fit nothing reads: asked by the trainer, and by a command line at once.

Nothing here imports torch.
"""

from typing import get_args

from alignment.types import LiveConfidence

OF_THE_REWARD = (
    "alpha", "gate", "pooling", "reward_pairs", "refit", "refit_margin", "refit_learning_rate", "refit_weight_decay",
)  # fmt: skip


def unread(confidence: str, refit: str) -> dict[str, str]:
    """Each such setting, and why it would have no effect."""
    if confidence not in get_args(LiveConfidence):
        return dict.fromkeys(OF_THE_REWARD, f"confidence={confidence!r} uses no hybrid reward")
    found = {"alpha": "the reward brings its calibrated slope"} if confidence == "calibrated" else {}
    if refit == "off":
        found |= dict.fromkeys(("refit_margin", "refit_learning_rate", "refit_weight_decay"), "refit='off'")
    elif refit == "no_margin":
        found["refit_margin"] = "refit='no_margin'"
    return found
