"""The report of stage train_rm: how many unseen pairs each kind of reward model ranks right."""

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from alignment.maths.metrics import mean_where, ordered_right
from alignment.reports.tables import over_seeds, percent


def reward_models(scores: list[dict]) -> dict:
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
        report[kind] = {name: over_seeds(found) for name, found in values.items() if found is not None}
        for name, chosen in (
            ("by_gap", groups),
            ("by_set", {s: columns["set"] == s for s in _ordered(columns["set"])}),
        ):
            found = {label: per_seed(kind, which) for label, which in chosen.items()}
            report[kind][name] = {label: over_seeds(means) for label, means in found.items() if means is not None}
    if {"none", "legend"} <= set(kinds):
        report["gain"] = _gain(report, "accuracy")
        if "accuracy_small_gap" in report["none"]:
            report["gain_small_gap"] = _gain(report, "accuracy_small_gap")
    return report


def _gain(report: dict, name: str) -> dict:
    """Legend's accuracy minus that without margins, seed by seed."""
    pairs = zip(report["legend"][name]["per_seed"], report["none"][name]["per_seed"], strict=True)
    return over_seeds([legend - none for legend, none in pairs])


def _ordered(values: np.ndarray) -> list[str]:
    """Distinct values in the order of their first appearance."""
    return list(dict.fromkeys(values.tolist()))


def reward_table(report: dict) -> Table:
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
        cells = [percent(one) for one in found]
        if "gain" in report:
            pairs = zip(found[1]["per_seed"], found[0]["per_seed"], strict=True)
            cells.append(percent(over_seeds([legend - none for legend, none in pairs]), signed=True))
        table.add_row(group.replace("gap", "severity gap"), *cells)
    return table
