"""Margins that reward models make: the gaps of their own scores on the training pairs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from alignment.maths.margins import MarginArray, compared_margins
from alignment.reward_models.variants import Trainings, Variant, teachers_of
from alignment.runs import artifacts
from alignment.types import UserError

GAPS = "gaps.json"


def margins_of(trainings: Trainings, variant: Variant) -> MarginArray:
    """The margin of every training pair, of the kind that this model learns from."""
    annotated = np.array([row["margin"] for row in trainings.pairs])
    return compared_margins(variant.margins, annotated, variant.seed, _own_gaps(trainings, variant))


def _own_gaps(trainings: Trainings, variant: Variant) -> MarginArray | None:
    """How much better the chosen answer is, as the kind of margins has it; None for kinds that are made of Legend's.
    NaN for pairs that are too long to be scored: nobody learns from them."""
    if variant.margins == "severity":
        return np.array([row["rejected_severity"] - row["chosen_severity"] for row in trainings.pairs], dtype=float)
    teachers = teachers_of(variant, trainings.job.cfg.reward_model.ensemble)
    if not teachers:
        return None
    gaps = np.stack([trainings.gaps[trainings.teachers.index(teacher)] for teacher in teachers])
    return np.choose(trainings.halves, gaps) if variant.margins == "crossfit" else gaps.mean(axis=0)


def require_severities(variants: Sequence[Variant], pairs: Sequence[dict]) -> None:
    """UserError if margins are to be gaps of severities, and a pair has none."""
    if any(variant.margins == "severity" for variant in variants):
        unknown = next((row for row in pairs if None in (row["chosen_severity"], row["rejected_severity"])), None)
        if unknown is not None:
            problem = f"severity, and nobody graded pair {unknown['id']}"
            raise UserError("reward_model.margins", problem, "leave it out, or give pairs whose answers are graded")


def write_gaps(folder: Path, pairs: int, too_long: Sequence[int], scores: Sequence[dict]) -> None:
    """scores: of all pairs but those that are too long, in their order."""
    of_read = iter(scores)
    gaps: list[float | None] = []
    for number in range(pairs):
        row = None if number in too_long else next(of_read)
        gaps.append(None if row is None else row["chosen_score"] - row["rejected_score"])
    artifacts.write_json(folder / GAPS, gaps)


def read_gaps(trainings: Trainings, teacher: Variant) -> MarginArray:
    return np.array(artifacts.read_json(trainings.done(teacher) / GAPS), dtype=float)
