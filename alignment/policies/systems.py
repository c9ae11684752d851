"""The systems that are compared: what each learns from, and how sure it takes the labels to be.

A star has the meaning of the paper's Table 1: a system with a star learns from the policy's own samples, ranked by a
scorer; a system without one learns from the given preference pairs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from alignment.types import Objective

Pairs = Literal["given", "samples", "refusals"]


@dataclass(frozen=True)
class System:
    """stage: the stage that trains it, None if nothing is trained. confidence: "live", or one number for all pairs.

    pairs: what it learns from: the given pairs, the policy's own ranked samples, or the given pairs with a refusal in
    the place of each chosen answer to a prompt that isn't known to be harmless. prompted: does it answer under the
    safety system prompt of the settings? objective: what is minimised over pairs (trainers/objectives.py). flipped: the
    share of the labels that objective=robust believes to be wrong.
    """

    says: str
    stage: Literal["train_sft", "train_dpo", "train_cdpo"] | None = None
    pairs: Pairs = "given"
    confidence: Literal["live"] | float | None = None
    prompted: bool = False
    objective: Objective = "confidence"
    flipped: float | None = None

    @property
    def star(self) -> bool:
        return self.pairs == "samples"


def _other(says: str, objective: Objective, flipped: float | None = None) -> System:
    """A system that learns from the given pairs by an objective of others, labels taken as they are."""
    return System(says, "train_dpo", confidence=1.0, objective=objective, flipped=flipped)


SYSTEMS = {
    "base": System("the model as it is"),
    "base_prompted": System("the model, asked to be safe", prompted=True),
    "sft": System("fine-tuned on chosen answers", "train_sft"),
    "sft_refusals": System("fine-tuned on refusals", "train_sft", pairs="refusals"),
    "dpo": System("DPO, given pairs", "train_dpo", confidence=1.0),
    "fixed_70": System("confidence 0.7, given pairs", "train_dpo", confidence=0.7),
    "fixed_80": System("confidence 0.8, given pairs", "train_dpo", confidence=0.8),
    "fixed_90": System("confidence 0.9, given pairs", "train_dpo", confidence=0.9),
    "robust_80": _other("robust DPO, a fifth believed wrong", "robust", flipped=0.2),
    "robust_90": _other("robust DPO, a tenth believed wrong", "robust", flipped=0.1),
    "ipo": _other("IPO, given pairs", "ipo"),
    "dr_dpo": _other("Dr. DPO, given pairs", "dr_dpo"),
    "beta_dpo": _other("beta-DPO, given pairs", "beta_dpo"),
    "flip_aware": _other("FA-DPO, given pairs", "flip_aware"),
    "cdpo": System("confidence DPO, given pairs", "train_cdpo", confidence="live"),
    "rs_star": System("best of n by hybrid reward", pairs="samples"),
    "dpo_star": System("DPO, own samples", "train_dpo", pairs="samples", confidence=1.0),
    "fixed_70_star": System("confidence 0.7, own samples", "train_dpo", pairs="samples", confidence=0.7),
    "fixed_80_star": System("confidence 0.8, own samples", "train_dpo", pairs="samples", confidence=0.8),
    "fixed_90_star": System("confidence 0.9, own samples", "train_dpo", pairs="samples", confidence=0.9),
    "cdpo_star": System("confidence DPO, own samples", "train_cdpo", pairs="samples", confidence="live"),
}


@dataclass(frozen=True)
class Candidate:
    """One training: a system at a point of the grid, with a seed. Fine-tuning on chosen answers has no beta."""

    system: str
    beta: float | None
    learning_rate: float
    seed: int

    @property
    def point(self) -> str:
        beta = "" if self.beta is None else f"beta-{self.beta:g}-"
        return f"{beta}lr-{self.learning_rate:g}"

    @property
    def name(self) -> str:
        return f"{self.system}/{self.point}/seed-{self.seed}"


def grid(system: str, betas: list[float], learning_rates: list[float], seed: int) -> list[Candidate]:
    """The points of the grid for a system, as candidates with one seed."""
    own_betas: list[float | None] = [None] if SYSTEMS[system].stage == "train_sft" else list(betas)
    return [Candidate(system, beta, rate, seed) for beta in own_betas for rate in learning_rates]


def evaluated(cfg: Mapping[str, Any]) -> list[str]:
    """The systems whose answers are evaluated; the first is the one that the others are compared with."""
    if cfg["scorecard"]["after"] is not None:
        return ["before", "after"]
    return sorted(cfg["policy"]["systems"], key=lambda name: name != "base")


def is_prompted(system: str) -> bool:
    """Whether a system that is evaluated answers under the safety system prompt; before and after don't."""
    return system in SYSTEMS and SYSTEMS[system].prompted


def trained_by(stage: str, systems: list[str]) -> list[str]:
    return [name for name in systems if SYSTEMS[name].stage == stage]
