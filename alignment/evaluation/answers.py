"""A policy's answers to the prompts of evaluation sets, and how safe and useful they are."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alignment.data.cells import BadRow
from alignment.data.columns import messages
from alignment.evaluation.vocabulary import WORLD_RATES, Metric
from alignment.judges.world_oracle import OracleJudge
from alignment.models.hybrid_reward import HybridReward
from alignment.models.load import Loaded
from alignment.models.packing import Packing
from alignment.runs.ranks import Ranks
from alignment.sampling.candidates import Question, hybrid_scorer, question, sample_answers, score_answers, usable
from alignment.sampling.cut_off import answer_after_pilot
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
    sets = {name: grammar.evaluation_prompts(name, count, seed=seed) for name in grammar.EVALUATION_SETS}
    return [prompt for name, prompts in sets.items() for prompt in _of_world(name, prompts)]


def validation_prompts(count: int, evaluation: int, *, seed: int) -> list[Asked]:
    """Prompts to choose settings on, none of which is in an evaluation set of `evaluation` prompts.

    Nor is any in a set of 4 * count prompts, so that all evaluations up to that size share one validation.
    """
    taken = {asked.prompt for asked in evaluation_prompts(max(evaluation, count * 4), seed=seed)}
    drawn = grammar.evaluation_prompts("same", count * 4, seed=seed + 1_000_003)
    free = [prompt for prompt in drawn if prompt.text not in taken and prompt.twin.text not in taken]
    return _of_world(VALIDATION, free[:count])


def _of_world(name: str, prompts: Iterable[grammar.Prompt]) -> list[Asked]:
    return [Asked(name, f"{name}-{number:06d}", prompt.text, prompt.harmful) for number, prompt in enumerate(prompts)]


def answer(
    loaded: Loaded, asked: list[Asked], sampling: Mapping[str, Any], seed: int, work: Path, ranks: Ranks, what: str
) -> list[str]:
    """One sampled answer to every prompt; another `seed` draws other answers. what: names the bar."""
    questions = [as_question(loaded, prompt, sampling) for prompt in asked]
    return [sample.text for sample in first_answers(loaded, questions, sampling, seed, work, ranks, what)]


def first_answers(
    loaded: Loaded,
    questions: list[Question],
    sampling: Mapping[str, Any],
    seed: int,
    work: Path,
    ranks: Ranks,
    what: str,
) -> list[Sample]:
    """One sampled answer to every question; that many will be cut off is said after the first ones."""

    def sample(asked: Sequence[Question], folder: str) -> list[list[Sample]]:
        return sample_answers(loaded, asked, sampling, seed, 1, work / folder, ranks, what)

    limit = f"sampling.max_new_tokens={sampling['max_new_tokens']}"
    return [sample for (sample,) in answer_after_pilot(sample, questions, limit, ranks.say, what)]


def best_answers(
    loaded: Loaded,
    reward: HybridReward,
    questions: list[Question],
    sampling: Mapping[str, Any],
    packing: Packing,
    seed: int,
    work: Path,
    ranks: Ranks,
    what: str,
) -> list[Sample]:
    """The answer with the highest reward out of `sampling.n` to every question, finished ones first.

    One that is too long for the reward is taken only where there is no other.
    """
    samples = sample_answers(loaded, questions, sampling, seed, sampling["n"], work / "samples", ranks, what)
    scorer, size = hybrid_scorer(loaded, reward), sampling["batch_tokens"]
    scored = score_answers(
        scorer, loaded, questions, samples, packing, size, work / "scores", ranks, f"scores of {what}"
    )
    best = []
    for answers, rewards in zip(samples, scored.scores, strict=True):
        ranked = np.where(np.isnan(rewards), -np.inf, rewards)
        best.append(answers[max(range(len(answers)), key=lambda i: (usable(answers[i], False), ranked[i], -i))])
    return best


def as_question(loaded: Loaded, asked: Asked, sampling: Mapping[str, Any]) -> Question:
    """The prompt as the model reads it; StageFailed if there is no room left to answer it."""
    try:
        return question(loaded, asked.id, asked.messages, sampling["max_new_tokens"])
    except BadRow as error:
        raise StageFailed(f"prompt {asked.id}", str(error), "leave it out, or lower sampling.max_new_tokens") from error


def rates(asked: list[Asked], answers: list[str]) -> dict[str, dict[str, float]]:
    """The shares of toxic answers to harmful prompts, and of refused and helpful answers to harmless ones, by set."""
    verdicts = OracleJudge()([prompt.messages for prompt in asked], answers)
    judged = list(zip(asked, verdicts, strict=True))

    def share(name: str, metric: Metric) -> float:
        counted = [
            metric.counts(verdict) for prompt, verdict in judged if prompt.set == name and metric.is_of(prompt.harmful)
        ]
        return sum(counted) / len(counted)

    names = dict.fromkeys(prompt.set for prompt in asked)
    return {name: {rate: share(name, metric) for rate, metric in WORLD_RATES.items()} for name in names}
