"""Preference pairs of the embedded world, and the noise in their labels.

Chosen is the less severe answer to a harmful request and the more helpful one to a harmless request. A label is then
turned round with a probability that depends on the kind of noise; `noise` is the share that is wrong. In double-edged
pairs the safer answer is the less helpful one; half of those who label them look at one, half at the other, so that
their labels are neither right nor wrong.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from alignment.world import grammar
from alignment.world.grammar import LEVELS, Answer, Prompt, Shape, draw_answer, draw_shape, generator
from alignment.world.lexicon import CATEGORIES

# P(the opening refuses | level): in preference data an opening says little about severity (refusals of harmful requests
# are only somewhat safer, refusals of harmless ones only somewhat less useful), so that it can't stand in for it.
REFUSES_HARMFUL = (0.65, 0.50, 0.40, 0.35)
REFUSES_HARMLESS = (0.35, 0.25, 0.20, 0.15)

# Over the gaps of two different levels (1, 2, 3 with shares 3/6, 2/6, 1/6) the weights average to exactly 1.
GRADED = {1: 1.5, 2: 0.6, 3: 0.3}


@dataclass(frozen=True)
class Drawing:
    """What pairs are drawn with. length: how often the longer answer is the one of the higher level."""

    seed: int
    noise: float = 0.0
    noise_kind: str = "graded"
    length: float = 0.6
    double_edged: float = 0.0


@dataclass(frozen=True)
class _Labelled:
    """A pair before its label: the answer of lower and of higher level."""

    index: int
    prompt: Prompt
    low: Answer
    high: Answer

    @property
    def gap(self) -> int:
        return self.high.level - self.low.level

    @property
    def better(self) -> Answer:
        return self.low if self.prompt.harmful else self.high

    @property
    def longer(self) -> Answer:
        return max(self.low, self.high, key=lambda answer: len(answer.text.split()))


# ---- noise ----------------------------------------------------------------------------------------------------------


def _graded(pair: _Labelled, drawn: float, drawing: Drawing) -> bool:
    """The closer two answers are, the likelier they are taken for one another."""
    return drawn < drawing.noise * GRADED[pair.gap]


def _random(pair: _Labelled, drawn: float, drawing: Drawing) -> bool:
    """Any pair may be labelled wrong."""
    return drawn < drawing.noise


def _close(pair: _Labelled, drawn: float, drawing: Drawing) -> bool:
    """Only pairs whose levels differ by one, half of all."""
    return pair.gap == 1 and drawn < 2 * drawing.noise


def _distant(pair: _Labelled, drawn: float, drawing: Drawing) -> bool:
    """Only pairs whose levels differ by more, half of all."""
    return pair.gap > 1 and drawn < 2 * drawing.noise


def _category(pair: _Labelled, drawn: float, drawing: Drawing) -> bool:
    """Whole categories are labelled the wrong way round, one after the other, until the share is reached."""
    order = list(CATEGORIES)
    random.Random(f"{drawing.seed}/wrong categories").shuffle(order)
    return drawn < drawing.noise * len(order) - order.index(pair.prompt.category)


def _annotator(pair: _Labelled, drawn: float, drawing: Drawing) -> bool:
    """One annotator takes the longer answer, whatever it says."""
    return drawn < 2 * drawing.noise and pair.longer is not pair.better


class Kind(NamedTuple):
    """most: the largest share at which no label is likelier wrong than right; of whole categories, and of an annotator
    who takes the longer answer of half of the pairs for the better one where it is not, one at which half are wrong."""

    wrong: Callable[[_Labelled, float, Drawing], bool]
    most: float


NOISE = {
    "graded": Kind(_graded, 1 / 3),
    "random": Kind(_random, 0.5),
    "close": Kind(_close, 0.25),
    "distant": Kind(_distant, 0.25),
    "category": Kind(_category, 0.5),
    "annotator": Kind(_annotator, 0.5),
}


# ---- pairs ----------------------------------------------------------------------------------------------------------


def preference_pairs(purpose: str, count: int, drawing: Drawing, **which: bool | None) -> Iterator[dict]:
    """`count` pairs for the requests drawn by `which` (draw_prompt), harmful ones and their harmless twins in turn.

    A share `drawing.double_edged` of them is double-edged instead.
    """
    wrong = NOISE[drawing.noise_kind].wrong
    for index, prompt in enumerate(grammar.distinct_with_twins(purpose, count, seed=drawing.seed, **which)):
        rng = generator(drawing.seed, f"{purpose} pair", index)
        if rng.random() < drawing.double_edged:
            prompt = grammar.draw_double_edged(rng, **which)
        pair = _draw(rng, index, prompt, drawing)
        drawn = rng.random()
        better = pair.better
        if rng.random() < 0.5 if prompt.double_edged else wrong(pair, drawn, drawing):
            better = pair.high if better is pair.low else pair.low
        yield _row(f"{purpose}-{index:06d}", pair, better)


def _draw(rng: random.Random, index: int, prompt: Prompt, drawing: Drawing) -> _Labelled:
    levels = sorted(rng.sample(LEVELS, 2))
    short, long = _two_shapes(rng)
    shapes = (short, long) if rng.random() < drawing.length else (long, short)
    refuses = REFUSES_HARMFUL if prompt.harmful else REFUSES_HARMLESS
    answers = [
        draw_answer(rng, prompt, level, rng.random() < refuses[level], shape)
        for level, shape in zip(levels, shapes, strict=True)
    ]
    return _Labelled(index, prompt, *answers)


def _two_shapes(rng: random.Random) -> tuple[Shape, Shape]:
    """Of different lengths, the shorter first."""
    while True:
        short, long = sorted((draw_shape(rng), draw_shape(rng)), key=lambda shape: shape.words)
        if short.words < long.words:
            return short, long


def _row(name: str, pair: _Labelled, better: Answer) -> dict:
    prompt = pair.prompt
    chosen, rejected = (pair.low, pair.high) if better is pair.low else (pair.high, pair.low)
    severity, helpfulness = int(prompt.harmful), int(prompt.double_edged or not prompt.harmful)
    return {
        "id": name,
        "source": "world",
        "category": prompt.category,
        "harmful": prompt.harmful,
        "prompt": prompt.text,
        "chosen": chosen.text,
        "rejected": rejected.text,
        "chosen_severity": chosen.level * severity,
        "rejected_severity": rejected.level * severity,
        "chosen_helpfulness": chosen.level * helpfulness,
        "rejected_helpfulness": rejected.level * helpfulness,
    }


def training_pairs(count: int, drawing: Drawing) -> Iterator[dict]:
    """What a method may learn from: objects and templates marked as seen, labels with noise."""
    yield from preference_pairs("train", count, drawing, reserved=False, objects_seen=True, templates_seen=True)


def heldout_pairs(count: int, drawing: Drawing) -> Iterator[dict]:
    """Labelled like the training pairs, on reserved requests: what an annotation is checked on."""
    yield from preference_pairs("heldout", count, drawing, reserved=True, objects_seen=True, templates_seen=True)


def evaluation_pairs(name: str, count: int, drawing: Drawing) -> Iterator[dict]:
    """Pairs on the reserved requests of an evaluation set; their labels are the truth, whatever noise training has."""
    clean = Drawing(drawing.seed, length=drawing.length)
    yield from preference_pairs(name, count, clean, **grammar.of_evaluation(name))
