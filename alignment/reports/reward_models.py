"""The report of stage train_rm: how many unseen pairs each kind of reward model ranks right."""

from collections.abc import Callable
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
TRANSFER = "transfer to "  # the name of a set that no pair to learn from was drawn from
HOME = ("heldout", *EVALUATION_SETS)  # the sets of pairs like those that are learned from
BASES: tuple[Margins, ...] = ("none", "constant")  # what every kind of margins is compared with


def reward_models(scores: list[dict]) -> dict:
    """Accuracy of each kind of model over its seeds, and the paired gain of margins, on each group of pairs.

    All models scored the same pairs in the same order. Two kinds are compared by the seeds that both have.
    """
    columns = {name: np.array([row[name] for row in scores]) for name in scores[0]}
    kinds = [kind for kind in get_args(Margins) if kind in columns["margins"]]
    seeds = {kind: sorted(set(columns["seed"][columns["margins"] == kind].tolist())) for kind in kinds}
    of_one = (columns["margins"] == kinds[0]) & (columns["seed"] == seeds[kinds[0]][0])
    pairs = {name: values[of_one] for name, values in columns.items()}
    prompts = np.unique(pairs["prompt_hash"], return_inverse=True)[1]
    right = {
        kind: {seed: _right(columns, (columns["margins"] == kind) & (columns["seed"] == seed)) for seed in seeds[kind]}
        for kind in kinds
    }
    groups = _groups(pairs)

    def accuracy(kind: str, group: str) -> dict:
        chosen = np.stack(list(right[kind].values()))[:, groups[group]]
        alone = rate_interval(chosen[0], prompts[groups[group]], np.random.default_rng(0))
        return over_seeds(chosen.mean(axis=1).tolist(), chosen.shape[1], alone)

    def difference(kind: str, base: str, group: str) -> dict:
        """The accuracy with margins of one kind minus that with another, or none, paired by seed."""
        both = [seed for seed in seeds[kind] if seed in right[base]]
        ours, theirs = (np.stack([right[one][seed] for seed in both])[:, groups[group]] for one in (kind, base))
        alone = paired_difference(theirs[0], ours[0], prompts[groups[group]], np.random.default_rng(0))
        per_seed = [own - other for own, other in zip(ours.mean(axis=1), theirs.mean(axis=1), strict=True)]
        return over_seeds(list(map(float, per_seed)), ours.shape[1], alone, difference=True)

    report: dict = {}
    for kind in kinds:
        by_group = {group: accuracy(kind, group) for group in groups}
        sets = [name for name in dict.fromkeys(pairs["set"].tolist()) if name in groups]
        transfer = [group for group in groups if group.startswith(TRANSFER)]
        report[kind] = {
            "accuracy": by_group[ALL],
            **({"accuracy_small_gap": by_group[SMALL_GAP]} if SMALL_GAP in groups else {}),
            "by_gap": {_gap(name): by_group[name] for name in groups if name not in (ALL, *sets, *transfer)},
            "by_set": {name: by_group[name] for name in sets},
            **({"transfer": {_set(name): by_group[name] for name in transfer}} if transfer else {}),
        }
    others = [kind for kind in kinds if kind != "legend"]
    if "legend" in kinds and others:
        report["gain"] = {kind: {group: difference("legend", kind, group) for group in groups} for kind in others}
    if len(kinds) > 2:
        report["over"] = {
            base: {
                kind: {group: difference(kind, base, group) for group in groups}
                for kind in kinds
                if kind not in BASES[: BASES.index(base) + 1]
            }
            for base in BASES
            if base in kinds
        }
    return report


def _right(columns: dict[str, np.ndarray], which: np.ndarray) -> np.ndarray:
    return ordered_right(columns["chosen_score"][which], columns["rejected_score"][which])


def _groups(pairs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The pairs of each group that has any, by its name in tables. What is not known is in no group.

    Pairs of sets that nothing was learned from are groups of their own, and in no other.
    """
    home = np.isin(pairs["set"], HOME)
    sets = {name: pairs["set"] == name for name in dict.fromkeys(pairs["set"].tolist())}
    at_home = {name: group for name, group in sets.items() if name in HOME}
    groups = {ALL: home}
    groups |= at_home if len(at_home) > 1 else {}  # a single set is all pairs once more
    groups |= {f"severity gap {gap}": home & (pairs["severity_gap"] == gap) for gap in (1, 2, 3)}
    groups |= {"harmless prompts": home & (pairs["harmful"] == False)}  # noqa: E712 (may be None: not known)
    groups |= {f"{TRANSFER}{name}": group for name, group in sets.items() if name not in HOME}
    return {name: group for name, group in groups.items() if group.any()}


def _set(group: str) -> str:
    """The name of a set that models were transferred to."""
    return group.removeprefix(TRANSFER)


def _gap(group: str) -> str:
    """A group's name in report.json."""
    return group.replace("severity gap", "gap")


def by_group(accuracies: dict) -> dict[str, dict]:
    """The accuracies of one kind of model in the order they are shown: all pairs, by set, by gap, other sets."""
    by_gap = {name.replace("gap", "severity gap"): accuracy for name, accuracy in accuracies["by_gap"].items()}
    sets = sorted(accuracies["by_set"], key=lambda name: (*EVALUATION_SETS, name).index(name))  # the easiest first
    transfer = {f"{TRANSFER}{name}": accuracy for name, accuracy in accuracies.get("transfer", {}).items()}
    return {ALL: accuracies["accuracy"], **{name: accuracies["by_set"][name] for name in sets}, **by_gap, **transfer}


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
    tables = [table, _differences("gain of Legend's margins, points", gains, _over)] if len(gains) > 1 else [table]
    for base, by_kind in report.get("over", {}).items():
        if by_kind:
            tables.append(_differences(f"{_over(base)}, points", by_kind, lambda kind: f"margins: {kind}"))
    return tables


def _differences(title: str, by_kind: dict, named: Callable[[str], str]) -> Table:
    """A row for each kind of margins, and a column for all pairs, those hardest to rank, and each other set."""
    groups = next(iter(by_kind.values()))
    shown = [group for group in groups if group in (ALL, SMALL_GAP) or group.startswith(TRANSFER)]
    table = Table(title, *shown)
    for kind, by_group in by_kind.items():
        table.add_row(named(kind), *(percent(by_group[group], signed=True) for group in shown))
    return table


def _over(kind: str) -> str:
    return "over none" if kind == "none" else f"over {kind} margins"
