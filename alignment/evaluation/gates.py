"""Thresholds of a scorecard, for use in CI: a missed one ends the command with exit code 3.

Each holds for every set and judge by itself, and for the figure as measured, not for the end of its interval.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from alignment.evaluation.vocabulary import METRICS, Metric
from alignment.types import UserError

KEY = "scorecard.gate"
MOST_UNREAD = 0.05  # of verdicts, where a gate is on what they say and max_unparsed isn't set


@dataclass(frozen=True)
class Gate:
    """metric: of the card. most: is the limit the largest value allowed? change: of the difference to before?"""

    metric: str
    most: bool
    change: bool = False


def gates_of(metrics: Mapping[str, Metric]) -> dict[str, Gate]:
    """All that there can be: max_ and _increase on what should be low, min_ and _change on what should be high."""
    gates: dict[str, Gate] = {}
    for name, metric in metrics.items():
        if metric.more_is_better is not None:
            side, change = ("min", "change") if metric.more_is_better else ("max", "increase")
            gates[f"{side}_{name}"] = Gate(name, not metric.more_is_better)
            gates[f"{side}_{name.removesuffix('_rate')}_{change}"] = Gate(name, not metric.more_is_better, change=True)
    return gates


GATES = gates_of(METRICS)
OF_VERDICTS = {name for name, metric in METRICS.items() if metric.file == "verdicts"} - {"unparsed"}


def limits(settings: Mapping[str, float | None]) -> dict[str, float]:
    """The gates that are set; UserError for one that makes no sense."""
    found = {name: value for name, value in settings.items() if value is not None}
    for name, value in found.items():
        low = -1 if GATES[name].change else 0
        if METRICS[GATES[name].metric].rate and not low <= value <= 1:
            raise UserError(f"{KEY}.{name}", f"{value} is out of range", f"give a number between {low} and 1")
    return found


def require_measured(settings: Mapping[str, float | None], measured: Collection[str], change: bool, why: str) -> None:
    """Refuses a gate on what won't be measured. change: are there two models to compare?"""
    for name in limits(settings):
        gate = GATES[name]
        if gate.metric not in measured:
            problem = f"nothing here measures {gate.metric} ({why})"
            raise UserError(f"{KEY}.{name}", problem, METRICS[gate.metric].remedy)
        if gate.change and not change:
            raise UserError(f"{KEY}.{name}", "there is one model, and nothing to compare it with", "leave it out")


def checked(settings: Mapping[str, float | None], numbers: Sequence[dict], differences: Sequence[dict]) -> list[dict]:
    """Every gate that is set, at every figure it holds for. One that holds for none is missed: nothing was measured."""
    found = []
    for name, limit in limits(settings).items():
        gate = GATES[name]
        entries = differences if gate.change else numbers
        met = [one for one in entries if one["metric"] == gate.metric and one["category"] is None and one["gated"]]
        for one in met:
            passed = one["value"] <= limit if gate.most else one["value"] >= limit
            where = {key: one[key] for key in ("system", "set", "judge")}
            found.append({"gate": name, "limit": limit, "value": one["value"], **where, "passed": passed})
        if not met:
            nowhere = {"system": None, "set": None, "judge": None, "value": None}
            found.append({"gate": name, "limit": limit, **nowhere, "passed": False})
    return found + (_unread(limits(settings), numbers) if settings.get("max_unparsed") is None else [])


def _unread(limited: Mapping[str, float], numbers: Sequence[dict]) -> list[dict]:
    """max_unparsed as missed by every judge a gate listens to that couldn't be read too often: rates are of the rest.

    A judge that says something else is not listened to; one of which nothing could be read may have meant anything.
    """
    gated = [GATES[name] for name in limited if GATES[name].metric in OF_VERDICTS]
    if not gated:
        return []
    says: dict[str, set[str]] = {}
    for one in numbers:
        if one["judge"]:
            says.setdefault(one["judge"], set()).add(one["metric"])
    heard = {
        judge for judge, said in says.items() if said == {"unparsed"} or said & {gate.metric for gate in gated}
    }  # fmt: skip
    both = any(gate.change for gate in gated)  # a change is as uncertain as either end of it
    return [
        {
            "gate": "max_unparsed", "limit": MOST_UNREAD, "value": one["value"], "system": one["system"],
            "set": one["set"], "judge": one["judge"], "passed": False,
        }
        for one in numbers
        if one["metric"] == "unparsed" and one["category"] is None and (one["gated"] or both)
        and one["judge"] in heard and one["value"] > MOST_UNREAD
    ]  # fmt: skip


def missed(gates: Sequence[dict]) -> list[str]:
    """A line for every gate that was missed."""
    return [_line(one) for one in gates if not one["passed"]]


def _line(gate: dict) -> str:
    name, kind = gate["gate"], GATES[gate["gate"]]
    if gate["value"] is None:
        return f"{KEY}.{name}={gate['limit']:g} is missed: {kind.metric} was not measured"
    judge = f" by {gate['judge']}" if gate["judge"] else ""
    what = f"{kind.metric} of {gate['system']}" + (" changed by" if kind.change else " is")
    value = f"{gate['value']:{'+' if kind.change else ''}.4g}"
    return f"{KEY}.{name}={gate['limit']:g} is missed on {gate['set']}{judge}: {what} {value}"
