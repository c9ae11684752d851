"""Which reward models train_rm trains: a kind of margins and a seed each, and those that others learn margins from.

single     the gap of the model without margins of the same seed, on the very pairs that it learned from
crossfit   the same, of models that learned from the other half of the prompts
ensemble   the mean gap of several models without margins (RewardEnsemble@K), of seeds 0, 1, ...
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Int
from transformers import PreTrainedModel

from alignment.data.prompt_folds import dealt_folds, same_prompts
from alignment.evaluation.reward_texts import RewardTexts
from alignment.inputs.job import Job
from alignment.maths.margins import MarginArray
from alignment.models.load import Loaded
from alignment.models.lower_states import StatesTable
from alignment.models.upper_blocks import upper_part
from alignment.runs.manifest import damage
from alignment.types import Margins

HALVES = 2


@dataclass(frozen=True)
class Variant:
    """A reward model to train: which margins it learns from, and its seed. half: of the prompts, those that it learns
    from; None: of all."""

    margins: Margins
    seed: int
    half: int | None = None

    def __str__(self) -> str:
        half = "" if self.half is None else f", half {self.half + 1} of the pairs"
        return f"{self.margins}, seed {self.seed}{half}"


def teachers_of(variant: Variant, ensemble: int) -> list[Variant]:
    """The models whose gaps are this one's margins; of halves, in their order."""
    alone = replace(variant, margins="none")
    if variant.margins == "single":
        return [alone]
    if variant.margins == "crossfit":
        return [replace(alone, half=half) for half in range(HALVES)]
    return [Variant("none", seed) for seed in range(ensemble)] if variant.margins == "ensemble" else []


def all_teachers(variants: Sequence[Variant], ensemble: int) -> list[Variant]:
    """Those of all variants, each once."""
    return list(dict.fromkeys(teacher for variant in variants for teacher in teachers_of(variant, ensemble)))


@dataclass(frozen=True)
class Trainings:
    """What the trainings of all variants share."""

    job: Job
    pairs: list[dict]
    evaluation: dict[str, list[dict]]
    states: StatesTable | None = None  # of the lower blocks, where upper ones alone are trained
    teachers: Sequence[Variant] = ()  # whose gaps are margins of others
    gaps: Sequence[MarginArray] = ()  # of each of them, once they are there: of every pair

    def texts(self, loaded: Loaded) -> RewardTexts:
        cfg = self.job.cfg
        return RewardTexts.of(loaded, self.pairs, self.evaluation, cfg.trainer.max_length, cfg.reward_model.transfer)

    def trained_part(self, model: PreTrainedModel) -> PreTrainedModel:
        """What of a model trains and is scored; it shares its weights with the model."""
        blocks = self.job.cfg.trainer.upper_blocks
        return model if self.states is None else upper_part(model, blocks, self.states.module())

    @cached_property
    def halves(self) -> Int[np.ndarray, " pair"]:
        """The half of each pair, all pairs of a prompt in one."""
        numbers = same_prompts([row["prompt"] for row in self.pairs])
        return dealt_folds(numbers, HALVES, self.job.cfg.data.seed, "reward_model.margins=[crossfit]")

    def learns_from(self, variant: Variant) -> list[int]:
        """The pairs that a model learns from: of crossfit's, those of the other half than it gives margins to."""
        every = range(len(self.pairs))
        return [i for i in every if variant.half is None or self.halves[i] != variant.half]

    def name(self, variant: Variant) -> Path:
        """A model's folder, as it is named within the stage."""
        name = self.job.run.inside(self.job.run.reward_model(variant.margins, variant.seed))
        return name if variant.half is None else name.with_name(f"{name.name}-half-{variant.half + 1}")

    def done(self, variant: Variant) -> Path:
        """Where all of a training goes once it has ended."""
        return self.job.run.finished(self.job.out) / self.name(variant)

    def is_missing(self, variant: Variant) -> bool:
        return damage(self.done(variant)) is not None
