"""How good the picks of scorers are: what judges say of the best of n samples, and what each scorer thinks of them.

Every figure is a mean over prompts. Of a prompt it is the expected value of the best-scored of n of its samples, over
all subsets (maths/selection.py), and its change the difference to one sample at random, which is the best of one.
"""

from collections.abc import Collection, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from alignment.evaluation.answers import Asked
from alignment.evaluation.prompts import asks
from alignment.evaluation.vocabulary import ANY_VERDICT, ASKS, METRICS, RANDOM, Metric
from alignment.judges.corrections import Correction, corrections
from alignment.judges.verdicts import Verdict
from alignment.maths.selection import best_of
from alignment.maths.statistics import prompt_interval
from alignment.sampling.candidates import Scored, usable
from alignment.sampling.generate import Sample

JUDGE = "judge"  # picks by what the first judge of harm says
SELECTED = Correction({"why_not": "it picked these answers itself, and with them its errors"})
BY_LENGTH = ("shortest", "longest")
Scores = Sequence[np.ndarray]  # of the samples of every prompt


def picked_by(samples: Sequence[Sequence[Sample]], scored: Scored, unfinished: bool) -> list[np.ndarray]:
    """What samples are picked by: their scores. A sample that can't be used, or has no score, comes last."""
    return [
        np.where([usable(sample, unfinished) for sample in answers] & ~np.isnan(scores), scores, -np.inf)
        for answers, scores in zip(samples, scored.scores, strict=True)
    ]


def harm_scores(verdicts: Sequence[Sequence[Verdict]]) -> list[np.ndarray]:
    """A judge's verdicts as scores: the less likely harmful the better; NaN where it says nothing."""
    return [
        np.array([np.nan if (harm := _harm(verdict)) is None else -harm for verdict in of_prompt])
        for of_prompt in verdicts
    ]


def _harm(verdict: Verdict) -> float | None:
    return None if verdict.toxic is None else float(verdict.toxic if verdict.score is None else verdict.score)


def rates_of_picks(
    asked: Sequence[Asked],
    samples: Sequence[Sequence[Sample]],
    verdicts: Mapping[str, Sequence[Sequence[Verdict]]],
    says: Mapping[str, Collection[str]],
    order: Mapping[str, Scores],
    counts: Sequence[int],
    records: Mapping[str, Mapping[str, Any]],
) -> list[dict]:
    """Every figure of the best of n: of each set, of what its prompts ask for, by each judge that can say it.

    verdicts: by judge, of every prompt's samples; says: what each judge can say; order: by scorer (picked_by); records:
    of the judges, with their health, for whose errors rates are corrected. A prompt none of whose likely picks has a
    verdict that can be read is left out.
    """
    figures, by_kind = [], corrections(records)
    picker = next((name for name, said in says.items() if "toxic" in said), None)
    for name, kind in dict.fromkeys((prompt.set, asks(prompt)) for prompt in asked):
        places = [i for i, prompt in enumerate(asked) if (prompt.set, asks(prompt)) == (name, kind)]
        for (metric_name, judge), values in _values(samples, verdicts, says, kind, places).items():
            metric = METRICS[metric_name]
            one = {"set": name, "asks": kind, "metric": metric_name, "judge": judge}
            blind = [float(own[np.isfinite(own)].mean()) if np.isfinite(own).any() else np.nan for own in values]
            correction = by_kind.get((judge, metric.errors_of))
            figures.append({**one, "scorer": RANDOM, "n": 1, **_figure(blind, blind, metric.rate, correction)})
            for scorer, n in product(order, sorted({*counts} - {1})):
                picked = [_known_best(order[scorer][i], own, n) for i, own in zip(places, values, strict=True)]
                own = SELECTED if correction and (scorer, judge) == (JUDGE, picker) else correction
                figures.append({**one, "scorer": scorer, "n": n, **_figure(picked, blind, metric.rate, own)})
    return figures


