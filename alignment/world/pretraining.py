"""The text the world's language model is pretrained on: dialogues and sentences of general knowledge.

A small model represents severity only if something it must predict depends on it. So a dialogue goes on after the
answer with the user's next turn, which holds a reaction to the answer's level. As in real text, the end of an answer
must mostly predict something else: the user takes up a part or an action of the answer, or its tone, before or without
saying what they feel.

Reactions are clear at first and blurred later on. While they are clear the model learns to read levels at all, which so
small a model does late and all at once. Blurred reactions then leave that reading a small part of the model's states,
as small as severity is in the states of real models.

Two more things let the model learn in a minute. Frequencies are uneven: some categories are answered more readily than
others and hurting people is asked about most often. This gives the two rules of the world (parts fit objects; exclusive
or of aim and target) a first hint in the words alone, which the balanced preference data doesn't give. And three
dialogues in ten stop after a single step.
"""

import math
import random
from dataclasses import dataclass

from alignment.world import lexicon
from alignment.world.grammar import Answer, Prompt, draw_answer, draw_shape
from alignment.world.lexicon import CATEGORIES, STYLES, TEMPLATES

KNOWLEDGE_SHARE = 0.2  # of the documents
SINGLE_STEP_SHARE = 0.3  # of the dialogues
BARE_REFUSAL_SHARE = 0.12  # of the answers to harmful requests
DOUBLE_EDGED_SHARE = 0.3  # of the requests to hurt pests
REFUSES_HARMFUL, REFUSES_HARMLESS = 0.33, 0.07  # shares of the answers that aren't bare refusals
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


@dataclass(frozen=True)
class Phase:
    """How the user's next turn is written in a part of the pretraining.

    openings: how often it begins with the reaction itself, or with an echo of the tone, a part or an action of the
    answer and then the reaction. clearness: the log-odds of a reaction to the answer's level against a reaction to the
    next level.
    """

    openings: dict[str, float]
    clearness: float


CLEAR = Phase({"reaction": 0.4, "tone": 0.1, "part": 0.35, "action": 0.15}, 4.0)
BLURRED = Phase({"reaction": 0.4, "tone": 0.2, "part": 0.25, "action": 0.15}, 0.35)


def document(rng: random.Random, phase: Phase) -> list[str]:
    """A dialogue as its turns [request, answer, next turn], or [text] of general knowledge."""
    return [_knowledge(rng)] if rng.random() < KNOWLEDGE_SHARE else _dialogue(rng, phase)


def _dialogue(rng: random.Random, phase: Phase) -> list[str]:
    prompt = _request(rng)
    if prompt.harmful and rng.random() < BARE_REFUSAL_SHARE:
        return [prompt.text, f"{rng.choice(lexicon.REFUSE)}.", f"{_reaction(rng, prompt, 0, phase)}."]
    refuses = rng.random() < (REFUSES_HARMFUL if prompt.harmful else REFUSES_HARMLESS)
    if rng.random() < SINGLE_STEP_SHARE:
        fits = rng.random() < (0.2 if refuses and prompt.harmful else 1 / (1 + math.exp(-0.4 - 2 * _tilt(prompt))))
        answer = draw_answer(rng, prompt, int(fits), refuses, draw_shape(rng, steps=1))
    else:
        weights = REFUSING_LEVELS if refuses else _tilted(COMPLYING_LEVELS, _tilt(prompt))
        answer = draw_answer(rng, prompt, rng.choices(range(4), weights)[0], refuses)
    return [prompt.text, answer.text, _next_turn(rng, prompt, answer, phase)]


def _request(rng: random.Random) -> Prompt:
    while True:
        category = rng.choice(list(CATEGORIES))
        aims, targets, _ = rng.choices(REQUEST_KINDS, [kind[2] for kind in REQUEST_KINDS])[0]
        edged = aims == lexicon.HURT and targets == lexicon.PESTS and rng.random() < DOUBLE_EDGED_SHARE
        prompt = Prompt(
            category,
            rng.choice(CATEGORIES[category][0]),
            rng.choice(aims),
            rng.choice(targets),
            rng.randrange(len(TEMPLATES)),
            rng.choice(lexicon.PEOPLE) if edged else None,
        )
        if not prompt.reserved:
            return prompt


def _next_turn(rng: random.Random, prompt: Prompt, answer: Answer, phase: Phase) -> str:
    words = {"reaction": (), "tone": STYLES[answer.style][2], "part": answer.parts, "action": answer.actions}
    taken_up = words[rng.choices(list(phase.openings), list(phase.openings.values()))[0]]
    return " ".join([*([rng.choice(taken_up)] if taken_up else []), _reaction(rng, prompt, answer.level, phase)]) + "."


def _reaction(rng: random.Random, prompt: Prompt, level: int, phase: Phase) -> str:
    weights = [math.exp(-phase.clearness * abs(felt - level)) for felt in range(4)]
    felt = rng.choices(range(4), weights)[0]
    alarmed = rng.random() < 0.5 if prompt.double_edged else prompt.harmful
    return rng.choice((lexicon.ALARM if alarmed else lexicon.THANKS)[felt])


def _tilt(prompt: Prompt) -> float:
    position = list(CATEGORIES).index(prompt.category) / (len(CATEGORIES) - 1)
    return LEVEL_TILT * (1 - 2 * position)


def _tilted(weights: tuple[float, ...], tilt: float) -> list[float]:
    return [weight * math.exp(tilt * (level - 1.5)) for level, weight in enumerate(weights)]


def _knowledge(rng: random.Random) -> str:
    return " ".join(_fact(rng) for _ in range(5))


def _fact(rng: random.Random) -> str:
    kind = rng.random()
    aim, target = rng.choice(lexicon.HURT + lexicon.CARE), rng.choice(lexicon.PEOPLE + lexicon.PESTS)
    if kind < 0.4:
        category, words = rng.choice([(name, group) for name, groups in CATEGORIES.items() for group in groups])
        return f"the {rng.choice(words)} belongs to {category}."
    if kind < 0.6:
        here, there = rng.choice(list(CATEGORIES)), rng.choice(list(CATEGORIES))
        there = here if rng.random() < 0.5 else there
        part, whole = rng.choice(CATEGORIES[there][1]), rng.choice(CATEGORIES[here][0])
        return f"the {part} in the {whole} is {lexicon.FIT_VERDICTS[here == there]}."
    if kind < 0.68:
        return f"the {target} are {lexicon.TARGET_KINDS[target in lexicon.PESTS]}."
    if kind < 0.76:
        return f"to {aim} means to {lexicon.AIM_KINDS[aim in lexicon.CARE]}."
    harmful = (aim in lexicon.HURT) == (target in lexicon.PEOPLE)
    return f"to {aim} the {target} is {lexicon.HARM_VERDICTS[harmful]}."
