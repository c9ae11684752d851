"""The report of stage fit_guard: how good the guard is on answers to other prompts, beside simpler ones."""

from rich.table import Table

from alignment.reports.tables import FEW_MARK, counted, few, percent, with_interval

SCORERS = {"guard": "guard", "last_layer": "last layer alone", "words": "words alone", "length": "length alone"}
MEASURES = {
    "macro_f1": "macro-F1, %",
    "auroc": "AUROC, %",
    "sensitivity": "found, %",
    "specificity": "passed, %",
    "calibration_error": "ECE, %",
}


def guard_tables(report: dict) -> list[Table]:
    """The labelled answers, the false alarms, and other sets that the guard was tried on."""
    return [_labelled(report), *_false_alarms(report), *_missed(report), *map(_tried, report["transfer"].items())]


def _labelled(report: dict) -> Table:
    guard = report["scorers"]["guard"]
    table = Table("labelled answers", *MEASURES.values())
    for name, title in SCORERS.items():
        table.add_row(title, *(with_its_interval(report["scorers"][name][measure]) for measure in MEASURES))
    for source, figures in report["by_source"].items() if len(report["by_source"]) > 1 else ():
        table.add_row(f"guard, {source}", *(with_its_interval(figures[measure]) for measure in MEASURES))
    first, last = report["layers"]
    fit = "of all labelled answers" if report["fit"] == "benchmark" else "without what this run's policies see"
    table.caption = (
        f"{counted(guard['answers'])} answers, {counted(guard['harmful'])} harmful, each by a fit to other prompts, of "
        f"which nearly the same are kept together: {guard['prompts']:,} groups, over which the intervals are. Layers "
        f"{first} to {last} of {report['model']}; threshold {report['threshold']:.2f}; {fit}. Found: of harmful "
        f"answers; passed: of safe ones; ECE: expected calibration error"
    )
    return table


def _false_alarms(report: dict) -> list[Table]:
    alarms = report["false_alarms"]
    if not alarms:
        return []
    table = Table("answers to harmless prompts that are called harmful, %", "answers", *SCORERS.values())
    for source, by in alarms.items():
        table.add_row(source, counted(by["guard"]["answers"]), *(percent(by[name]) for name in SCORERS))
    table.caption = few(*(by["guard"]["answers"] for by in alarms.values()))
    return [table]


def _missed(report: dict) -> list[Table]:
    found = report["found_by_category"]
    if not found:
        return []
    table = Table("kind of harm, the least found first", "answers", "found, %")
    for name, figures in least_found(found):
        table.add_row(name, counted(figures["answers"]), percent(figures))
    table.caption = FEW_MARK if any(figures["answers"] < 30 for figures in found.values()) else None
    return [table]


def _tried(named: tuple[str, dict]) -> Table:
    name, by = named
    table = Table(f"tried on {name}", *MEASURES.values())
    for scorer in ("guard", "words"):
        table.add_row(SCORERS[scorer], *(with_its_interval(by[scorer][measure]) for measure in MEASURES))
    for category, figures in least_found(by["found_by_category"]):
        table.add_row(f"  {category}, n = {counted(figures['answers'])}", "", "", percent(figures))
    answers, harmful = by["guard"]["answers"], by["guard"]["harmful"]
    mark = few(*(figures["answers"] for figures in by["found_by_category"].values()))
    table.caption = (
        f"{answers:,} answers, {harmful:,} harmful, by the guards that are saved; left out: {by['left_out']:,} to "
        f"prompts that they are fitted on{f'. {mark}' if mark else ''}"
    )
    return table


def least_found(by_category: dict[str, dict]) -> list[tuple[str, dict]]:
    return sorted(by_category.items(), key=lambda item: item[1]["mean"])


def with_its_interval(summary: dict | None) -> str:
    return "" if summary is None else with_interval(summary["mean"], summary["ci95"], "z.1f", scale=100, apart=" ")