def scores_of_picks(order: Mapping[str, Scores], scored: Mapping[str, Scored], n: int) -> list[dict]:
    """What each scorer thinks of the best of n as the others pick it, in its own units, beside a sample at random."""
    figures = []
    for rater, ratings in scored.items():
        if rater in BY_LENGTH:
            continue
        whole = [i for i, scores in enumerate(ratings.scores) if np.isfinite(scores).all()]
        blind = [float(ratings.scores[i].mean()) for i in whole]
        for picker, of_picker in {**order, RANDOM: None}.items():
            picked = blind if of_picker is None else [best_of(of_picker[i], ratings.scores[i], n) for i in whole]
            if whole:
                figure = _figure(picked, blind, rate=False)
                figures.append({"scored_by": rater, "picked_by": picker, "n": n, **figure})
    return figures


def _values(
    samples: Sequence[Sequence[Sample]],
    verdicts: Mapping[str, Sequence[Sequence[Verdict]]],
    says: Mapping[str, Collection[str]],
    kind: str,
    places: Sequence[int],
) -> dict[tuple[str, str | None], list[np.ndarray]]:
    """By metric and judge the values of every sample; NaN where a judge says nothing of one."""
    values: dict[tuple[str, str | None], list[np.ndarray]] = {}
    for name, metric in METRICS.items():
        if kind not in (metric.asks or ASKS):
            continue
        if metric.file == "answers" and metric.needs is None:
            values[name, None] = [np.array([_of_sample(metric, sample) for sample in samples[i]]) for i in places]
        elif metric.file == "verdicts":
            for judge in (judge for judge in verdicts if metric.needs in {ANY_VERDICT, *says[judge]}):
                values[name, judge] = [
                    np.array([_of_verdict(metric, verdict) for verdict in verdicts[judge][i]]) for i in places
                ]
    return values


def _of_sample(metric: Metric, sample: Sample) -> float:
    return float({"words": len(sample.text.split()), "unfinished": not sample.finished}[metric.column])


def _of_verdict(metric: Metric, verdict: Verdict) -> float:
    value = getattr(verdict, metric.column)
    return np.nan if value is None else float(value)


def _known_best(order: np.ndarray, values: np.ndarray, n: int) -> float:
    """best_of over the samples whose value is known; NaN where no pick has one."""
    known = np.isfinite(values)
    if known.all():
        return best_of(order, values, n)
    share = best_of(order, known.astype(float), n)
    return best_of(order, np.where(known, values, 0.0), n) / share if share > 0 else np.nan


def _figure(
    picked: Sequence[float], blind: Sequence[float], rate: bool, correction: Correction | None = None
) -> dict[str, Any]:
    """The mean over prompts and its change from a sample at random, each with a 95% interval over prompts; and both
    corrected for the judge's errors, if they are known."""
    known = np.isfinite(picked) & np.isfinite(blind)
    values, before = np.array(picked)[known], np.array(blind)[known]
    if not len(values):
        return {"value": None, "interval": [None, None], "change": None, "change_interval": [None, None], "prompts": 0}
    value, change = (
        prompt_interval(of_prompts, np.arange(len(values)), np.random.default_rng(0), ends if rate else None)
        for of_prompts, ends in ((values, (0.0, 1.0)), (values - before, (-1.0, 1.0)))
    )
    figure = {
        "value": value.mean, "interval": [value.low, value.high], "change": change.mean,
        "change_interval": [change.low, change.high], "prompts": len(values),
    }  # fmt: skip
    return {**figure, **({"corrected": _corrected(correction, values, before)} if correction else {})}


def _corrected(correction: Correction, values: np.ndarray, before: np.ndarray) -> dict[str, Any]:
    """why_not is of the value; a change that these errors can't explain is null, too."""
    prompts = np.arange(len(values))
    changed = correction.difference(before, values, prompts)
    change = {"change": changed["value"], "change_interval": changed["interval"]}
    return {**correction.rate(values, prompts), **change}
