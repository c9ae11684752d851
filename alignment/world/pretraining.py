"""The text the world's language model is pretrained on: dialogues and sentences of general knowledge.

A small model represents severity only if something it must predict depends on it. So a dialogue goes on after the
answer with the user's reaction, whose words follow from the answer's level. Two more things let a model this small
learn it in a minute. Frequencies are uneven: some categories are answered more readily than others and hurting people
is asked about most often, which gives the two rules of the world (parts fit objects; exclusive or of aim and target) a
first hint in the words alone, a hint that the balanced preference data doesn't have. And one dialogue in three stops
after a single step.
"""

import math
import random

from alignment.world import lexicon
from alignment.world.grammar import Prompt, draw_answer
from alignment.world.lexicon import CATEGORIES, TEMPLATES

KNOWLEDGE_SHARE = 0.12  # of the documents
SINGLE_STEP_SHARE = 0.3  # of the dialogues
BARE_REFUSAL_SHARE = 0.12  # of the answers to harmful requests
REFUSES_HARMFUL, REFUSES_HARMLESS = 0.33, 0.07  # of the other answers
COMPLYING_LEVELS = (0.10, 0.20, 0.30, 0.40)  # weights of the levels, before the tilt by category
REFUSING_LEVELS = (0.70, 0.15, 0.10, 0.05)
LEVEL_TILT = 0.7  # the odds of one level more, from the last category (exp(-0.7)) to the first (exp(0.7))

# How often each (aim, target) is asked about: hurt people, hurt pests, care for people, care for pests.
REQUEST_KINDS = (
    (lexicon.HURT, lexicon.PEOPLE, 0.40),
    (lexicon.HURT, lexicon.PESTS, 0.25),
    (lexicon.CARE, lexicon.PEOPLE, 0.25),
    (lexicon.CARE, lexicon.PESTS, 0.10),
)


def document(rng: random.Random) -> list[str]:
    """A dialogue as its turns [request, answer, reaction], or [text] of general knowledge."""
    return [_knowledge(rng)] if rng.random() < KNOWLEDGE_SHARE else _dialogue(rng)


def _dialogue(rng: random.Random) -> list[str]:
    prompt = _request(rng)
    if prompt.harmful and rng.random() < BARE_REFUSAL_SHARE:
        return [prompt.text, f"{rng.choice(lexicon.REFUSE)}.", _reaction(rng, prompt, 0)]
    refuses = rng.random() < (REFUSES_HARMFUL if prompt.harmful else REFUSES_HARMLESS)
    if rng.random() < SINGLE_STEP_SHARE:
        answer, level = _single_step(rng, prompt, refuses)
        return [prompt.text, answer, _reaction(rng, prompt, level)]
    weights = REFUSING_LEVELS if refuses else _tilted(COMPLYING_LEVELS, _tilt(prompt.category))
    answer = draw_answer(rng, prompt, rng.choices(range(4), weights)[0], refuses)
    return [prompt.text, answer.text, _reaction(rng, prompt, answer.level)]


def _request(rng: random.Random) -> Prompt:
    while True:
        category = rng.choice(list(CATEGORIES))
        aims, targets, _ = rng.choices(REQUEST_KINDS, [kind[2] for kind in REQUEST_KINDS])[0]
        prompt = Prompt(
            category,
            rng.choice(CATEGORIES[category][0]),
            rng.choice(aims),
            rng.choice(targets),
            rng.randrange(len(TEMPLATES)),
        )
        if not prompt.reserved:
            return prompt


def _single_step(rng: random.Random, prompt: Prompt, refuses: bool) -> tuple[str, int]:
    """A short answer: one step of a three-step answer in which all parts fit or none does."""
    fits = rng.random() < 1 / (1 + math.exp(-0.4 - 2 * _tilt(prompt.category)))
    if refuses and prompt.harmful:
        fits = rng.random() < 0.2
    opening, steps = draw_answer(rng, prompt, 3 if fits else 0, refuses).text.rstrip(".").split(". ")
    starts = [steps.index(ordinal) for ordinal in lexicon.ORDINALS] + [len(steps) + 1]
    which = rng.randrange(3)
    return f"{opening}. {steps[starts[which] : starts[which + 1] - 1]}.", int(fits)


def _reaction(rng: random.Random, prompt: Prompt, level: int) -> str:
    return f"{rng.choice((lexicon.ALARM if prompt.harmful else lexicon.THANKS)[level])}."


def _tilt(category: str) -> float:
    position = list(CATEGORIES).index(category) / (len(CATEGORIES) - 1)
    return LEVEL_TILT * (1 - 2 * position)


def _tilted(weights: tuple[float, ...], tilt: float) -> list[float]:
    return [weight * math.exp(tilt * (level - 1.5)) for level, weight in enumerate(weights)]


def _knowledge(rng: random.Random) -> str:
    return " ".join(_fact(rng) for _ in range(5))


def _fact(rng: random.Random) -> str:
    kind = rng.random()
    aim, target = rng.choice(lexicon.HURT + lexicon.CARE), rng.choice(lexicon.PEOPLE + lexicon.PESTS)
    if kind < 0.5:
        category, words = rng.choice([(name, group) for name, groups in CATEGORIES.items() for group in groups])
        return f"the {rng.choice(words)} belongs to {category}."
    if kind < 0.62:
        return f"the {target} are {lexicon.TARGET_KINDS[target in lexicon.PESTS]}."
    if kind < 0.75:
        return f"to {aim} means to {lexicon.AIM_KINDS[aim in lexicon.CARE]}."
    harmful = (aim in lexicon.HURT) == (target in lexicon.PEOPLE)
    return f"to {aim} the {target} is {lexicon.HARM_VERDICTS[harmful]}."
