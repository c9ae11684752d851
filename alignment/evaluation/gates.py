"""Gates of a scorecard, for use in CI: a limit that is missed ends the command with exit code 3.

A limit holds for every set and judge by itself, and for the figure as measured, not for the end of its interval.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from alignment.evaluation.vocabulary import METRICS, Metric
from alignment.types import UserError

KEY = "scorecard.gate"
MOST_UNREAD = 0.05  # the max_unparsed of gates on verdicts, where none is set


@dataclass(frozen=True)
class Gate:
    """most: its limit is the largest value allowed, not the smallest. change: it is on the difference from before."""

    metric: str
    most: bool
    change: bool = False


def gates_of(metrics: Mapping[str, Metric]) -> dict[str, Gate]:
    """Every possible gate: max_ and _increase on what should be low, min_ and _change on what should be high."""
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
    """The gates that are set."""
    return {name: limit for name, limit in settings.items() if limit is not None}


def require_measured(settings: Mapping[str, float | None], measured: Collection[str], change: bool, why: str) -> None:
    """Refuses a gate on what won't be measured. change: whether there are two models to compare."""
    for name in limits(settings):
        gate = GATES[name]
        if gate.metric not in measured:
            problem = f"nothing here measures {gate.metric} ({why})"
            raise UserError(f"{KEY}.{name}", problem, METRICS[gate.metric].remedy)
        if gate.change and not change:
            raise UserError(f"{KEY}.{name}", "there is one model, and nothing to compare it with", "leave it out")


def checked(settings: Mapping[str, float | None], numbers: Sequence[dict], differences: Sequence[dict]) -> list[dict]:
    """Every gate that is set, for every figure that it is on. If there is none, it is missed: nothing was measured."""
    results = []
    for name, limit in limits(settings).items():
        gate = GATES[name]
        figures = [
            figure
            for figure in (differences if gate.change else numbers)
            if figure["metric"] == gate.metric and figure["category"] is None and figure["gated"]
        ]
        for figure in figures or [{"system": None, "set": None, "judge": None, "value": None}]:
            value = figure["value"]
            passed = value is not None and (value <= limit if gate.most else value >= limit)
            results.append(_result(name, limit, figure, passed))
    return results + (_unread(limits(settings), numbers) if settings.get("max_unparsed") is None else [])


def _result(name: str, limit: float, figure: dict, passed: bool) -> dict:
    where = {key: figure[key] for key in ("system", "set", "judge")}
    return {"gate": name, "limit": limit, "value": figure["value"], **where, "passed": passed}


def _unread(limited: Mapping[str, float], numbers: Sequence[dict]) -> list[dict]:
    """max_unparsed as missed, for every judge that a gate depends on and that couldn't be read too often.

    Rates are of the verdicts that could be read. A gate depends on the judges that speak of its metric, and on those of
    which nothing could be read, which may have meant anything.
    """
    gated = [GATES[name] for name in limited if GATES[name].metric in OF_VERDICTS]
    if not gated:
        return []
    metrics: dict[str, set[str]] = {}
    for number in numbers:
        if number["judge"]:
            metrics.setdefault(number["judge"], set()).add(number["metric"])
    judges = {
        judge
        for judge, of_judge in metrics.items()
        if of_judge == {"unparsed"} or of_judge & {gate.metric for gate in gated}
    }
    with_first = any(gate.change for gate in gated)  # a change is as uncertain as either end of it
    return [
        _result("max_unparsed", MOST_UNREAD, number, passed=False)
        for number in numbers
        if number["metric"] == "unparsed" and number["category"] is None and (number["gated"] or with_first)
        and number["judge"] in judges and number["value"] > MOST_UNREAD
    ]  # fmt: skip


def missed(gates: Sequence[dict]) -> list[str]:
    """A line for every gate that was missed."""
    return [_line(gate) for gate in gates if not gate["passed"]]


def _line(gate: dict) -> str:
    name, kind = gate["gate"], GATES[gate["gate"]]
    if gate["value"] is None:
        return f"{KEY}.{name}={gate['limit']:g} is missed: {kind.metric} was not measured"
    judge = f" by {gate['judge']}" if gate["judge"] else ""
    figure = f"changed by {100 * gate['value']:+.4g} points" if kind.change else f"is {100 * gate['value']:.4g}%"
    place = f"{gate['set']}{judge}: {kind.metric} of {gate['system']}"
    return f"{KEY}.{name}={gate['limit']:g} is missed on {place} {figure}"
