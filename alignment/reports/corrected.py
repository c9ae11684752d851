"""How reports say what judges' errors do to rates: a row below the raw one, and why there is none."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from alignment.evaluation.vocabulary import KINDS, METRICS
from alignment.reports.tables import counted, with_interval

ORACLE = "oracle"  # of the world, which is never wrong
CORRECTED = "corrected"  # for what, HOW says below the table
NONE = "-"  # where there is no corrected figure, for a reason that stands below
HOW = (
    "corrected for the judge's errors: (raw + specificity - 1) / (sensitivity + specificity - 1), "
    "if it errs here as on those labels"
)
UNCORRECTED = "uncorrected for the judge's errors: {} (judge.calibration=do_not_answer, or a file, corrects them)"


class Judged(NamedTuple):
    """A raw rate of a judge. corrected: as judges/corrections.py has it; None if the judge was held against no labels
    of its kind."""

    judge: str
    kind: str
    corrected: Mapping[str, Any] | None


def judged(numbers: Iterable[Mapping[str, Any]]) -> list[Judged]:
    """Of the numbers of a report those that the errors of a judge move."""
    kinds = ((number, METRICS[number["metric"]].errors_of) for number in numbers)
    return [
        Judged(number["judge"], kind, number.get("corrected"))
        for number, kind in kinds
        if kind and number["judge"] != ORACLE and number["value"] is not None
    ]


def figure(corrected: Mapping[str, Any] | None, signed: bool = False, apart: str = " ") -> str:
    """A corrected figure in percent, with its interval."""
    if corrected is None:
        return ""
    if corrected["value"] is None:
        return NONE
    form = "+z.1f" if signed else "z.1f"
    return with_interval(corrected["value"], corrected["interval"], form, scale=100, apart=apart)


def is_shown(rates: Iterable[Mapping[str, Any] | None]) -> bool:
    """Is there a corrected rate among these to show?"""
    return any(rate is not None and rate["value"] is not None for rate in rates)


def notes(rates: Iterable[Judged], judges: Mapping[str, Mapping[str, Any]] | None = None) -> list[str]:
    """What a reader of these rates has to know of their judges' errors, a line each.

    judges: with their health, for the sensitivity and specificity of those that corrected; None: it stands elsewhere.
    """
    by_kind: dict[tuple[str, str], list] = {}
    for rate in rates:
        by_kind.setdefault((rate.judge, rate.kind), []).append(rate.corrected)
    names = {key: f"{KINDS[key[1]]} by {key[0]}" for key in by_kind}
    shown = [key for key, corrected in by_kind.items() if is_shown(corrected)]
    lines = [known(judges[key[0]]["health"], key[1], names[key]) for key in shown] if judges else []
    for key, corrected in by_kind.items():
        whys = dict.fromkeys(one["why_not"] for one in corrected if one is not None and one["why_not"])
        part = f"'{NONE}', no" if key in shown else "no"
        lines += [f"{part} corrected {names[key]}: {why}" for why in whys]
    if raw := [names[key] for key, corrected in by_kind.items() if None in corrected]:
        lines.append(UNCORRECTED.format(", ".join(raw)))
    return [*lines, HOW] if shown else lines


def known(health: Mapping[str, Any], kind: str, of: str) -> str:
    """What corrected a judge's rates: its sensitivity and specificity, and whose answers they are of."""
    errors, parts = health[kind]["errors"], ("sensitivity", "specificity")
    shares = [f"{part} {figure({'value': errors[part]['mean'], 'interval': errors[part]['ci95']})}" for part in parts]
    counts = " and ".join(counted(errors[part]["n"]) for part in parts)
    own = f", without {errors['left_out']} of judged models" if errors["left_out"] else ""
    return f"{of}, %: {', '.join(shares)} on {health['set']} (n = {counts}{own}){_other_threshold(health, kind)}"


def _other_threshold(health: Mapping[str, Any], kind: str) -> str:
    """Which threshold would be balanced on those answers, of a judge that can be given one."""
    if "threshold" not in health or kind != "toxic" or health[kind]["balanced"] is None:
        return ""
    at, used = health[kind]["balanced"]["threshold"], threshold_used(health["threshold"])
    return f"; its threshold: {used}, and {with_interval(at['mean'], at['ci95'], 'z.2f')} would be balanced on them"


def threshold_used(threshold: float | None) -> str:
    return "its own word" if threshold is None else f"{threshold:.2f}"
