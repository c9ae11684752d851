"""Answers that were cut off at the limit of new tokens: what of them is used, and pilots that see if too many are.

Sampling takes most of a run's time, and a limit that is too low for a model shows only in what comes out of it.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from alignment.maths.statistics import rate_interval
from alignment.sampling.candidates import Question, usable
from alignment.sampling.generate import Sample
from alignment.types import Unfinished, UserError

PILOT = 16  # prompts that are answered before all others, where there are more than twice as many
MANY = 0.25  # of the answers: more that are cut off are worth a word
_END = re.compile(r"(?:[.!?…][\"'”’»)\]*_`]*(?=\s|$))|[。！？][”’」』）]*")
# before the period of "e.g.", "Dr." and of "2." in a list; not of "I can't."
_NO_END = re.compile(r"(?:(?<![\w'’])[^\W\d]|\b(?:Mr|Mrs|Ms|Dr|Prof|St|vs)|^\s*\d+)$", re.MULTILINE)


def whole_sentences(text: str) -> str:
    """The text up to the end of its last whole sentence; empty if it has none."""
    ends = [found.end() for found in _END.finditer(text) if _is_end(text, found)]
    return text[: ends[-1]] if ends else ""


def _is_end(text: str, found: re.Match) -> bool:
    before = text[: found.start()]
    if found[0][0] != ".":
        return True
    return not _NO_END.search(before) and not (before[-1:].isdigit() and found.end() == len(text))  # "3." of 3.14


def as_used(samples: Sequence[Sequence[Sample]], unfinished: Unfinished) -> list[list[Sample]]:
    """What is ranked and paired of samples: under "sentence", one that was cut off ends with its last whole sentence,
    and counts as finished there."""
    return [[_in_sentences(sample) if unfinished == "sentence" else sample for sample in own] for own in samples]


def _in_sentences(sample: Sample) -> Sample:
    text = "" if sample.finished else whole_sentences(sample.text)
    return replace(sample, text=text, finished=True) if text else sample


def cut_share(samples: Sequence[Sequence[Sample]]) -> float:
    every = [sample for own in samples for sample in own]
    return sum(not sample.finished for sample in every) / len(every)


def _in_words(samples: Sequence[Sequence[Sample]]) -> str:
    """What share of a pilot's answers was cut off, with its interval over prompts: a pilot is small."""
    cut = np.array([not sample.finished for own in samples for sample in own], dtype=float)
    prompts = np.repeat(np.arange(len(samples)), [len(own) for own in samples])
    _, low, high = rate_interval(cut, prompts, np.random.default_rng(0))
    return f"{cut.mean():.1%} [{100 * low:.0f}, {100 * high:.0f}] of their answers are cut off"


def remedies(limit: str, unfinished: Unfinished) -> str:
    """The settings that make more of the answers usable. limit: the setting that cuts them, with its value."""
    other = "build_pairs.unfinished=sentence, which ends them at their last whole sentence"
    key = limit.partition("=")[0]
    return f"raise {key}" if unfinished else f"raise {key}, or set {other}"


def sample_after_pilot(
    sample: Callable[[Sequence[Question], str], list[list[Sample]]],
    questions: Sequence[Question],
    limit: str,
    unfinished: Unfinished,
    say: Callable[[str], None],
) -> list[list[Sample]]:
    """The samples of every question, of a few of them first: UserError if these are cut off so often that fewer than
    half would give a pair. sample: answers questions, in the folder it is given; no question is answered twice.
    """

    def settle(tried: list[list[Sample]]) -> None:
        enough = sum(sum(usable(one, bool(unfinished)) for one in own) > 1 for own in as_used(tried, unfinished))
        share = cut_share(tried)
        found = f"{PILOT} prompts tried first: {_in_words(tried)} ({limit}), two can be used of {enough} prompts"
        if 2 * enough < PILOT and share > 0:
            raise UserError("build_pairs", found, remedies(limit, unfinished))
        say(f"  {found}" + (f"; {remedies(limit, unfinished)}" if share > MANY else ""))

    return _with_pilot(sample, questions, settle)


def answer_after_pilot(
    sample: Callable[[Sequence[Question], str], list[list[Sample]]],
    questions: Sequence[Question],
    limit: str,
    say: Callable[[str], None],
    what: str,
) -> list[list[Sample]]:
    """The answers to every question, which are judged as they are; said while it can still be changed, if many of the
    first ones are cut off. what: whose they are."""

    def tell(tried: list[list[Sample]]) -> None:
        if cut_share(tried) > MANY:
            found = f"{PILOT} prompts tried first: {_in_words(tried)} ({limit}), and judged as they are"
            say(f"  {what}: {found}; raise {limit.partition('=')[0]}")

    return _with_pilot(sample, questions, tell)


def _with_pilot(
    sample: Callable[[Sequence[Question], str], list[list[Sample]]],
    questions: Sequence[Question],
    look: Callable[[list[list[Sample]]], None],
) -> list[list[Sample]]:
    """The samples of every question; `look` sees those of a few before the others are made, if there are enough."""
    if len(questions) <= 2 * PILOT:
        return sample(questions, "samples")
    first = [number * len(questions) // PILOT for number in range(PILOT)]  # from all over the data, which may be sorted
    tried = sample([questions[i] for i in first], "pilot")
    look(tried)
    rest = sorted(set(range(len(questions))) - set(first))
    answered = dict(zip(first, tried, strict=True))
    answered |= zip(rest, sample([questions[i] for i in rest], "samples"), strict=True)
    return [answered[i] for i in range(len(questions))]
