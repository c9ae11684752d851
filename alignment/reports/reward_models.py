"""The report of stage train_rm: how many unseen pairs each kind of reward model ranks right."""

from typing import get_args

import numpy as np
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

    def over_groups(kind: str, groups: dict[str, np.ndarray]) -> dict[str, dict]:
        """Accuracy of a kind of model on each group of pairs; groups that a seed has no pair of are left out."""
        of_kind = columns["margins"] == kind
        means = {
            name: [mean_where(right, of_kind & (columns["seed"] == seed) & group) for seed in seeds]
            for name, group in groups.items()
        }
        return {name: over_seeds(per_seed) for name, per_seed in means.items() if None not in per_seed}

    everything = np.ones(len(right), dtype=bool)
    whole = {"accuracy": everything, "accuracy_small_gap": columns["severity_gap"] == 1}
    gaps = {f"gap {gap}": columns["severity_gap"] == gap for gap in (1, 2, 3)}
    gaps |= {"harmless prompts": columns["harmful"] == False}  # noqa: E712 (may be None: not known)
    sets = {name: columns["set"] == name for name in dict.fromkeys(columns["set"].tolist())}
    report: dict = {
        kind: {**over_groups(kind, whole), "by_gap": over_groups(kind, gaps), "by_set": over_groups(kind, sets)}
        for kind in kinds
    }
    legend = report.get("legend", {})
    for name in whole:
        gains = {
            kind: _gain(legend[name], report[kind][name])
            for kind in kinds
            if kind != "legend" and name in report[kind] and name in legend
        }
        if gains:
            report[name.replace("accuracy", "gain")] = gains
    return report


def _gain(legend: dict, other: dict) -> dict:
    """The accuracy with Legend's margins minus that with other margins or none, paired by seed."""
    return over_seeds([own - base for own, base in zip(legend["per_seed"], other["per_seed"], strict=True)])


def by_group(accuracies: dict) -> dict[str, dict]:
    """The accuracies of one kind of model in the order they are shown: of all pairs, by set and by gap."""
    by_gap = {name.replace("gap", "severity gap"): accuracy for name, accuracy in accuracies["by_gap"].items()}
    return {"all pairs": accuracies["accuracy"], **accuracies["by_set"], **by_gap}


def reward_tables(report: dict) -> list[Table]:
    """Accuracy by kind and group; and, with more than one kind beside Legend's, its gain over each."""
    accuracies = {kind: by_group(report[kind]) for kind in get_args(Margins) if kind in report}
    table = Table("unseen pairs ranked right", *[f"margins: {kind}" for kind in accuracies])
    gain = list(accuracies) == ["none", "legend"]  # with more of them, a table of their own
    if gain:
        table.add_column("gain")
    for group in next(iter(accuracies.values())):
        cells = [percent(of_kind[group]) for of_kind in accuracies.values()]
        if gain:
            cells.append(percent(_gain(accuracies["legend"][group], accuracies["none"][group]), signed=True))
        table.add_row(group, *cells)
    return [table, _gains(report)] if len(report.get("gain", {})) > 1 else [table]


def _gains(report: dict) -> Table:
    table = Table("gain of Legend's margins", "all pairs")
    small_gap = report.get("gain_small_gap", {})
    if small_gap:
        table.add_column("severity gap 1")
    for kind, gain in report["gain"].items():
        cells = [percent(part, signed=True) for part in (gain, small_gap.get(kind)) if part is not None]
        table.add_row("over none" if kind == "none" else f"over {kind} margins", *cells)
    return table
