"""The report of stage judge: the judges' verdicts on a file of answers, and how far they can be believed."""

from rich.table import Column, Table
from rich.text import Text

from alignment.evaluation.vocabulary import KINDS
from alignment.judges.choice import JUDGES
from alignment.judges.verdicts import REFUSAL_WORDS, WORDS
from alignment.reports.corrected import CORRECTED, ORACLE, Judged, figure, is_shown, notes, threshold_used
from alignment.reports.tables import counted, few, percent, share, with_interval

READABLE = 76  # how wide a table is at least, so that lines below it aren't cut into many
COUNTED = {  # what a judge counts beside its verdicts, in words
    "empty": "of them empty, and not judged",
    "cut": "cut to the judge's context",
    "marker_broken": "with a marker of its format, broken up",
    "answers_paid": "answers paid for",
    "answers_cached": "answers found in the cache",
    "refused_by_the_service": "not judged: refused by the service",
    "tokens_in": "tokens read",
    "tokens_out": "tokens written",
}


def judge_tables(judged: dict) -> list[Table]:
    """The verdicts in judged.json, by judge; and the judges' health, if there were labels to check them against."""
    judges = judged["judges"]
    checked = {name: judge["health"] for name, judge in judges.items() if judge["health"]}
    return [_verdicts(judged, judges), *([_health(judged["calibration"], checked)] if checked else [])]


def _verdicts(judged: dict, judges: dict) -> Table:
    rows = counted(judged["rows"])
    heading = f"{rows} answers, {judged['quarantined']} rows quarantined"
    table = Table(heading, *judges, min_width=READABLE)
    lines = [few(judged["rows"]), *_rate_notes(judges)]
    table.caption = Text("\n".join(line for line in lines if line))
    for word in WORDS:
        counts = [judge["verdicts"].get(word, 0) for judge in judges.values()]
        if any(word in judge["verdicts"] for judge in judges.values()):
            table.add_row(word, *(f"{count}  {count / judged['rows']:6.1%}" for count in counts))
    for kind, words in KINDS.items():
        rates = [judge["rates"].get(kind) for judge in judges.values()]
        if any(rates):
            table.add_row(f"{words}, %", *("-" if one is None else figure(one, apart="  ") for one in rates))
        corrected = [one and one.get("corrected") for one in rates]
        if is_shown(corrected):
            table.add_row(f"  {CORRECTED}", *(figure(one, apart="  ") for one in corrected))
    for key, words in COUNTED.items():
        counts = [judge["counts"].get(key) for judge in judges.values()]
        if any(counts):
            table.add_row(words, *("-" if count is None else str(count) for count in counts))
    spent = [judge["spent"] for judge in judges.values()]
    if any(dollars is not None for dollars in spent):
        table.add_row("spent", *("-" if dollars is None else f"{dollars:.4f}" for dollars in spent))
    for pair, agreement in judged["kappa"].items():
        if agreement is not None:
            table.add_row(f"kappa of {pair} (n = {counted(agreement['rows'])})", _figure(agreement["kappa"]))
    return table


def _health(calibration: dict, checked: dict[str, dict]) -> Table:
    """calibration: the set of labelled answers, which may be a file; checked: the health of every judge."""
    heading = Text(f"health on {calibration['set']} ({counted(calibration['rows'])} labelled answers)")
    table = Table(Column(heading), *checked, caption=few(calibration["rows"]))
    table.add_row("no verdict could be read, %", *(share(health["unparsed"]) for health in checked.values()))
    for kind, word in (("toxic", "harm"), ("refusal", "refusal")):
        of_kind = [health.get(kind) for health in checked.values()]
        if not any(of_kind):
            continue
        labels = {
            "agreement": "agrees with people, %",
            "binary": "some or none of it, %",
            "f1": "F1",
            "false_positive_rate": "false positives among the harmless, %",
            "kappa": "kappa with people",
            "length_bias": "the longer one is said to have it, % (no bias: 50)",
        }
        del labels["binary" if kind == "toxic" else "false_positive_rate"]  # said by agreement; by specificity
        for key, label in labels.items():
            rate = key not in ("f1", "kappa")
            cells = ["-" if part is None else _figure(part[key], rate) for part in of_kind]
            table.add_row(f"{word}: {label}{_n(of_kind, key)}", *cells)
        errors = [part and part["errors"] for part in of_kind]
        for key, label in (("sensitivity", "found where it is"), ("specificity", "none found where none is")):
            cells = ["-" if part is None else _figure(part[key], rate=True) for part in errors]
            table.add_row(f"{word}: {label} ({key}), %{_n(errors, key)}", *cells)
        if kind == "toxic":
            _add_balanced(table, checked)
        by_class = [part and part["by_class"] for part in of_kind]
        for label in REFUSAL_WORDS.values() if kind == "refusal" else ():
            if not any(part and part[label] for part in by_class):
                continue
            cells = ["-" if part is None else _figure(part[label], rate=True) for part in by_class]
            table.add_row(f"{word}: right on {label}, %{_n(by_class, label)}", *cells)
        areas = [part and part["auroc"] for part in of_kind]
        if any(area is not None for area in areas):
            table.add_row(f"{word}: AUROC", *("-" if area is None else f"{area:.3f}" for area in areas))
    positions = [health.get("position") for health in checked.values()]
    if any(positions):
        cells = [_figure(position["difference"], rate=True) if position else "-" for position in positions]
        n = _n(positions, "difference")
        table.add_row(f"found more often where it comes first than last, points (no bias: 0){n}", *cells)
    for name in checked:
        if calibration["set"] == JUDGES[name].fitted_on:
            table.add_row(f"{name} was fitted on these labels: docs/ has its figures on others")
        for published in JUDGES[name].published:
            rate = published.false_positive_rate
            with_rate = "" if rate is None else f", false positives {100 * rate:.1f}%"
            figures = f"F1 {published.f1:.3f}{with_rate}; {published.source}"
            table.add_row(f"published for {name} on {published.data}: {figures}")
    return table


def _add_balanced(table: Table, checked: dict[str, dict]) -> None:
    """From which score of harm on both kinds would be balanced on these labels, of judges that can be told so."""
    known = [health["toxic"]["balanced"] if "threshold" in health else None for health in checked.values()]
    if not any(known):
        return
    used = [balanced and threshold_used(of["threshold"]) for balanced, of in zip(known, checked.values(), strict=True)]
    table.add_row("harm: the threshold that was used", *(one or "-" for one in used))
    n = next(counted(one["threshold"]["n"]) for one in known if one)
    cells = [_figure(balanced and balanced["threshold"]) for balanced in known]
    table.add_row(f"harm: judge.<name>.threshold that balances both kinds here (n = {n})", *cells)
    for key, label in (("sensitivity", "found there"), ("specificity", "passed there")):
        table.add_row(f"  {label}, %", *(_figure(balanced and balanced[key], rate=True) for balanced in known))


def _rate_notes(judges: dict) -> list[str]:
    rates = [
        Judged(name, kind, rate.get("corrected"))
        for name, judge in judges.items() if name != ORACLE
        for kind, rate in judge["rates"].items()
    ]  # fmt: skip
    return notes(rates)  # their sensitivity and specificity are in the table below


def _n(of_judges: list[dict | None], key: str) -> str:
    """The rows that a figure is of, which are the same for all judges."""
    return next((f" (n = {counted(part[key]['n'])})" for part in of_judges if part and part[key]), "")


def _figure(value: dict | None, rate: bool = False) -> str:
    if value is None:
        return "-"
    return percent(value) if rate else with_interval(value["mean"], value["ci95"], "z.3f")
