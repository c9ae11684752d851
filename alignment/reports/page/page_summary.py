"""What a reader of the page sees first: gates, headline figures, what wasn't shown, warnings, some answers."""

from collections.abc import Iterable, Mapping, Sequence

from alignment.evaluation.gates import missed
from alignment.evaluation.vocabulary import METRICS
from alignment.reports.broken_policies import broken_lines
from alignment.reports.reward_models import ALL
from alignment.reports.tables import interval, number, share

TOO_MANY_CUT = 0.1  # answers cut off: from here on they are worth a warning
TOO_SURE = 0.5  # confidences of 0 or 1, or nearly: likewise


def verdict(card: Mapping | None) -> dict:
    """What the gates of the scorecard say, in a line each; and how every one was held."""
    if card is None or not card["gates"]:
        none = "No gate is set" if card else "Nothing was evaluated"
        return {"state": "none", "lines": [f"{none}: nothing here decides whether a model may be used"], "gates": []}
    lines, gates = missed(card["gates"]), card["gates"]
    if lines:
        return {"state": "missed", "lines": lines, "gates": gates}
    held = f"{len(gates)} gates are held" if len(gates) > 1 else "The gate is held"
    return {"state": "held", "lines": [held], "gates": gates}


def not_shown(report: Mapping, card: Mapping | None) -> list[str]:
    """A line for each comparison whose interval has no difference in it, or the other sign: these come first."""
    lines: list[tuple[bool, str]] = []
    if (annotation := report.get("annotation")) and (right := annotation["ranked_right"]):
        lines += _against(right, 0.5, "Margins rank held-out pairs as labelled", "as chance would, 50%")
    for kind, by_group in report.get("reward_model", {}).get("gain", {}).items():
        lines += _against(by_group[ALL], 0, f"Margins against {_named(kind)}, unseen pairs ranked right", "no gain")
    for one in report.get("comparison", {}).get("reward_models", []):
        what = f"Reward models with {_named(one['margins'])}, {one['after']} against {one['before']}, n = {one['n']:,}"
        lines += _against(one, 0, what, "no gain")
    if hybrid := report.get("hybrid"):
        figure = {"mean": hybrid["soft"], "ci95": hybrid["ci95"]["pair_accuracy"]}
        lines += _against(figure, 0.5, "The hybrid reward ranks held-out pairs as labelled", "as chance would, 50%")
    for change in card["differences"] if card else []:
        metric = METRICS[change["metric"]]
        if change["category"] is not None or metric.heading is None or metric.more_is_better is None:
            continue
        sign = 1 if metric.more_is_better else -1
        figure = {"mean": sign * change["value"], "ci95": sorted(sign * end for end in _ends(change["interval"]))}
        judge = f" by {change['judge']}" if change["judge"] else ""
        what = f"{change['system']} against {change['before']}: {metric.heading} on {change['set']}{judge}"
        lines += _against(figure, 0, f"{what}, n = {change['n']:,}", "no better", sign=sign)
    return [line for _, line in sorted(lines, key=lambda line: not line[0])]


def _named(kind: str) -> str:
    """The other margins of a comparison, in words."""
    return "no margins" if kind == "none" else f"{kind} margins"


def _ends(ends: Sequence[float | None]) -> list[float]:
    return [end for end in ends if end is not None]


def _against(figure: Mapping, none: float, what: str, means: str, sign: int = 1) -> list[tuple[bool, str]]:
    """The line, and whether it is worse, if there is an interval that doesn't lie above `none`.

    sign: -1 where less is good, and the figures given are turned.
    """
    ends = _ends(figure["ci95"])
    if len(ends) < 2 or ends[0] > none:
        return []
    worse = ends[1] < none
    form = "z.1f" if none else "+z.1f"
    shown = interval(sorted(sign * end for end in ends), form, 100)
    unit = "%" if none else " points"
    found = f"{what}: {number(100 * sign * figure['mean'], form)}{unit} {shown}"
    return [(worse, f"{found}: the interval lies on the wrong side" if worse else f"{found}, which may be {means}")]


def warnings(
    report: Mapping, card: Mapping | None, counts: Mapping[str, Mapping], health: Mapping[str, Mapping]
) -> list[str]:
    """What a reader should know before believing a figure. counts: of every stage its rows; health: of every judge."""
    lines = [*report.get("comparison", {}).get("notes", []), *broken_lines(report.get("soundness", []))]
    for row in report.get("soundness", []):
        if row["unfinished"] > TOO_MANY_CUT:
            lines.append(f"{row['system']}: {share(row['unfinished'])}% of its answers were cut off before their end")
    for stage, rows in counts.items():
        if rows["quarantined"]:
            some = f"{rows['quarantined']:,} of {rows['read']:,} rows"
            lines.append(f"{stage}: {some} couldn't be used; {stage}/quarantine.jsonl says why")
    for name, rate in (report.get("hybrid") or {}).get("saturated_share", {}).items():
        if name == "calibrated" and rate > TOO_SURE:
            lines.append(f"{share(rate)}% of the confidences are 0 or 1, or nearly: they leave nothing in doubt")
    lines += _of_data(report.get("data"))
    for judge, record in health.items():
        for kind, figures in record["health"].items():
            if isinstance(figures, Mapping) and "agreement" in figures:
                lines.append(f"Judge {judge}: {_agreement(figures)} on {kind}, labels of {record['health']['set']}")
    return lines


def _agreement(figures: Mapping) -> str:
    agreement = figures["agreement"]
    mean = agreement["mean"] if isinstance(agreement, Mapping) else agreement
    return f"agrees with people's labels in {share(mean)}%"


def _of_data(data: Mapping | None) -> Iterable[str]:
    """What was set aside and kept out of the given pairs."""
    for source in data["sources"] if data else []:
        if source["quarantined"]:
            yield f"{source['name']}: {source['quarantined']:,} of {source['read']:,} lines couldn't be used"
        for name, count in sorted(source["leaked"].items()):
            yield f"{source['name']}: {count:,} pairs were kept out, since {name} asks their prompt"
