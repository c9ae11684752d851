"""Several answers to every prompt, and what a scorer thinks of each: in planned batches, dealt to the ranks."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from alignment.data.chat import Rendered
from alignment.data.columns import BadRow, text_message
from alignment.judges.world_oracle import OracleJudge
from alignment.maths.noise import row_key
from alignment.models.activations import states_layout
from alignment.models.devices import to_host
from alignment.models.hybrid_reward import HybridReward
from alignment.models.load import Loaded
from alignment.models.packing import Item, Layout, Packing, answer_order
from alignment.models.scoring import hybrid_scores, packed_reward_scores
from alignment.runs.batches import Pending, compute_in_batches
from alignment.runs.ranks import Ranks
from alignment.sampling.generate import Sample, generate_samples
from alignment.types import Message, StageFailed

Scorer = Callable[[Layout, Sequence[Item]], Tensor]  # the scores of one batch of answers, in answer_order


@dataclass(frozen=True)
class Question:
    """A prompt to be answered: the name that its answers' noise is drawn from, its messages, and its tokens."""

    id: str
    prompt: list[Message]
    ids: list[int]


def question(loaded: Loaded, name: str, prompt: list[Message], max_new_tokens: int) -> Question:
    """Raises BadRow if the model can't read the prompt, or has no room for an answer."""
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
) -> list[list[Sample]]:
    """`count` answers to every question; settings as for generate_samples, and batch_tokens.

    All answers to a question are in the same batch, which then reads its prompt once, or in as few as have room.
    """
    shares: list[tuple[int, range]] = []
    sizes: list[int] = []
    for i, one in enumerate(questions):
        length = len(one.ids) + settings["max_new_tokens"]
        batches = math.ceil(count / max(1, settings["batch_tokens"] // length))
        most = math.ceil(count / batches)
        for first in range(0, count, most):
            shares.append((i, range(first, min(first + most, count))))
            sizes.append(most * length)  # where there are several, over half the budget: none is beside other lengths

    def compute(batch: list[int]) -> Pending:
        rows = [(questions[i], number) for i, numbers in (shares[item] for item in batch) for number in numbers]
        keys = [row_key(seed, one.id, number) for one, number in rows]
        samples = generate_samples(loaded, [one.ids for one, _ in rows], keys, settings)
        return json.dumps([vars(sample) for sample in samples]).encode

    found: list[list[Sample]] = [[] for _ in shares]
    for items, content in compute_in_batches(work, "sampling", sizes, settings["batch_tokens"], compute, ranks):
        samples = iter(json.loads(content))
        for item in items:
            found[item] = [Sample(**next(samples)) for _ in shares[item][1]]
    answers: list[list[Sample]] = [[] for _ in questions]
    for (i, _), some in zip(shares, found, strict=True):
        answers[i] += some
    return answers


# ---- scores ---------------------------------------------------------------------------------------------------------


def hybrid_scorer(loaded: Loaded, reward: HybridReward) -> Scorer:
    """The hybrid reward on the activations of the model that is loaded."""
    return lambda layout, items: hybrid_scores(loaded, reward, layout, items)


def reward_model_scorer(loaded: Loaded) -> Scorer:
    """The reward model that is loaded."""
    return lambda layout, items: packed_reward_scores(loaded.model, layout, items)


@dataclass(frozen=True)
class Scored:
    """The scores of every question's answers, not a number for those that can't be scored; and why those can't be."""

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
) -> Scored:
    """The score of every answer, read at the end of its turn, or at its last token where it was cut off.

    A prompt is read once for as many of its answers as fit into a row. One that is longer than what the scorer can read
    has no score: that of its beginning would be the same for all that begin alike.
    """
    numbers = np.cumsum([0, *(len(many) for many in samples)])
    unscored: list[str] = []
    answers = [_readable(loaded, one, many, unscored) for one, many in zip(questions, samples, strict=True)]
    scores = np.full(numbers[-1], np.nan)
    whole = [Item.of(some) for many in answers if (some := [answer for answer in many if answer is not None])]
    if not whole:
        return Scored(np.split(scores, numbers[1:-1]), unscored)
    layout = states_layout(loaded.model, packing, loaded.tokenizer.pad_token_id, whole, ranks.say)
    parts = [  # answers to one prompt that are read together, and their numbers
        (Item.of([many[i] for i in together]), [start + i for i in together])
        for start, many in zip(numbers[:-1], answers, strict=True)
        for together in _together(many, layout, batch_tokens)
    ]
    items = [item for item, _ in parts]

    def compute(batch: list[int]) -> Pending:
        found = to_host(scorer(layout, [items[i] for i in batch]))
        return lambda: json.dumps(found().tolist()).encode()

    sizes = [layout.size(item) for item in items]
    for batch, content in compute_in_batches(work, "scoring samples", sizes, batch_tokens, compute, ranks):
        order = answer_order([items[i] for i in batch])
        found = np.array(json.loads(content))
        if not np.isfinite(found).all():
            raise StageFailed("scores of samples", "some are not finite numbers", "compute in float32 or bfloat16")
        scores[[parts[batch[item]][1][which] for item, which in order]] = found
    return Scored(np.split(scores, numbers[1:-1]), unscored)


def _readable(loaded: Loaded, one: Question, samples: Sequence[Sample], unscored: list[str]) -> list[Rendered | None]:
    """A prompt's answers as the scorer reads them; None, and the reason, for one that it can't read all of."""
    answers = [text_message("assistant", sample.text) for sample in samples]
    try:
        found: list[Rendered | BadRow] = [*loaded.format.render(one.prompt, answers, loaded.context)]
    except BadRow:  # one of them, or the prompt
        found = [_alone(loaded, one, answer) for answer in answers]
    readable: list[Rendered | None] = []
    for number, (sample, answer) in enumerate(zip(samples, found, strict=True)):
        if isinstance(answer, BadRow) or answer.truncated:
            long = f"longer than the {loaded.context} tokens that the scorer can read"
            unscored.append(f"{one.id}, answer {number}: {answer if isinstance(answer, BadRow) else long}")
            readable.append(None)
        else:
            whole = sample.finished or not sample.text
            readable.append(answer if whole else loaded.format.without_end(answer, loaded.end_ids))
    return readable


def _alone(loaded: Loaded, one: Question, answer: list[Message]) -> Rendered | BadRow:
    try:
        return loaded.format.render(one.prompt, [answer], loaded.context)[0]
    except BadRow as error:
        return error


def _together(answers: Sequence[Rendered | None], layout: Layout, batch_tokens: int) -> list[list[int]]:
    """Answers to one prompt, in order, cut where the next would make their row, or their batch, too large."""
    most = min(layout.max_tokens, batch_tokens) if layout.packed else batch_tokens
    found: list[list[int]] = []
    for i in (i for i, answer in enumerate(answers) if answer is not None):
        if found and layout.size(Item.of([answers[j] for j in (*found[-1], i)])) <= most:
            found[-1].append(i)
        else:
            found.append([i])
    return found


def judge_scores(questions: Sequence[Question], samples: Sequence[Sequence[Sample]]) -> list[np.ndarray]:
    """What the world's oracle would choose: it sees the truth, so this is the best any scorer can do, not a method."""
    judge, scores = OracleJudge(), []
    for one, many in zip(questions, samples, strict=True):
        verdicts = judge([one.prompt] * len(many), [sample.text for sample in many])
        scores.append(np.array([float(verdict.helpfulness - verdict.severity) for verdict in verdicts]))
    return scores


def usable(sample: Sample, unfinished: bool) -> bool:
    """Has it a text, and did it come to an end? `unfinished` lets those pass that were cut off."""
    return bool(sample.text) and (sample.finished or unfinished)
