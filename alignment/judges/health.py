"""How far a judge can be believed: its agreement with people's labels and with another judge, and its biases.

Agreement counts a verdict that couldn't be read as wrong. Every figure has its interval (maths/statistics.py), over
prompts where some have several answers, and n, the rows it is of.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from alignment.judges.corrections import OWN, judge_errors
from alignment.judges.verdicts import REFUSAL_WORDS, Judge, Verdict
from alignment.maths.agreement import (
    cohen_kappa,
    f1,
    length_bias,
)
from alignment.maths.answer_probabilities import balanced_threshold
from alignment.maths.paired import paired_difference
from alignment.maths.statistics import bootstrap, rate_interval
from alignment.types import StageFailed, UserError

REFUSALS = tuple(REFUSAL_WORDS)
CLASSES = {"toxic": ("safe", "unsafe"), "refusal": tuple(REFUSAL_WORDS.values())}


def health(verdicts: Sequence[Verdict], rows: Sequence[dict], seed: int = 0) -> dict[str, Any]:
    """The figures of a judge's verdicts on labelled rows (data/labelled_sets.py), on harm and on refusal.

    Each of the two, if both labels and verdicts are about it, has: agreement in all, by class, and between class 0 and
    all others (binary); F1 and false positive rate, where every class but 0 is positive; how well scores rank, where
    there are scores, and from which of them on a verdict of harm would be balanced; and length bias. UserError if the
    labels are about neither harm nor refusal as the judge sees it.
    """
    unparsed = [verdict.unparsed for verdict in verdicts]
    figures: dict[str, Any] = {"rows": len(rows), "unparsed": sum(unparsed) / len(unparsed) if unparsed else 0.0}
    for kind in CLASSES:
        labelled = [i for i, row in enumerate(rows) if row.get(kind) is not None]
        if labelled and _speaks_of([verdicts[i] for i in labelled], kind):
            chosen = [verdicts[i] for i in labelled], [rows[i] for i in labelled]
            figures[kind] = _figures_on(kind, *chosen, np.random.default_rng(seed))
    if len(figures) == 2:
        labels = " and ".join(kind for kind in CLASSES if any(row.get(kind) is not None for row in rows)) or "nothing"
        raise UserError("judge.calibration", f"its labels are about {labels}, and this judge's verdicts aren't",
                        "give a set with labels of the judge's kind")  # fmt: skip
    return figures


def _figures_on(kind: str, verdicts: Sequence[Verdict], rows: Sequence[dict], generator: np.random.Generator) -> dict:
    all_judged = np.array([_class(verdict, kind) for verdict in verdicts])
    all_true = np.array([_label(row, kind) for row in rows])
    lengths = np.array([float(len(row["response"])) for row in rows])
    scores = [_score(verdict, kind) for verdict in verdicts]
    own = np.array([row.get(OWN, False) for row in rows])
    harm = np.array([np.nan if score is None else score for score in scores], dtype=float)
    ranked = ~np.isnan(harm) & ~own if kind == "toxic" else np.zeros(len(rows), dtype=bool)

    def balanced(drawn: np.ndarray) -> dict[str, float | None]:
        used = drawn[ranked[drawn]]
        both = len(np.unique(all_true[used])) == 2
        return {"threshold": balanced_threshold(harm[used], all_true[used] > 0) if both else None}

    def statistics(drawn: np.ndarray) -> dict[str, float | None]:
        judged, true = all_judged[drawn], all_true[drawn]
        return {
            "f1": f1(judged, true),
            "length_bias": length_bias(lengths[drawn], judged, true),
            "kappa": cohen_kappa(judged, true),
        }

    prompts = _prompt_numbers([row["prompt"] for row in rows])
    right, harmless = all_judged == all_true, all_true == 0

    def share(hits: np.ndarray, of: np.ndarray) -> dict | None:
        return _share(hits[of], prompts[of], generator)

    def at_balance() -> dict | None:
        """From where on both kinds' F1 would be balanced on these rows, and what would be called right there."""
        found = _bootstrapped(balanced, prompts, generator)["threshold"]
        if found is None:
            return None
        said = harm >= found["mean"]
        return {
            "threshold": {**found, "n": int(ranked.sum())},
            "sensitivity": share(said, ranked & (all_true > 0)),
            "specificity": share(~said, ranked & (all_true == 0)),
        }

    every = np.ones(len(rows), dtype=bool)
    return {
        "rows": len(rows),
        "agreement": share(right, every),
        "binary": share(np.sign(all_judged) == np.sign(all_true), every),
        "false_positive_rate": share(all_judged > 0, harmless),
        **_bootstrapped(statistics, prompts, generator),
        "by_class": {name: share(right, all_true == i) for i, name in enumerate(CLASSES[kind])},
        **_ranking(scores, all_true > 0),
        "errors": judge_errors(all_judged, all_true, prompts, own),
        "balanced": at_balance(),
    }


def _ranking(scores: list[float | None], positive: np.ndarray) -> dict[str, float | None]:
    """How well the scores rank, over the rows that have one."""
    scored = np.array([score is not None for score in scores], dtype=bool)
    known = np.array([score for score in scores if score is not None], dtype=float)
    truth = positive[scored]
    if len(set(truth)) < 2:
        return {"auroc": None, "auprc": None}
    return {"auroc": float(roc_auc_score(truth, known)), "auprc": float(average_precision_score(truth, known))}


# ---- two judges -----------------------------------------------------------------------------------------------------


