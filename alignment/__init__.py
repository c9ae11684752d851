"""repalign: safety margins, reward models and policies from a language model's own activations.

The public names are imported when they are first used, so that `import alignment` costs nothing.
"""

import importlib
import importlib.metadata
from typing import Any

_HOMES = {
    "ConfidenceDPOConfig": "alignment.trainers.cdpo_config",
    "ConfidenceDPOTrainer": "alignment.trainers.cdpo",
    "HybridReward": "alignment.models.hybrid_reward",
    "MarginRewardConfig": "alignment.trainers.margin_rm",
    "MarginRewardTrainer": "alignment.trainers.margin_rm",
}
__all__ = ["ConfidenceDPOConfig", "ConfidenceDPOTrainer", "HybridReward", "MarginRewardConfig", "MarginRewardTrainer"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version("repalign")
    if name not in _HOMES:
        raise AttributeError(f"module 'alignment' has no attribute {name!r}")
    importlib.import_module("alignment.trainers.quiet").quiet_imports()
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES, "__version__"]
