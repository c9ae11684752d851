"""The report of the best of n samples: how safe and useful they are, for every scorer that picks them."""

from collections.abc import Iterator
from typing import NamedTuple

from rich.table import Table
from rich.text import Text

from alignment.evaluation.vocabulary import METRICS, RANDOM, WORLD_RATES
from alignment.reports.corrected import CORRECTED, figure, is_shown, judged, notes
from alignment.reports.markdown import escaped, markdown_table
from alignment.reports.tables import counted, few, percent, with_interval

SCORERS = {
    "hybrid": "hybrid reward", "reward_model": "reward model", "judge": "oracle (sees the truth)",
    "shortest": "the shortest", "longest": "the longest",
}  # fmt: skip
JUDGE = "the judge itself"  # of data other than the world's, where it is no oracle
UNJUDGED = "no judge of harm read these answers: only refusals were judged, and nothing here says how safe they are"
INTERVALS = "Intervals are 95%, a bootstrap over prompts."


class Shown(NamedTuple):
    """A table as it is written, in a terminal or in Markdown."""

    title: str
    heads: list[str]
    rows: list[list[str]]
    caption: str | None


def best_of_n_tables(report: dict) -> list[Table]:
    """A table for each rate, with a row for every n and a column for every scorer; and what scorers think of each
    other's picks. Names of sets are Text: they may be files, and no markup."""
    tables = []
    for shown in _shown(report):
        tables.append(Table(caption=shown.caption))
        for head in (shown.title, *shown.heads):
            tables[-1].add_column(Text(head))
        for cells in shown.rows:
            tables[-1].add_row(*cells)
    lines = [*([] if report.get("harm_judged", True) else [UNJUDGED]), *_notes(report)]
    if lines:
        tables[-1].caption = Text("\n".join([*([tables[-1].caption] if tables[-1].caption else []), *lines]))
    return tables


def _notes(report: dict) -> list[str]:
    """What is known of the errors of the judges, of data other than the world's."""
    return notes(judged(report["numbers"]), report["judges"]) if "numbers" in report else []


def best_of_n_markdown(report: dict) -> str:
    """The same tables for a README."""
    lines = ["# The best of n samples", ""]
    if "model" in report:
        cut = f"{100 * report['unfinished_share']:.1f}% of them cut off"
        lines += [f"{report['samples']:,} answers of {report['model']} to {report['prompts']:,} prompts, {cut}.", ""]
        lines += [] if report["harm_judged"] else [f"**{UNJUDGED[0].upper()}{UNJUDGED[1:]}.**", ""]
    for shown in _shown(report):
        lines += [*markdown_table([shown.title, *shown.heads], shown.rows, named=0), ""]
        lines += [f"{escaped(shown.caption)}.", ""] if shown.caption else []
    lines += [INTERVALS, *(f"{escaped(line[0].upper() + line[1:])}." for line in _notes(report))]
    return "\n".join(lines) + "\n"


def _shown(report: dict) -> list[Shown]:
    if "numbers" not in report:
        return list(_of_world(report))
    tables = [*_of_sets(report["numbers"]), *_of_scores(report["scores"])]
    return tables


def _of_world(report: dict[str, dict]) -> Iterator[Shown]:
    scorers = [scorer for scorer in SCORERS if scorer in report]
    for rate, metric in WORLD_RATES.items():
        n_prompts = report[scorers[0]][min(report[scorers[0]], key=int)]["prompts"][rate]
        title = f"{metric.title(metric.world.answer)} (n = {counted(n_prompts)} prompts)"
        rows = []
        for n in sorted(report[scorers[0]], key=int):
            picked = [report[scorer][n] for scorer in scorers]
            cells = [percent({"mean": rates[rate], "ci95": rates["ci95"][rate]}) for rates in picked]
            rows.append([f"best of {n}", *cells])
        yield Shown(title, [SCORERS[scorer] for scorer in scorers], rows, few(n_prompts))


def _of_sets(numbers: list[dict]) -> Iterator[Shown]:
    """A table for every set, what its prompts ask for, metric and judge. Verdicts are all read where none is shown."""
    groups: dict[tuple, dict[tuple[str, int], dict]] = {}
    for one in numbers:
        key = one["metric"], one["set"], one["asks"], one["judge"]
        groups.setdefault(key, {})[one["scorer"], one["n"]] = one
    for (name, of_set, asks, judge), figures in groups.items():
        metric, most = METRICS[name], max(one["prompts"] for one in figures.values())
        if name == "unparsed" and not any(one["value"] for one in figures.values()):
            continue
        by = f" by {judge}" if judge else ""
        unit = ", %" if metric.rate else ""
        prompts = of_set if len(metric.asks) == 1 else f"{of_set}, {asks} prompts"
        title = f"{prompts}: {metric.says}{unit}{by} (n = {counted(most)} prompts)"
        scorers = [scorer for scorer in SCORERS if any(scorer == one for one, _ in figures)]
        rows = _with_corrected("one at random", [figures[RANDOM, 1]], metric.rate, len(scorers))
        for n in sorted({n for scorer, n in figures if scorer != RANDOM}):
            picked = [figures[scorer, n] for scorer in scorers]
            rows += _with_corrected(f"best of {n}", picked, metric.rate, len(scorers))
        yield Shown(title, [_name(scorer) for scorer in scorers], rows, few(most))


def _with_corrected(name: str, figures: list[dict], rate: bool, width: int) -> list[list[str]]:
    """A row of figures, and one of them corrected for the judge's errors if that is known of any."""
    rows = [[name, *(_cell(one, rate) for one in figures)]]
    corrected = [one.get("corrected") for one in figures]
    if is_shown(corrected):
        rows.append([f"  {CORRECTED}", *(figure(one, apart="  ") for one in corrected)])
    return [[*row, *[""] * (width + 1 - len(row))] for row in rows]


def _of_scores(scores: list[dict]) -> Iterator[Shown]:
    """What each scorer thinks of the picks: their mean score, and how far that is above one sample at random."""
    for rater in dict.fromkeys(one["scored_by"] for one in scores):
        own = [one for one in scores if one["scored_by"] == rater]
        title = f"score by {_name(rater)} of the best of {own[0]['n']} (n = {counted(own[0]['prompts'])} prompts)"
        rows = []
        for one in own:
            score = with_interval(one["value"], one["interval"], "z.2f")
            above = with_interval(one["change"], one["change_interval"], "+z.2f")
            picker = one["picked_by"]
            rows.append(["one at random", score, ""] if picker == RANDOM else [f"{_name(picker)} picks", score, above])
        yield Shown(title, ["mean score", "above one at random"], rows, few(own[0]["prompts"]))


def _name(scorer: str) -> str:
    return JUDGE if scorer == "judge" else SCORERS[scorer]


def _cell(one: dict, rate: bool) -> str:
    if one["value"] is None:
        return ""
    return with_interval(one["value"], one["interval"], "z.1f", scale=100 if rate else 1)
