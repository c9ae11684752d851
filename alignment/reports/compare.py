"""Several runs side by side: the headline figures of each report. A sweep (-m) ends with it; for any runs:

python -m alignment.reports.compare runs/cdpo/seed=0 runs/cdpo/seed=1
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from alignment.evaluation.vocabulary import METRICS, WORLD_RATES
from alignment.maths.statistics import wilson_interval
from alignment.reports.reward_models import ALL
from alignment.reports.tables import as_text, counted, few, number, over_seeds, percent
from alignment.runs import artifacts
from alignment.runs.run_files import RunDir
from alignment.types import UserError

ACROSS = 4  # figures side by side; more have a table of their own


def comparison(folders: Sequence[Path]) -> list[Table]:
    """A row for each run and a column for each headline figure that any of them has."""
    runs = [RunDir(folder) for folder in folders]
    figures = {run.root: headlines(run) for run in runs if run.report.exists()}
    names = list(dict.fromkeys(name for of_run in figures.values() for name in of_run))
    tables = []
    for first in range(0, len(names), ACROSS):
        shown = names[first : first + ACROSS]
        counts = {name: {of_run[name][1] for of_run in figures.values() if name in of_run} for name in shown}
        table = Table("run", caption=few(*(n for of_name in counts.values() for n in of_name)))
        for name in shown:  # n beside the name where it is the same for all runs, as it is in most sweeps
            same = f"\nn = {counted(next(iter(counts[name])))}" if len(counts[name]) == 1 else "\n(n)"
            table.add_column(Text(name + same))
        for run in runs:
            cells = [figures.get(run.root, {}).get(name, ("", None)) for name in shown]
            written = [
                f"{cell} ({counted(n)})" if cell and len(counts[name]) > 1 else cell
                for name, (cell, n) in zip(shown, cells, strict=True)
            ]
            table.add_row(Text(_name(run.root, folders)), *(written if run.root in figures else ["no report yet"]))
        tables.append(table)
    return tables


def _name(folder: Path, folders: Sequence[Path]) -> str:
    """The folder's own name, or its path where two have the same."""
    alone = [other.name for other in folders].count(folder.name) == 1
    return folder.name if alone else str(folder)


def headlines(run: RunDir) -> dict[str, tuple[str, int | None]]:
    """By name the headline figures of a run's report as they are written, each with its n."""
    try:
        card = artifacts.read_json(run.scorecard) if run.scorecard.exists() else None
        return headlines_of(artifacts.read_json(run.report), card)
    except KeyError as error:
        problem = f"its report has no {error}: an earlier version wrote it"
        raise UserError(str(run.report), problem, "make it anew: the run's command with stages=[report]") from error


def headlines_of(report: dict, card: dict | None) -> dict[str, tuple[str, int | None]]:
    """The same of a report and a scorecard, if there is one."""
    figures: dict[str, tuple[str, int | None]] = {}
    if annotation := report.get("annotation"):
        if annotation["ranked_right"] is not None:
            figures["margins as labelled, %"] = percent(annotation["ranked_right"]), annotation["pairs"]
        if annotation["gap"] is not None and (correlation := annotation[f"spearman_{annotation['gap']}"]) is not None:
            figures[f"Spearman with {annotation['gap']}"] = number(correlation, "z.2f"), annotation["gaps"]
    models = report.get("reward_model", {})
    for kind in (kind for kind in models if kind not in ("gain", "over")):
        accuracy = models[kind]["accuracy"]
        figures[f"RM, {kind}: % right"] = percent(accuracy), accuracy["n"]
    for kind, by_group in models.get("gain", {}).items():
        gain = by_group[ALL]
        figures[f"RM: gain over {kind}, points"] = percent(gain, signed=True), gain["n"]
    if hybrid := report.get("hybrid"):
        summary = {"mean": hybrid["soft"], "ci95": hybrid["ci95"]["pair_accuracy"]}
        figures["hybrid reward, % right"] = percent(summary), hybrid["pairs"]["heldout"]
    for system, by_set in report.get("policy", {}).items():
        for rate, metric in WORLD_RATES.items():
            summary = _over_sets([rates[rate] for rates in by_set.values()])
            figures[f"{system}: {metric.world.policy}, %"] = percent(summary), summary["n"]
    for scorer, by_count in report.get("best_of_n", {}).items():
        most = max(by_count, key=int)
        best = by_count[most]
        summary = {"mean": best["toxic_rate"], "ci95": best["ci95"]["toxic_rate"]}
        figures[f"best of {most} by {scorer}: toxic, %"] = percent(summary), best["prompts"]["toxic_rate"]
    for one in _last_picks(report.get("best_samples", {}).get("numbers", [])):
        name = (
            f"best of {one['n']} by {one['scorer']}: {METRICS[one['metric']].heading} on {one['set']} by {one['judge']}"
        )
        figures[f"{name}, %"] = percent({"mean": one["value"], "ci95": one["interval"]}), one["prompts"]
    if card is not None and "policy" not in report:
        figures |= _of_card(card)
    return figures


def _last_picks(numbers: list[dict]) -> list[dict]:
    """The rates that pictures have, of the best of the most samples, without those of one at random."""
    shown = [one for one in numbers if METRICS[one["metric"]].heading and one["value"] is not None and one["n"] > 1]
    most = max((one["n"] for one in shown), default=0)
    return [one for one in shown if one["n"] == most]


def _over_sets(rates: list[dict]) -> dict:
    """A rate over the prompts of all sets, each set counting alike."""
    per_seed = [sum(values) / len(values) for values in zip(*(rate["per_seed"] for rate in rates), strict=True)]
    n = sum(rate["n"] for rate in rates)
    return over_seeds(per_seed, n, wilson_interval(per_seed[0] * n, n))


def _of_card(card: dict) -> dict[str, tuple[str, int | None]]:
    """The rates of whole sets that the scorecard's picture has, of the system that is compared last."""
    last, figures = card["systems"][-1]["name"], {}
    for one in card["numbers"]:
        heading, judge = METRICS[one["metric"]].heading, f" by {one['judge']}" if one["judge"] else ""
        if one["system"] == last and one["category"] is None and heading:
            cell = percent({"mean": one["value"], "ci95": one["interval"]})
            figures[f"{heading} on {one['set']}{judge}, %"] = cell, one["n"]
    return figures


def main(arguments: list[str]) -> int:
    folders = [Path(argument) for argument in arguments]
    try:
        if not folders:
            raise UserError("compare", "no run is named", "give the folders of runs: runs/cdpo/seed=0 runs/cdpo/seed=1")
        for folder in folders:
            if not RunDir(folder).report.exists():
                raise UserError("compare", f"{folder} has no report.json", "give the folder of a run that has ended")
        print(as_text(comparison(folders)))
    except UserError as error:
        print(f"repalign: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
