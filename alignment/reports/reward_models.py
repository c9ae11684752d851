"""The report of stage train_rm: how many unseen pairs each kind of reward model ranks right."""

from typing import get_args

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from alignment.maths.metrics import mean_where, ordered_right
from alignment.reports.tables import over_seeds, percent
from alignment.types import Margins


def reward_models(scores: list[dict]) -> dict:
    """Accuracy of each kind of model over its seeds, and the paired gain of margins."""
    columns = {name: np.array([row[name] for row in scores]) for name in scores[0]}
    right = ordered_right(columns["chosen_score"], columns["rejected_score"])
    seeds = sorted(set(columns["seed"].tolist()))
    kinds = [kind for kind in get_args(Margins) if kind in columns["margins"]]

    def per_seed(kind: str, which: np.ndarray) -> list[float] | None:
        means = [mean_where(right, (columns["margins"] == kind) & (columns["seed"] == seed) & which) for seed in seeds]
        return None if None in means else means

    everything = np.ones(len(right), dtype=bool)
    parts = {"accuracy": everything, "accuracy_small_gap": columns["severity_gap"] == 1}
    groups = {f"gap {gap}": columns["severity_gap"] == gap for gap in (1, 2, 3)}
    groups |= {"harmless prompts": columns["harmful"] == False}  # noqa: E712 (may be None: not known)
    sets = {name: columns["set"] == name for name in dict.fromkeys(columns["set"].tolist())}
    report: dict = {}
    for kind in kinds:
        values = {name: per_seed(kind, which) for name, which in parts.items()}
        report[kind] = {name: over_seeds(found) for name, found in values.items() if found is not None}
        for name, chosen in (("by_gap", groups), ("by_set", sets)):
            found = {label: per_seed(kind, which) for label, which in chosen.items()}
            report[kind][name] = {label: over_seeds(means) for label, means in found.items() if means is not None}
    for name in parts if "legend" in kinds else ():
        others = [kind for kind in kinds if kind != "legend" and name in report[kind]]
        if others and name in report["legend"]:
            gain = {kind: _gain(report["legend"][name], report[kind][name]) for kind in others}
            report[name.replace("accuracy", "gain")] = gain
    return report


def _gain(legend: dict, other: dict) -> dict:
    """Accuracy with Legend's margins minus that with others or none, seed by seed."""
    pairs = zip(legend["per_seed"], other["per_seed"], strict=True)
    return over_seeds([one - another for one, another in pairs])


def reward_tables(report: dict) -> list[Table]:
    """Accuracy by kind and group; and, with more than one kind beside Legend's, its gain over each."""
    kinds = [kind for kind in get_args(Margins) if kind in report]
    groups = ["all pairs", *report[kinds[0]]["by_set"], *report[kinds[0]]["by_gap"]]
    table = Table("unseen pairs ranked right", *[f"margins: {kind}" for kind in kinds], box=SIMPLE_HEAD)
    gain = kinds == ["none", "legend"]  # with more of them, a table of their own
    if gain:
        table.add_column("gain")
    for group in groups:
        of_kind = {
            kind: {"all pairs": report[kind]["accuracy"], **report[kind]["by_set"], **report[kind]["by_gap"]}[group]
            for kind in kinds
        }
        cells = [percent(of_kind[kind]) for kind in kinds]
        if gain:
            cells.append(percent(_gain(of_kind["legend"], of_kind["none"]), signed=True))
        table.add_row(group.replace("gap", "severity gap"), *cells)
    return [table, _gains(report)] if len(report.get("gain", {})) > 1 else [table]


def _gains(report: dict) -> Table:
    table = Table("gain of Legend's margins", "all pairs", box=SIMPLE_HEAD)
    small = report.get("gain_small_gap", {})
    if small:
        table.add_column("severity gap 1")
    for kind, gain in report["gain"].items():
        cells = [percent(one, signed=True) for one in (gain, small.get(kind)) if one is not None]
        table.add_row("over none" if kind == "none" else f"over {kind} margins", *cells)
    return table
