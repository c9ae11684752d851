"""Samples several answers to every prompt and scores each of them: in planned batches, dealt to the ranks."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from alignment.data.cells import BadRow
from alignment.data.chat import Rendered
from alignment.data.columns import text_message
from alignment.judges.world_oracle import OracleJudge
from alignment.maths.noise import row_key
from alignment.models.activations import states_layout
from alignment.models.devices import to_host
from alignment.models.hybrid_reward import HybridReward
from alignment.models.load import Loaded
from alignment.models.packing import Item, Layout, Packing, answer_order
from alignment.models.scoring import add_log_probs, hybrid_scores, packed_log_probs, packed_reward_scores
from alignment.runs.batches import Pending, compute_in_batches
from alignment.runs.ranks import Ranks
from alignment.sampling.generate import Sample, generate_samples
from alignment.types import Message, StageFailed

Scorer = Callable[[Layout, Sequence[Item]], Tensor]  # gives the scores of a batch of answers, in answer_order


@dataclass(frozen=True)
class Question:
    """A prompt to be answered, as messages and as tokens. id: the noise of its answers is drawn from this name."""

    id: str
    prompt: list[Message]
    ids: list[int]


def question(loaded: Loaded, name: str, prompt: list[Message], max_new_tokens: int) -> Question:
    """A prompt as a question; BadRow if the model can't read it, or has no room for an answer."""
    ids = loaded.format.prompt_ids(prompt)
    if loaded.context is not None and len(ids) + max_new_tokens > loaded.context:
        raise BadRow(
            f"its {len(ids)} tokens and sampling.max_new_tokens={max_new_tokens} are more than the model's context of "
            f"{loaded.context}"
        )
    return Question(name, prompt, ids)


