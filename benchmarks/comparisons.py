"""Two sides on the same pairs, a step each in turn: what one entry of the results is made of."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks import lengths, machine, models
from benchmarks.turns import Side

MODULES = {
    "cdpo": "training", "dpo": "training", "cdpo_unpacked": "training", "reward_model": "training",
    "annotation": "annotation", "sampling": "sampling",
}  # fmt: skip
UNITS = {"sampling": "samples"}


@dataclass(frozen=True)
class Plan:
    """What all entries have in common: the model and where it is saved, and how often steps are repeated."""

    folder: Path
    size: models.Size
    matmul_rate: float
    rounds: int = 6
    warm_up: int = 1
    more: tuple[tuple[str, int], ...] = ()  # further arguments of the sides: tests have shorter answers

    def arguments(self, side: str, batch: int, **more: object) -> dict[str, object]:
        shared = {"folder": self.folder, "size": json.dumps(asdict(self.size)), "batch": batch}
        return {"side": side, **shared, **more}


def compare(name: str, batch: int, plan: Plan) -> list[dict]:
    """Ours against theirs, all threads each."""
    module = MODULES[name]
    more = {"name": name} if module == "training" else {}
    more |= dict(plan.more) if module == "sampling" else {}
    threads = machine.threads()
    with (
        Side(module, plan.arguments("ours", batch, **more), threads) as ours,
        Side(module, plan.arguments("theirs", batch, **more), threads) as theirs,
    ):
        found = alternate(ours, theirs, plan)
    return [entry(name, name, batch, ours, theirs, found, plan)]


def alternate(ours: Side, theirs: Side, plan: Plan) -> tuple[list[dict], list[dict]]:
    """Steps in turn, the first of every round changing; both must have had the same pairs."""
    steps: dict[Side, list[dict]] = {ours: [], theirs: []}
    for number in range(plan.warm_up + plan.rounds):
        for side in (ours, theirs) if number % 2 else (theirs, ours):
            steps[side].append(side.step())
    for one, other in zip(steps[ours], steps[theirs], strict=True):
        if one["pairs"] != other["pairs"]:
            raise RuntimeError(f"the sides had different pairs: {one['pairs']} and {other['pairs']}")
    return steps[ours][plan.warm_up :], steps[theirs][plan.warm_up :]


def entry(
    comparison: str, name: str, batch: int, ours: Side, theirs: Side, found: tuple[list[dict], list[dict]], plan: Plan
) -> dict:
    mine, other = (summary(steps, side, plan) for steps, side in zip(found, (ours, theirs), strict=True))
    by_step = [
        (one["units"] / one["seconds"]) / (two["units"] / two["seconds"]) for one, two in zip(*found, strict=True)
    ]
    return {
        "comparison": comparison, "name": name, "batch": batch, "unit": UNITS.get(name, "pairs"),
        "ours": mine, "theirs": other,
        "speed_ratio": mine["pairs_per_second"] / other["pairs_per_second"],
        "speed_ratio_by_step": quartiles(by_step),
        "memory_ratio": mine["peak_bytes"] / other["peak_bytes"],
        "steps": len(by_step), "warm_up": plan.warm_up, "lengths": lengths.source(),
        "model": models.settings(plan.size), "matmul_rate": plan.matmul_rate,
    }  # fmt: skip


def summary(steps: Sequence[dict], side: Side, plan: Plan) -> dict:
    """Rates are those of all steps together, so that long batches count; tokens and operations are the needed ones."""
    seconds = [step["seconds"] for step in steps]

    def rate(what: str) -> float:
        return sum(step[what] for step in steps) / sum(seconds)

    return {
        "pairs_per_second": rate("units"), "peak_bytes": max(step["peak_bytes"] for step in steps),
        "seconds_per_step": float(np.median(seconds)), "seconds_quartiles": quartiles(seconds),
        "tokens_per_second": rate("tokens"), "needed_flops_share": rate("operations") / plan.matmul_rate,
        "settings": side.settings,
    }  # fmt: skip


def quartiles(values: Sequence[float]) -> list[float]:
    return np.quantile(values, [0.25, 0.5, 0.75]).tolist()
