"""What a judge gets wrong on labelled answers of other models, and the rates it found corrected for that.

The arithmetic is that of maths/prevalence.py. Sensitivity and specificity are of verdicts that could be read, as the
rates are. A labelled answer of a model that is judged itself is left out: it is no other evidence.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from alignment.maths.prevalence import Errors, corrected_difference, corrected_rate, counted_by_prompt
from alignment.maths.statistics import Interval

OWN = "own"  # of a labelled row: it is an answer of a model that is judged
SEED, LABELS_SEED = 0, 1
SHORTEST = 3  # letters that a model's name has to have, to be found in another's
BEYOND = "its errors on the labels hardly explain so few or so many, and may not hold here"


def is_of(source: str, models: Collection[str]) -> bool:
    """Is a labelled set's answer, by its source, one of these models'? Names are compared without punctuation, and one
    may hold the other: `llama2-7b-chat` is Llama-2-7b-chat-hf, and in doubt an answer is left out."""
    _, _, model = source.partition("/")
    names = [(_plain(model), _plain(other.rpartition("/")[2])) for other in models]
    return any(min(map(len, pair)) >= SHORTEST and (pair[0] in pair[1] or pair[1] in pair[0]) for pair in names)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())


def judge_errors(
    judged: Int[np.ndarray, " row"],
    true: Int[np.ndarray, " row"],
    prompts: Int[np.ndarray, " row"],
    own: Bool[np.ndarray, " row"],
) -> dict[str, Any]:
    """Sensitivity and specificity of telling class 0 from all others (-1: not read), and what corrections need.

    by_prompt: what was said and is true, for all prompts that are alike (prevalence.counted_by_prompt); left_out: rows
    of models that are judged; why_not: why no rate can be corrected, or None.
    """
    figures = {"sensitivity": None, "specificity": None, "youden": None, "by_prompt": [], "left_out": int(own.sum())}
    used = (judged >= 0) & ~own
    if not used.any():
        why = "all labelled answers are of models that are judged" if own.all() else "none of its verdicts can be read"
        return {**figures, "why_not": why}
    figures["by_prompt"] = counted_by_prompt(judged[used] > 0, true[used] > 0, prompts[used])
    errors = _errors(figures)
    if errors.youden is None:
        return {**figures, "why_not": f"no labelled answer {'is without it' if errors.counts[0] else 'has it'}"}
    for name, n in zip(("sensitivity", "specificity", "youden"), (*errors.counts, sum(errors.counts)), strict=True):
        figures[name] = {**getattr(errors, name).summary, "n": n}
    return {**figures, "why_not": None if errors.informative else _uninformative(errors.youden)}


def _errors(figures: Mapping[str, Any]) -> Errors:
    """With the same draws wherever they are used."""
    return Errors(figures["by_prompt"], np.random.default_rng(LABELS_SEED))


def _uninformative(youden: Interval) -> str:
    if youden.low is None:
        return "its sensitivity or its specificity is known from a single prompt"
    ends = f"[{youden.low:z.2f}, {youden.high:z.2f}]"
    return f"sensitivity + specificity - 1 is {youden.mean:z.2f} {ends}, not clearly above 0"


class Correction:
    """Corrects what one judge found, on harm or on refusals. figures: of judge_errors."""

    def __init__(self, figures: Mapping[str, Any]) -> None:
        self.why_not: str | None = figures["why_not"]
        self._errors = None if self.why_not else _errors(figures)

    def rate(self, values: Float[np.ndarray, " answer"], prompts: Int[np.ndarray, " answer"]) -> dict[str, Any]:
        """The rate of answers as reports have it: value, interval, and why_not where there is neither."""
        if self._errors is None:
            return _found(None, self.why_not)
        return _found(corrected_rate(values, prompts, self._errors, np.random.default_rng(SEED)))

    def difference(
        self,
        before: Float[np.ndarray, " answer"],
        after: Float[np.ndarray, " answer"],
        prompts: Int[np.ndarray, " answer"],
    ) -> dict[str, Any]:
        """Likewise of a difference between answers to the same prompts."""
        if self._errors is None:
            return _found(None, self.why_not)
        return _found(corrected_difference(before, after, prompts, self._errors, np.random.default_rng(SEED)))


def _found(interval: Interval | None, why_not: str | None = BEYOND) -> dict[str, Any]:
    if interval is None:
        return {"value": None, "interval": [None, None], "why_not": why_not}
    return {"value": interval.mean, "interval": [interval.low, interval.high], "why_not": None}


def corrections(judges: Mapping[str, Mapping[str, Any]]) -> dict[tuple[str, str], Correction]:
    """By judge and kind, of all that were held against labels. judges: by name, with their `health`."""
    return {
        (name, kind): Correction(figures["errors"])
        for name, judge in judges.items()
        for kind, figures in (judge.get("health") or {}).items()
        if isinstance(figures, dict) and "errors" in figures
    }
