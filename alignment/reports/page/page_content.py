"""What the page says of a run, beside its pairs and answers: from the report, and from the manifests of its stages."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from alignment.reports.compare import headlines_of
from alignment.reports.page.page_figures import figures
from alignment.reports.page.page_pairs import ExploredPairs
from alignment.reports.page.page_summary import not_shown, verdict, warnings
from alignment.reports.run_comparison import by_figure
from alignment.runs import artifacts
from alignment.runs.manifest import MANIFEST
from alignment.runs.run_files import QUARANTINE, RunDir

FIRST = 5  # quarantined rows that are shown of a stage


def page_content(
    run: RunDir,
    report: Mapping[str, Any],
    card: Mapping[str, Any] | None,
    samples: Sequence[dict],
    trainings: Sequence[dict],
    pairs: ExploredPairs | None,
    stages: Mapping[str, str],
) -> dict[str, Any]:
    """card: the scorecard, if anything was evaluated. stages: those of the run, with what each does."""
    manifests = {stage: artifacts.read_json(run.stage(stage) / MANIFEST) for stage in stages}
    counts = {stage: manifest["rows"] for stage, manifest in manifests.items() if manifest["rows"]}
    return {
        "recipe": report["recipe"],
        "about": _about(report, card, manifests),
        "verdict": verdict(card),
        "headlines": _headlines(report, card),
        "notShown": not_shown(report, card),
        "warnings": warnings(report, card, counts, artifacts.read_json_if_intact(run.judge_health)),
        "quarantined": {stage: _quarantined(run, stage) for stage, rows in counts.items() if rows["quarantined"]},
        "stages": [{"name": stage, "does": does, "rows": counts.get(stage)} for stage, does in stages.items()],
        "samples": list(samples),
        "figures": figures(report, card, trainings, pairs),
        "manifests": manifests,
        "versions": report["versions"],
        "world": report["world"],
    }


def _about(report: Mapping, card: Mapping | None, manifests: Mapping[str, Mapping]) -> list[list[str]]:
    """What was run on what, a name and a value each."""
    config: dict[str, Any] = {}
    inputs: dict[str, Any] = {}
    for manifest in manifests.values():
        config |= manifest["config"]
        inputs |= manifest["inputs"]
    about = [["recipe", report["recipe"]]]
    if comparison := report.get("comparison"):
        about.append(["runs", ", ".join(f"{run['name']} ({run['recipe']})" for run in comparison["runs"])])
    if model := config.get("model.path") or inputs.get("model"):
        about.append(["model", str(model)])
    if data := config.get("data.path") or config.get("data.name"):
        about.append(["data", str(data)])
    if source := report.get("data"):
        about.append(["pairs", f"{source['train']:,} to learn from, {source['heldout']:,} held out"])
    elif "data.pairs" in config:
        about.append(["pairs", f"{config['data.pairs']:,} to learn from, {config['data.heldout']:,} held out"])
    if corrections := str(inputs.get("data", "")).partition("; corrected: ")[2]:
        about.append(["corrections of the pairs", corrections])
    if card:
        about.append(["systems", ", ".join(system["name"] for system in card["systems"])])
        about.append(["judges", ", ".join(card["judges"]) or "none"])
    if "seed" in config:
        about.append(["seed", str(config["seed"])])
    return about


def _headlines(report: Mapping, card: Mapping | None) -> list[list]:
    """Name, figure and n; of several runs one after the other for each figure."""
    if "comparison" not in report:
        return [[name, value, n] for name, (value, n) in headlines_of(dict(report), card).items()]
    figures = by_figure(report["comparison"]["runs"])
    return [[f"{figure}: {run}", text, n] for figure, of_runs in figures.items() for run, (text, n) in of_runs.items()]


def _quarantined(run: RunDir, stage: str) -> list[dict]:
    """The first rows that a stage set aside, with the reason."""
    path = run.stage(stage) / QUARANTINE
    if not path.exists():
        return []
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line, _ in zip(lines, range(FIRST), strict=False)]
