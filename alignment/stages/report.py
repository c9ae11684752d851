"""Stage report: what the run's other stages found, as report.json, a table and figures.

Reports whatever is there: a run that only annotated has a report of its margins. Every number comes from a file of the
run; the interval of a figure over seeds is Student's t.
"""

import io
from pathlib import Path

import numpy as np
from omegaconf import DictConfig
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from alignment import artifacts
from alignment.artifacts import Rows, RunDir
from alignment.figures import draw_accuracy, draw_margins
from alignment.maths.metrics import mean_where, ordered_right
from alignment.maths.statistics import t_interval
from alignment.ranks import Ranks
from alignment.world.grammar import generator_hash


def run(cfg: DictConfig, run: RunDir, out: Path, ranks: Ranks) -> Rows:
    if not ranks.main:
        return Rows(0, 0, 0)
    report: dict = {"recipe": cfg.recipe, "world": {"generator": generator_hash()}, "versions": artifacts.versions()}
    tables: list[Table] = []
    if _usable(run, "annotate", ranks):
        calibration = artifacts.read_json(run.calibration)
        report["annotation"] = _annotation(calibration)
        tables.append(_annotation_table(report["annotation"]))
        known = next((kind for kind in ("severity", "helpfulness") if calibration["heldout"][kind]), None)
        draw_margins(artifacts.read_rows(run.heldout_pairs), known, calibration["binning"], out / "margins.png")
    if _usable(run, "train_rm", ranks):
        report["reward_model"] = _reward_models(artifacts.read_rows(run.reward_scores))
        tables.append(_reward_table(report["reward_model"]))
        draw_accuracy(report["reward_model"], out / "accuracy.png")
    artifacts.write_json(out / "report.json", report)
    (out / "table.txt").write_text(_as_text(tables), encoding="utf-8")
    return Rows(0, 0, 0)


def _usable(run: RunDir, stage: str, ranks: Ranks) -> bool:
    """A stage that was never run is simply not in the report; one that must not be read is named."""
    if not run.stage(stage).exists():
        return False
    problem = artifacts.unusable(run, stage)
    if problem is not None:
        ranks.say(f"  {stage} is left out: {problem}")
    return problem is None


# ---- annotation -----------------------------------------------------------------------------------------------------


def _annotation(calibration: dict) -> dict:
    """The headline figures of the held-out pairs; calibration.json has the rest, and the runner adds the seconds."""
    heldout = calibration["heldout"]
    known = heldout["severity"] or heldout["helpfulness"] or {}
    return {
        "layer": calibration["layer"],
        "pairs": heldout["in_scope"],
        "spearman_severity": (heldout["severity"] or {}).get("spearman"),
        "spearman_helpfulness": (heldout["helpfulness"] or {}).get("spearman"),
        "spearman_binned": known.get("spearman_binned"),
        "spearman_size": known.get("spearman_size"),
        "negative_share": heldout["distribution"]["negative_share"] if heldout["distribution"] else None,
        "length_correlation": heldout["length_correlation"],
    }


def _annotation_table(annotation: dict) -> Table:
    table = Table("margins of held-out pairs", "", box=SIMPLE_HEAD, title_justify="left")
    for name, label in {
        "layer": "layer",
        "spearman_severity": "Spearman with the true severity gap",
        "spearman_helpfulness": "Spearman with the true helpfulness gap",
        "spearman_binned": "the same of the binned margins",
        "negative_share": "share below zero",
        "length_correlation": "Spearman with the length difference",
    }.items():
        if annotation[name] is not None:
            table.add_row(label, str(annotation[name]) if name == "layer" else f"{annotation[name]:.3f}")
    return table


# ---- reward models --------------------------------------------------------------------------------------------------


def _reward_models(scores: list[dict]) -> dict:
    """Accuracy of each kind of model over its seeds, and the paired gain of margins."""
    columns = {name: np.array([row[name] for row in scores]) for name in scores[0]}
    right = ordered_right(columns["chosen_score"], columns["rejected_score"])
    seeds, kinds = sorted(set(columns["seed"].tolist())), sorted(set(columns["margins"].tolist()), reverse=True)

    def per_seed(kind: str, which: np.ndarray) -> list[float] | None:
        means = [mean_where(right, (columns["margins"] == kind) & (columns["seed"] == seed) & which) for seed in seeds]
        return None if None in means else means

    everything = np.ones(len(right), dtype=bool)
    parts = {"accuracy": everything, "accuracy_small_gap": columns["severity_gap"] == 1}
    groups = {f"gap {gap}": columns["severity_gap"] == gap for gap in (1, 2, 3)}
    groups |= {"harmless prompts": columns["harmful"] == False}  # noqa: E712 (may be None: not known)
    report: dict = {}
    for kind in kinds:
        values = {name: per_seed(kind, which) for name, which in parts.items()}
        report[kind] = {name: _summary(found) for name, found in values.items() if found is not None}
        for name, chosen in (
            ("by_gap", groups),
            ("by_set", {s: columns["set"] == s for s in _ordered(columns["set"])}),
        ):
            found = {label: per_seed(kind, which) for label, which in chosen.items()}
            report[kind][name] = {label: _summary(means) for label, means in found.items() if means is not None}
    if {"none", "legend"} <= set(kinds):
        report["gain"] = _gain(report, "accuracy")
        if "accuracy_small_gap" in report["none"]:
            report["gain_small_gap"] = _gain(report, "accuracy_small_gap")
    return report


def _gain(report: dict, name: str) -> dict:
    """Legend's accuracy minus that without margins, seed by seed."""
    pairs = zip(report["legend"][name]["per_seed"], report["none"][name]["per_seed"], strict=True)
    return _summary([legend - none for legend, none in pairs])


def _summary(values: list[float]) -> dict:
    interval = t_interval(values)
    return {"mean": interval.mean, "ci95": [interval.low, interval.high], "per_seed": values}


def _ordered(values: np.ndarray) -> list[str]:
    """Distinct values in the order of their first appearance."""
    return list(dict.fromkeys(values.tolist()))


def _reward_table(report: dict) -> Table:
    kinds = [kind for kind in ("none", "legend") if kind in report]
    groups = ["all pairs", *report[kinds[0]]["by_set"], *report[kinds[0]]["by_gap"]]
    table = Table("unseen pairs ranked right", *[f"margins: {kind}" for kind in kinds], box=SIMPLE_HEAD)
    if "gain" in report:
        table.add_column("gain")
    for group in groups:
        found = [
            report[kind]["accuracy"]
            if group == "all pairs"
            else {**report[kind]["by_set"], **report[kind]["by_gap"]}[group]
            for kind in kinds
        ]
        cells = [_percent(one) for one in found]
        if "gain" in report:
            pairs = zip(found[1]["per_seed"], found[0]["per_seed"], strict=True)
            cells.append(_percent(_summary([legend - none for legend, none in pairs]), signed=True))
        table.add_row(group.replace("gap", "severity gap"), *cells)
    return table


def _percent(summary: dict, signed: bool = False) -> str:
    mean = f"{100 * summary['mean']:{'+' if signed else ''}.1f}"
    low, high = summary["ci95"]
    return mean if low is None else f"{mean}  [{100 * low:.1f}, {100 * high:.1f}]"


def _as_text(tables: list[Table]) -> str:
    console = Console(file=io.StringIO(), width=110, color_system=None)
    for table in tables:
        for column in table.columns[1:]:
            column.justify = "right"
        console.print(table)
    return console.file.getvalue()
