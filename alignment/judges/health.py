"""Can a judge be believed? Its verdicts against people's labels, another judge's, and what should play no part in them.

Agreement counts a verdict that couldn't be read as wrong. Every interval is a bootstrap over prompts: answers to the
same prompt are no independent evidence.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from alignment.judges.verdicts import Judge, Verdict
from alignment.maths.agreement import (
    agreement,
    bootstrap,
    class_agreement,
    cohen_kappa,
    f1,
    false_positive_rate,
    length_bias,
)
from alignment.maths.statistics import Interval
from alignment.types import StageFailed, UserError

CLASSES = {"toxic": ("safe", "unsafe"), "refusal": ("full_compliance", "partial_refusal", "full_refusal")}
REFUSALS = ("none", "partial", "full")


def health(verdicts: Sequence[Verdict], rows: Sequence[dict], seed: int = 0) -> dict[str, Any]:
    """Of verdicts on labelled rows (data/labelled_sets.py): for each thing that judge and people both speak of.

    toxic and refusal: agreement in all and by class, of harm or refusal against none (binary), F1 and false positive
    rate of what isn't class 0, the same by the score where there are scores, and length bias. UserError if the labels
    are about something else.
    """
    found: dict[str, Any] = {"rows": len(rows), "unparsed": _share([verdict.unparsed for verdict in verdicts])}
    for kind in CLASSES:
        labelled = [i for i, row in enumerate(rows) if row.get(kind) is not None]
        if labelled and _speaks_of([verdicts[i] for i in labelled], kind):
            chosen = [verdicts[i] for i in labelled], [rows[i] for i in labelled]
            found[kind] = _of_kind(kind, *chosen, np.random.default_rng(seed))
    if len(found) == 2:
        labels = " and ".join(kind for kind in CLASSES if any(row.get(kind) is not None for row in rows)) or "nothing"
        raise UserError("judge.calibration", f"its labels are about {labels}, and this judge's verdicts aren't",
                        "give a set with labels of the judge's kind")  # fmt: skip
    return found


def _of_kind(kind: str, verdicts: Sequence[Verdict], rows: Sequence[dict], generator: np.random.Generator) -> dict:
    said = np.array([_class(verdict, kind) for verdict in verdicts])
    true = np.array([_label(row, kind) for row in rows])
    lengths = np.array([float(len(row["response"])) for row in rows])
    scores = [_score(verdict, kind) for verdict in verdicts]

    def statistics(chosen: np.ndarray) -> dict[str, float | None]:
        here, there = said[chosen], true[chosen]
        values = {
            "agreement": agreement(here, there),
            "binary": agreement(np.sign(here), np.sign(there)),
            "f1": f1(here, there),
            "false_positive_rate": false_positive_rate(here, there),
            "length_bias": length_bias(lengths[chosen], here, there),
            "kappa": cohen_kappa(here, there),
        }
        return values | {f"class {name}": class_agreement(here, there, i) for i, name in enumerate(CLASSES[kind])}

    intervals = {name: _plain(interval) for name, interval in bootstrap(statistics, _prompts(rows), generator).items()}
    by_class = {name: intervals.pop(f"class {name}") for name in CLASSES[kind]}
    return {"rows": len(rows), **intervals, "by_class": by_class, **_ranking(scores, true > 0)}


def _ranking(scores: list[float | None], positive: np.ndarray) -> dict[str, float | None]:
    """How well the scores rank, over the rows that have one."""
    has = np.array([score is not None for score in scores], dtype=bool)
    known = np.array([score for score in scores if score is not None], dtype=float)
    if not has.any() or len(set(positive[has])) < 2:
        return {"auroc": None, "auprc": None}
    truth = positive[has]
    return {"auroc": float(roc_auc_score(truth, known)), "auprc": float(average_precision_score(truth, known))}


# ---- two judges -----------------------------------------------------------------------------------------------------


def kappa(first: Sequence[Verdict], second: Sequence[Verdict], prompts: Sequence, seed: int = 0) -> dict | None:
    """Cohen's kappa of two judges on the same answers, for what both speak of; None: nothing.

    Answers that one of them gave no verdict on are left out, and counted.
    """
    for kind in CLASSES:
        pairs = [(_class(a, kind), _class(b, kind)) for a, b in zip(first, second, strict=True)]
        read = [i for i, pair in enumerate(pairs) if min(pair) >= 0]
        if read and _speaks_of(first, kind) and _speaks_of(second, kind):
            here, there = (np.array([pairs[i][side] for i in read]) for side in (0, 1))
            clusters = _prompts([{"prompt": prompts[i]} for i in read])

            def statistics(chosen: np.ndarray, here=here, there=there) -> dict[str, float | None]:
                return {
                    "kappa": cohen_kappa(here[chosen], there[chosen]),
                    "agreement": agreement(here[chosen], there[chosen]),
                }

            found = bootstrap(statistics, clusters, np.random.default_rng(seed))
            return {
                "of": kind, "rows": len(read), "left_out": len(pairs) - len(read),
                **{name: _plain(interval) for name, interval in found.items()},
            }  # fmt: skip
    return None


# ---- position -------------------------------------------------------------------------------------------------------


def position_bias(judge: Judge, rows: Sequence[dict], count: int, seed: int = 0) -> dict | None:
    """Does it matter where in an answer the harm, or the refusal, stands?

    A harmful (or refusing) answer is joined with a harmless (or complying) one to another prompt, once before it and
    once after it: the joined text is what it is in either order, so a judge without this bias finds as many of both.
    The difference is first minus last. None: the labels have no such pair.
    """
    generator = np.random.default_rng(seed)
    for kind in CLASSES:
        high = [row for row in rows if row.get(kind) is not None and _label(row, kind) == len(CLASSES[kind]) - 1]
        low = [row for row in rows if row.get(kind) is not None and _label(row, kind) == 0]
        if not high or not low:
            continue
        pairs = [
            (high[i], low[j])
            for i, j in zip(
                generator.permutation(len(high))[:count], generator.integers(len(low), size=count), strict=False
            )
        ]
        prompts = [one["prompt"] for one, _ in pairs]
        before = judge(prompts, [f"{one['response']}\n\n{other['response']}" for one, other in pairs])
        after = judge(prompts, [f"{other['response']}\n\n{one['response']}" for one, other in pairs])
        if not _speaks_of([*before, *after], kind):
            continue
        found_first, found_last = (
            np.array([_class(verdict, kind) > 0 for verdict in verdicts]) for verdicts in (before, after)
        )

        def shares(drawn: np.ndarray, first: np.ndarray = found_first, last: np.ndarray = found_last) -> dict:
            shares = {"first": float(first[drawn].mean()), "last": float(last[drawn].mean())}
            return {**shares, "difference": shares["first"] - shares["last"]}

        intervals = bootstrap(shares, _prompts([high for high, _ in pairs]), generator)
        return {"of": kind, "pairs": len(pairs), **{name: _plain(value) for name, value in intervals.items()}}
    return None


# ---- what follows ---------------------------------------------------------------------------------------------------


def main_agreement(found: dict[str, Any]) -> float:
    """The agreement a judge is held to: on harm if it judges harm, else on refusal in its three classes."""
    return found["toxic" if "toxic" in found else "refusal"]["agreement"]["mean"]


def require_agreement(name: str, found: dict[str, Any], minimum: float | None, calibration: str) -> None:
    """StageFailed for a judge that agrees with people less often than is asked for."""
    if minimum is not None and main_agreement(found) < minimum:
        raise StageFailed(
            f"judge {name}",
            f"it agrees with {main_agreement(found):.3f} of the labels of {calibration}, under "
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
    """A judge of harm scores harm, whatever else it says."""
    return verdict.score if kind == "toxic" or verdict.toxic is None else None


def _speaks_of(verdicts: Sequence[Verdict], kind: str) -> bool:
    """Of a judge whose every answer was unreadable, nothing is known: it is held to whatever is asked."""
    read = [verdict for verdict in verdicts if not verdict.unparsed]
    return not read or any(getattr(verdict, kind) is not None for verdict in read)


def _prompts(rows: Sequence[dict]) -> np.ndarray:
    """(row,) numbers that rows with the same prompt share."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(repr(row["prompt"]), len(numbers)) for row in rows])


def _share(flags: list[bool]) -> float:
    return sum(flags) / len(flags) if flags else 0.0


def _plain(interval: Interval | None) -> dict | None:
    return None if interval is None else interval.summary
