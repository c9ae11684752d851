"""The report of stage train_rm: how many unseen pairs each kind of reward model ranks right."""

from typing import get_args

import numpy as np
from rich.table import Table

from alignment.maths.metrics import ordered_right
from alignment.maths.paired import paired_difference
from alignment.maths.statistics import rate_interval
from alignment.reports.tables import counted, few, over_seeds, percent
from alignment.types import Margins
from alignment.world.grammar import EVALUATION_SETS

ALL, SMALL_GAP = "all pairs", "severity gap 1"


def reward_models(scores: list[dict]) -> dict:
    """Accuracy of each kind of model over its seeds, and the paired gain of margins, on each group of pairs.

    All models scored the same pairs in the same order.
    """
    columns = {name: np.array([row[name] for row in scores]) for name in scores[0]}
    seeds = sorted(set(columns["seed"].tolist()))
    kinds = [kind for kind in get_args(Margins) if kind in columns["margins"]]
    of_one = (columns["margins"] == kinds[0]) & (columns["seed"] == seeds[0])
    pairs = {name: values[of_one] for name, values in columns.items()}
    prompts = np.unique(pairs["prompt_hash"], return_inverse=True)[1]
    right = {
        kind: np.stack([_right(columns, (columns["margins"] == kind) & (columns["seed"] == seed)) for seed in seeds])
        for kind in kinds
    }
    groups = _groups(pairs)

    def accuracy(kind: str, group: str) -> dict:
        chosen = right[kind][:, groups[group]]
        alone = rate_interval(chosen[0], prompts[groups[group]], np.random.default_rng(0))
        return over_seeds(chosen.mean(axis=1).tolist(), chosen.shape[1], alone)

    def gain(kind: str, group: str) -> dict:
        """The accuracy with Legend's margins minus that with other margins or none, paired by seed."""
        ours, theirs = (of_kind[:, groups[group]] for of_kind in (right["legend"], right[kind]))
        alone = paired_difference(theirs[0], ours[0], prompts[groups[group]], np.random.default_rng(0))
        per_seed = [own - base for own, base in zip(ours.mean(axis=1), theirs.mean(axis=1), strict=True)]
        return over_seeds(list(map(float, per_seed)), ours.shape[1], alone, difference=True)

    report: dict = {}
    for kind in kinds:
        by_group = {group: accuracy(kind, group) for group in groups}
        sets = [name for name in dict.fromkeys(pairs["set"].tolist()) if name in groups]
        report[kind] = {
            "accuracy": by_group[ALL],
            **({"accuracy_small_gap": by_group[SMALL_GAP]} if SMALL_GAP in groups else {}),
            "by_gap": {_gap(name): one for name, one in by_group.items() if name != ALL and name not in sets},
            "by_set": {name: by_group[name] for name in sets},
        }
    others = [kind for kind in kinds if kind != "legend"]
    if "legend" in kinds and others:
        report["gain"] = {kind: {group: gain(kind, group) for group in groups} for kind in others}
    return report


def _right(columns: dict[str, np.ndarray], which: np.ndarray) -> np.ndarray:
    return ordered_right(columns["chosen_score"][which], columns["rejected_score"][which])


def _groups(pairs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The pairs of each group that has any, by its name in tables. What is not known is in no group."""
    groups = {ALL: np.ones(len(pairs["set"]), dtype=bool)}
    sets = {name: pairs["set"] == name for name in dict.fromkeys(pairs["set"].tolist())}
    groups |= sets if len(sets) > 1 else {}  # a single set is all pairs once more
    groups |= {f"severity gap {gap}": pairs["severity_gap"] == gap for gap in (1, 2, 3)}
    groups |= {"harmless prompts": pairs["harmful"] == False}  # noqa: E712 (may be None: not known)
    return {name: group for name, group in groups.items() if group.any()}


def _gap(group: str) -> str:
    """A group's name in report.json."""
    return group.replace("severity gap", "gap")


def by_group(accuracies: dict) -> dict[str, dict]:
    """The accuracies of one kind of model in the order they are shown: of all pairs, by set and by gap."""
    by_gap = {name.replace("gap", "severity gap"): accuracy for name, accuracy in accuracies["by_gap"].items()}
    sets = sorted(accuracies["by_set"], key=lambda name: (*EVALUATION_SETS, name).index(name))  # the easiest first
    return {ALL: accuracies["accuracy"], **{name: accuracies["by_set"][name] for name in sets}, **by_gap}


def interval_is(summary: dict) -> str:
    """What the interval of a figure is over, as captions say it."""
    return "over seeds" if len(summary["per_seed"]) > 1 else "over pairs, of one seed"


def reward_tables(report: dict) -> list[Table]:
    """Accuracy by kind and group; and, with more than one kind beside Legend's, its gain over each."""
    accuracies = {kind: by_group(report[kind]) for kind in get_args(Margins) if kind in report}
    first = next(iter(accuracies.values()))
    heads = ["unseen pairs ranked right, %", "pairs", *[f"margins: {kind}" for kind in accuracies]]
    gains = report.get("gain", {})
    with_gain = list(accuracies) == ["none", "legend"]  # with more of them, a table of their own
    caption = f"95% intervals {interval_is(first[ALL])}"
    marks = few(*(summary["n"] for summary in first.values()))
    table = Table(*heads, *(["gain"] if with_gain else []), caption="; ".join(filter(None, [caption, marks])))
    for group, summary in first.items():
        cells = [percent(of_kind[group]) for of_kind in accuracies.values()]
        if with_gain:
            cells.append(percent(gains["none"][group], signed=True))
        table.add_row(group, counted(summary["n"]), *cells)
    return [table, _gains(gains)] if len(gains) > 1 else [table]


def _gains(gains: dict) -> Table:
    shown = [group for group in (ALL, SMALL_GAP) if group in next(iter(gains.values()))]
    table = Table("gain of Legend's margins, points", *shown)
    for kind, by_group in gains.items():
        cells = [percent(by_group[group], signed=True) for group in shown]
        table.add_row("over none" if kind == "none" else f"over {kind} margins", *cells)
    return table
