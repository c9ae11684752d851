"""What judges said of a file of answers, and how far they can be believed."""

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from alignment.judges.choice import JUDGES
from alignment.judges.verdicts import WORDS
from alignment.reports.tables import with_interval

COUNTED = {  # in words, for what a judge counts on its way
    "empty": "of them empty, and not judged",
    "cut": "cut to the judge's context",
    "marker_broken": "with a marker of its format, broken up",
    "answers_paid": "answers paid for",
    "answers_cached": "answers found in the cache",
    "refused_by_the_service": "not judged: refused by the service",
    "tokens_in": "tokens read",
    "tokens_out": "tokens written",
}


def judge_tables(found: dict) -> list[Table]:
    """Of judged.json: verdicts by judge, and their health if there was something to hold them against."""
    judges = found["judges"]
    tables = [_verdicts(found, judges)]
    checked = {name: one["health"] for name, one in judges.items() if one["health"]}
    if checked:
        tables.append(_health(found["calibration"], checked))
    return tables


def _verdicts(found: dict, judges: dict) -> Table:
    table = Table(box=SIMPLE_HEAD)
    table.add_column(f"{found['rows']} answers, {found['quarantined']} rows quarantined")
    for name in judges:
        table.add_column(name)
    for word in (word for word in WORDS if any(word in one["verdicts"] for one in judges.values())):
        counts = [one["verdicts"].get(word, 0) for one in judges.values()]
        table.add_row(word, *(f"{count}  {count / found['rows']:6.1%}" for count in counts))
    for key, words in COUNTED.items():
        counts = [one["counts"].get(key) for one in judges.values()]
        if any(counts):
            table.add_row(words, *("-" if count is None else str(count) for count in counts))
    if any(one["spent"] is not None for one in judges.values()):
        table.add_row("spent", *("-" if one["spent"] is None else f"{one['spent']:.4f}" for one in judges.values()))
    for pair, value in found["kappa"].items():
        if value is not None:
            table.add_row(f"kappa of {pair}", _interval(value["kappa"]))
    return table


def _health(calibration: dict, checked: dict[str, dict]) -> Table:
    table = Table(box=SIMPLE_HEAD)
    table.add_column(Text(f"health on {calibration['set']} ({calibration['rows']} labelled answers)"))  # may be a file
    for name in checked:
        table.add_column(name)
    rows: dict[str, list[str]] = {"no verdict could be read": [f"{one['unparsed']:.1%}" for one in checked.values()]}
    for kind, words in (("toxic", "harm"), ("refusal", "refusal")):
        of_kind = [one.get(kind) for one in checked.values()]
        if not any(of_kind):
            continue
        named = {
            "agreement": f"{words}: agrees with people",
            "binary": f"{words}: some or none of it",
            "f1": f"{words}: F1",
            "false_positive_rate": f"{words}: false positive rate",
            "kappa": f"{words}: kappa with people",
            "length_bias": f"{words}: the longer one is said to have it (no bias: 0.5)",
        }
        if kind == "toxic":
            del named["binary"]  # there is nothing else
        for key, line in named.items():
            rows[line] = ["-" if one is None else _interval(one[key]) for one in of_kind]
        for label in next(one for one in of_kind if one)["by_class"]:
            rows[f"{words}: right on {label}"] = [
                "-" if one is None else _interval(one["by_class"][label]) for one in of_kind
            ]
        if any(one and one["auroc"] is not None for one in of_kind):
            rows[f"{words}: AUROC"] = [
                "-" if not one or one["auroc"] is None else f"{one['auroc']:.3f}" for one in of_kind
            ]
    if any(one.get("position") for one in checked.values()):
        rows["found more often where it comes first than last (no bias: 0)"] = [
            _interval(one["position"]["difference"]) if one.get("position") else "-" for one in checked.values()
        ]
    for line, cells in rows.items():
        table.add_row(line, *cells)
    for name in checked:
        if calibration["set"] == JUDGES[name].fitted_on:
            table.add_row(f"{name} was fitted on these labels: docs/ has its figures on others")
        for one in JUDGES[name].published:
            rate = "" if one.false_positive_rate is None else f", false positive rate {one.false_positive_rate:.3f}"
            table.add_row(f"published for {name} on {one.data}: F1 {one.f1:.3f}{rate}; {one.source}")
    return table


def _interval(value: dict | None) -> str:
    return "-" if value is None else with_interval(value["mean"], value["ci95"], ".3f")
