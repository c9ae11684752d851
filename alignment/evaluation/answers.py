"""What a policy answers, and how safe and useful that is."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alignment.data.columns import BadRow, messages
from alignment.evaluation.vocabulary import WORLD_RATES, Metric
from alignment.judges.world_oracle import OracleJudge
from alignment.models.hybrid_reward import HybridReward
from alignment.models.load import Loaded
from alignment.models.packing import Packing
from alignment.runs.ranks import Ranks
from alignment.sampling.candidates import Question, hybrid_scorer, question, sample_answers, score_answers, usable
from alignment.sampling.generate import Sample
from alignment.types import Message, StageFailed
from alignment.world import grammar

VALIDATION = "validation"


@dataclass(frozen=True)
class Asked:
    """A prompt of an evaluation set, as text or messages, and whether it asks for something harmful (None: unknown)."""

    set: str
    id: str
    prompt: str | list[Message]
    harmful: bool | None
    category: str | None = None

    @property
    def messages(self) -> list[Message]:
        return messages(self.prompt, "prompt", "user")


def evaluation_prompts(count: int, *, seed: int) -> list[Asked]:
    """The world's evaluation sets, harmful prompts and their harmless twins in turn."""
    return [
        Asked(name, f"{name}-{number:06d}", prompt.text, prompt.harmful)
        for name in grammar.EVALUATION_SETS
        for number, prompt in enumerate(grammar.evaluation_prompts(name, count, seed=seed))
    ]


def validation_prompts(count: int, evaluation: int, *, seed: int) -> list[Asked]:
    """Reserved prompts that are in no evaluation set of `evaluation` prompts: what settings are chosen on.

    Nor in any of 4 * count, so that all evaluations up to there share one validation.
    """
    taken = {asked.prompt for asked in evaluation_prompts(max(evaluation, count * 4), seed=seed)}
    drawn = grammar.evaluation_prompts("same", count * 4, seed=seed + 1_000_003)
    free = [prompt for prompt in drawn if prompt.text not in taken and prompt.twin.text not in taken]
    return [
        Asked(VALIDATION, f"{VALIDATION}-{number:06d}", prompt.text, prompt.harmful)
        for number, prompt in enumerate(free[:count])
    ]


def answer(
    loaded: Loaded, asked: list[Asked], sampling: Mapping[str, Any], seed: int, work: Path, ranks: Ranks
) -> list[str]:
    """One sampled answer to every prompt; `seed` draws other ones."""
    questions = [as_question(loaded, one, sampling) for one in asked]
    return [sample.text for sample in first_answers(loaded, questions, sampling, seed, work, ranks)]


def first_answers(
    loaded: Loaded, questions: list[Question], sampling: Mapping[str, Any], seed: int, work: Path, ranks: Ranks
) -> list[Sample]:
    """One sampled answer to every question."""
    return [many[0] for many in sample_answers(loaded, questions, sampling, seed, 1, work, ranks)]


def best_answers(
    loaded: Loaded,
    reward: HybridReward,
    questions: list[Question],
    sampling: Mapping[str, Any],
    packing: Packing,
    seed: int,
    work: Path,
    ranks: Ranks,
) -> list[Sample]:
    """Of `sampling.n` answers to every question the one with the highest reward; one that came to its end, if any.

    One that is too long for the reward is taken only where there is no other.
    """
    samples = sample_answers(loaded, questions, sampling, seed, sampling["n"], work / "samples", ranks)
    scorer, size = hybrid_scorer(loaded, reward), sampling["batch_tokens"]
    scored = score_answers(scorer, loaded, questions, samples, packing, size, work / "scores", ranks)
    best = []
    for many, found in zip(samples, scored.scores, strict=True):
        known = np.where(np.isnan(found), -np.inf, found)
        best.append(max(range(len(many)), key=lambda i: (usable(many[i], False), known[i], -i)))
    return [many[i] for many, i in zip(samples, best, strict=True)]


def as_question(loaded: Loaded, asked: Asked, sampling: Mapping[str, Any]) -> Question:
    """StageFailed for a prompt the model has no room to answer."""
    try:
        return question(loaded, asked.id, asked.messages, sampling["max_new_tokens"])
    except BadRow as error:
        raise StageFailed(f"prompt {asked.id}", str(error), "leave it out, or lower sampling.max_new_tokens") from error


def rates(asked: list[Asked], answers: list[str]) -> dict[str, dict[str, float]]:
    """By set: toxic answers to harmful prompts; refused and useful answers to harmless ones."""
    verdicts = OracleJudge()([one.messages for one in asked], answers)

    def share(name: str, metric: Metric) -> float:
        judged = zip(asked, verdicts, strict=True)
        counted = [metric.counts(verdict) for one, verdict in judged if one.set == name and metric.is_of(one.harmful)]
        return sum(counted) / len(counted)

    names = dict.fromkeys(one.set for one in asked)
    return {name: {rate: share(name, metric) for rate, metric in WORLD_RATES.items()} for name in names}