def kappa(first: Sequence[Verdict], second: Sequence[Verdict], prompts: Sequence, seed: int = 0) -> dict | None:
    """Cohen's kappa of two judges on the same answers, on harm or else on refusal; None if they don't both judge it.

    Answers on which one of them gave no verdict are left out, and counted.
    """
    for kind in CLASSES:
        pairs = np.array([(_class(a, kind), _class(b, kind)) for a, b in zip(first, second, strict=True)])
        read = [i for i, pair in enumerate(pairs) if min(pair) >= 0]
        if read and _speaks_of(first, kind) and _speaks_of(second, kind):
            columns = pairs[read].T

            def statistics(drawn: np.ndarray, columns: np.ndarray = columns) -> dict[str, float | None]:
                return {"kappa": cohen_kappa(*columns[:, drawn])}

            random, clusters = np.random.default_rng(seed), _prompt_numbers([prompts[i] for i in read])
            figures = {
                **_bootstrapped(statistics, clusters, random),
                "agreement": _share(columns[0] == columns[1], clusters, random),
            }
            return {"of": kind, "rows": len(read), "left_out": len(pairs) - len(read), **figures}
    return None


# ---- position -------------------------------------------------------------------------------------------------------


def position_bias(judge: Judge, rows: Sequence[dict], count: int, seed: int = 0) -> dict | None:
    """How often a judge sees the harm, or the refusal, at the beginning of an answer, and how often at its end.

    A harmful (or refusing) answer is joined with a harmless (or complying) one to another prompt, once before it and
    once after it. The joined text is as harmful in either order, so a judge without this bias finds as many of both.
    The difference is first minus last. None: the labels have no such pair.
    """
    generator = np.random.default_rng(seed)
    for kind in CLASSES:
        high = [row for row in rows if row.get(kind) is not None and _label(row, kind) == len(CLASSES[kind]) - 1]
        low = [row for row in rows if row.get(kind) is not None and _label(row, kind) == 0]
        if not high or not low:
            continue
        harmful = [high[i] for i in generator.permutation(len(high))[:count]]
        harmless = [low[i] for i in generator.integers(len(low), size=count)]
        texts = [(a["response"], b["response"]) for a, b in zip(harmful, harmless, strict=False)]
        prompts = [row["prompt"] for row in harmful]
        before = judge(prompts, [f"{harm}\n\n{rest}" for harm, rest in texts])
        after = judge(prompts, [f"{rest}\n\n{harm}" for harm, rest in texts])
        if not _speaks_of([*before, *after], kind):
            continue
        first, last = ([_class(verdict, kind) > 0 for verdict in verdicts] for verdicts in (before, after))
        seen, numbers = np.array([last, first], dtype=float), _prompt_numbers(prompts)
        shares = {name: _share(hits, numbers, generator) for name, hits in zip(("last", "first"), seen, strict=True)}
        difference = paired_difference(*seen, numbers, generator)
        return {"of": kind, "pairs": len(texts), **shares, "difference": {**difference.summary, "n": len(texts)}}
    return None


# ---- what is asked of a judge ---------------------------------------------------------------------------------------


def main_agreement(figures: dict[str, Any]) -> float:
    """The agreement that a judge must reach: on harm if it judges harm, else on refusal in its three classes."""
    return figures["toxic" if "toxic" in figures else "refusal"]["agreement"]["mean"]


def require_agreement(name: str, figures: dict[str, Any], minimum: float | None, calibration: str) -> None:
    """StageFailed for a judge that agrees with people less often than is asked for."""
    if minimum is not None and main_agreement(figures) < minimum:
        raise StageFailed(
            f"judge {name}",
            f"it agrees with {100 * main_agreement(figures):.1f}% of the labels of {calibration}, under "
            f"judge.minimum_agreement={minimum:g}",
            "choose another judge, or lower what is asked of it",
        )


# ---- verdicts and labels as numbers ---------------------------------------------------------------------------------


def _class(verdict: Verdict, kind: str) -> int:
    value = getattr(verdict, kind)
    if verdict.unparsed or value is None:
        return -1
    return int(value) if kind == "toxic" else REFUSALS.index(value)


def _label(row: dict, kind: str) -> int:
    return int(row[kind]) if kind == "toxic" else REFUSALS.index(row[kind])


def _score(verdict: Verdict, kind: str) -> float | None:
    """The score on this kind: the score of a judge of harm is of harm, whatever else it judges."""
    return verdict.score if kind == "toxic" or verdict.toxic is None else None


def _speaks_of(verdicts: Sequence[Verdict], kind: str) -> bool:
    """Are any verdicts about this kind? If none could be read, nobody knows, and they count as such."""
    read = [verdict for verdict in verdicts if not verdict.unparsed]
    return not read or any(getattr(verdict, kind) is not None for verdict in read)


def _prompt_numbers(prompts: Sequence) -> np.ndarray:
    """(row,) numbers that are equal for equal prompts."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(repr(prompt), len(numbers)) for prompt in prompts])


def _share(hits: np.ndarray, prompts: np.ndarray, generator: np.random.Generator) -> dict | None:
    """The share of hits with its interval and n; None where there is no row."""
    return {**rate_interval(hits.astype(float), prompts, generator).summary, "n": len(hits)} if len(hits) else None


def _bootstrapped(
    statistics: Callable[[np.ndarray], dict[str, float | None]], prompts: np.ndarray, generator: np.random.Generator
) -> dict[str, dict | None]:
    intervals = bootstrap(statistics, prompts, generator)
    return {name: interval and {**interval.summary, "n": len(prompts)} for name, interval in intervals.items()}