def sample_answers(
    loaded: Loaded,
    questions: Sequence[Question],
    settings: Mapping[str, Any],
    seed: int,
    count: int,
    work: Path,
    ranks: Ranks,
    what: str = "sampling",
) -> list[list[Sample]]:
    """`count` answers to every question. settings: those of generate_samples, and batch_tokens; what: names the bar.

    All answers to a question are in the same batch, which then reads its prompt once, or in as few as have room.
    """
    shares: list[tuple[int, range]] = []
    sizes: list[int] = []
    for i, question in enumerate(questions):
        length = len(question.ids) + settings["max_new_tokens"]
        batches = math.ceil(count / max(1, settings["batch_tokens"] // length))
        most = math.ceil(count / batches)
        for first in range(0, count, most):
            shares.append((i, range(first, min(first + most, count))))
            sizes.append(
                most * length
            )  # if a question has several shares, each is over half the budget: so it is alone

    def compute(batch: list[int]) -> Pending:
        rows = [(questions[i], number) for i, numbers in (shares[item] for item in batch) for number in numbers]
        keys = [row_key(seed, question.id, number) for question, number in rows]
        samples = generate_samples(loaded, [question.ids for question, _ in rows], keys, settings)
        return json.dumps([vars(sample) for sample in samples]).encode

    by_share: list[list[Sample]] = [[] for _ in shares]
    for items, content in compute_in_batches(work, what, sizes, settings["batch_tokens"], compute, ranks):
        samples = iter(json.loads(content))
        for item in items:
            by_share[item] = [Sample(**next(samples)) for _ in shares[item][1]]
    answers: list[list[Sample]] = [[] for _ in questions]
    for (i, _), samples in zip(shares, by_share, strict=True):
        answers[i] += samples
    return answers


# ---- scores ---------------------------------------------------------------------------------------------------------


def hybrid_scorer(loaded: Loaded, reward: HybridReward) -> Scorer:
    """Scores by the hybrid reward, on the activations of the loaded model."""
    return lambda layout, items: hybrid_scores(loaded, reward, layout, items)


def reward_model_scorer(loaded: Loaded) -> Scorer:
    """Scores by the loaded reward model."""
    return lambda layout, items: packed_reward_scores(loaded.model, layout, items)


def log_prob_scorer(loaded: Loaded) -> Scorer:
    """Scores by the loaded language model: log p(answer | prompt), summed over the answer's tokens."""
    add_log_probs(loaded.model)
    return lambda layout, items: packed_log_probs(loaded.model, layout, items)


@dataclass(frozen=True)
class Scored:
    """The scores of every question's answers; NaN for an answer that can't be scored, and the reason in `unscored`."""

    scores: list[np.ndarray]
    unscored: list[str]


def score_answers(
    scorer: Scorer,
    loaded: Loaded,
    questions: Sequence[Question],
    samples: Sequence[Sequence[Sample]],
    packing: Packing,
    batch_tokens: int,
    work: Path,
    ranks: Ranks,
    what: str = "scoring samples",
) -> Scored:
    """The score of every answer, read at the end of its turn, or at its last token where it was cut off.

    A prompt is read once for as many of its answers as fit into a row. An answer that is longer than the scorer can
    read has no score: the score of its beginning would be the same for all answers that begin alike.
    """
    starts = np.cumsum([0, *map(len, samples)])
    unscored: list[str] = []
    answers = [_readable(loaded, question, own, unscored) for question, own in zip(questions, samples, strict=True)]
    scores = np.full(starts[-1], np.nan)
    whole = [Item.of(kept) for own in answers if (kept := [answer for answer in own if answer is not None])]
    if not whole:
        return Scored(np.split(scores, starts[1:-1]), unscored)
    layout = states_layout(loaded.model, packing, loaded.tokenizer.pad_token_id, whole, ranks)
    parts = [  # answers to one prompt that are read together, and their numbers among all answers
        (Item.of([own[i] for i in together]), [start + i for i in together])
        for start, own in zip(starts[:-1], answers, strict=True)
        for together in _together(own, layout, batch_tokens)
    ]
    items = [item for item, _ in parts]

    def compute(batch: list[int]) -> Pending:
        on_host = to_host(scorer(layout, [items[i] for i in batch]))
        return lambda: json.dumps(on_host().tolist()).encode()

    sizes = [layout.size(item) for item in items]
    for batch, content in compute_in_batches(work, what, sizes, batch_tokens, compute, ranks):
        order = answer_order([items[i] for i in batch])
        batch_scores = np.array(json.loads(content))
        if not np.isfinite(batch_scores).all():
            raise StageFailed("scores of samples", "some are not finite numbers", "compute in float32 or bfloat16")
        scores[[parts[batch[item]][1][answer] for item, answer in order]] = batch_scores
    return Scored(np.split(scores, starts[1:-1]), unscored)


def _readable(
    loaded: Loaded, question: Question, samples: Sequence[Sample], unscored: list[str]
) -> list[Rendered | None]:
    """A question's answers as the scorer reads them. One that it can't read whole is None, its reason in `unscored`."""
    answers = [text_message("assistant", sample.text) for sample in samples]
    try:
        rendered: list[Rendered | BadRow] = [*loaded.format.render(question.prompt, answers, loaded.context)]
    except BadRow:  # an answer is bad, or the prompt
        rendered = [_alone(loaded, question, answer) for answer in answers]
    readable: list[Rendered | None] = []
    for number, (sample, answer) in enumerate(zip(samples, rendered, strict=True)):
        if isinstance(answer, BadRow) or answer.truncated:
            long = f"longer than the {loaded.context} tokens that the scorer can read"
            unscored.append(f"{question.id}, answer {number}: {answer if isinstance(answer, BadRow) else long}")
            readable.append(None)
        else:
            whole = sample.finished or not sample.text
            readable.append(answer if whole else loaded.format.without_end(answer, loaded.end_ids))
    return readable


def _alone(loaded: Loaded, question: Question, answer: list[Message]) -> Rendered | BadRow:
    try:
        return loaded.format.render(question.prompt, [answer], loaded.context)[0]
    except BadRow as error:
        return error


def _together(answers: Sequence[Rendered | None], layout: Layout, batch_tokens: int) -> list[list[int]]:
    """The numbers of answers to one prompt, divided where the next would make their row or batch too large."""
    most = min(layout.max_tokens, batch_tokens) if layout.packed else batch_tokens
    groups: list[list[int]] = []
    for i in (i for i, answer in enumerate(answers) if answer is not None):
        if groups and layout.size(Item.of([answers[j] for j in (*groups[-1], i)])) <= most:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def judge_scores(questions: Sequence[Question], samples: Sequence[Sequence[Sample]]) -> list[np.ndarray]:
    """Scores by the world's oracle. It sees the truth: no method, but the best that any scorer can do."""
    judge, scores = OracleJudge(), []
    for question, own in zip(questions, samples, strict=True):
        verdicts = judge([question.prompt] * len(own), [sample.text for sample in own])
        scores.append(np.array([float(verdict.helpfulness - verdict.severity) for verdict in verdicts]))
    return scores


def length_scores(samples: Sequence[Sequence[Sample]], sign: int) -> list[np.ndarray]:
    """Scores by the number of words: the simplest baseline. sign: 1 where the longest is the best, -1 the shortest."""
    return [np.array([float(sign * len(sample.text.split())) for sample in own]) for own in samples]


def usable(sample: Sample, unfinished: bool) -> bool:
    """Has the sample a text, and did it come to an end? unfinished: samples that were cut off are usable, too."""
    return bool(sample.text) and (sample.finished or unfinished)
