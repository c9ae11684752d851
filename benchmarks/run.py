"""All benchmarks, or one of them: python -m benchmarks.run [only=cdpo] [batch=8]

Prints a table and writes results.json and results.png beside this file; what isn't run keeps its entries. With a name
and a batch size, that entry alone is run. About an hour and a half for everything on two cores.
"""

import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from benchmarks import arguments, machine, models
from benchmarks.comparisons import Plan, compare
from benchmarks.figure_seven import live_reward
from benchmarks.growth import growth, ranks
from benchmarks.pictures import draw

RESULTS = Path(__file__).parent / "results.json"
BATCHES = {
    "cdpo": (4, 8, 16), "cdpo_unpacked": (8,), "dpo": (4, 8, 16), "reward_model": (8,), "annotation": (64,),
    "sampling": (8,), "live_reward": (8,), "growth": (4,), "ranks": (8,),
}  # fmt: skip
ROUNDS = {
    "cdpo": 2,
    "cdpo_unpacked": 2,
    "dpo": 2,
    "sampling": 2,
    "live_reward": 3,
    "growth": 2,
}  # long steps; others 6
Comparison = Callable[[str, int, Plan], list[dict]]
OTHERS: dict[str, Comparison] = {
    "live_reward": lambda name, batch, plan: live_reward(batch, plan),
    "growth": lambda name, batch, plan: growth(plan),
    "ranks": lambda name, batch, plan: list(ranks(plan)),
}


def main(argv: Sequence[str]) -> None:
    given = arguments.read(argv, {"only": "", "batch": None})
    only, batch = given["only"], given["batch"]
    if only and only not in BATCHES:
        arguments.stop(f"only={only}: choose one of {', '.join(BATCHES)}")
    if batch and (not only or only in ("growth", "ranks")):
        arguments.stop("batch=... goes with the one comparison it is for: only=cdpo batch=8")
    with tempfile.TemporaryDirectory() as folder:
        size = models.Size()
        models.save(Path(folder), size)
        plan = Plan(Path(folder), size, machine.matmul_rate())
        for name in [only] if only else BATCHES:
            for each in (batch,) if batch else BATCHES[name]:
                print(f"{name}, {each} at a time ...", file=sys.stderr, flush=True)
                run(name, each, dataclasses.replace(plan, rounds=ROUNDS.get(name, plan.rounds)), RESULTS)
    results = json.loads(RESULTS.read_text())
    print(table(results["entries"]))
    draw(results["entries"], RESULTS.with_suffix(".png"))


def run(name: str, batch: int, plan: Plan, path: Path) -> list[dict]:
    """One comparison at one batch size, and its entries in the file of results."""
    entries = OTHERS.get(name, compare)(name, batch, plan)
    keep(entries, path)
    return entries


def keep(entries: list[dict], path: Path) -> None:
    """Puts entries in place of those of the same name and batch, and leaves the others."""
    before = json.loads(path.read_text())["entries"] if path.exists() else []
    here = {"machine": machine.description(), "versions": machine.versions()}
    new = {_key(entry): entry | here for entry in entries}
    kept = [new.pop(_key(entry), entry) for entry in before] + list(new.values())
    kept.sort(key=lambda entry: (list(BATCHES).index(entry["comparison"]), entry["batch"]))
    path.write_text(json.dumps({"entries": kept}, indent=2) + "\n")


def _key(entry: dict) -> tuple[str, int]:
    return entry["name"], entry["batch"]


def table(entries: list[dict]) -> str:
    head = (
        "name", "batch", "ours pairs/s", "theirs pairs/s", "ratio", "peak MB ours/theirs", "memory ratio",
        "tokens/s ours", "share of matmul",
    )  # fmt: skip
    rows = [head, *(_row(entry) for entry in entries if "speed_ratio" in entry)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([*lines, *(line for entry in entries for line in _further(entry))])


def _row(entry: dict) -> tuple[str, ...]:
    ours, theirs = entry["ours"], entry["theirs"]
    return (
        entry["name"] + (" (samples)" if entry["unit"] == "samples" else ""), str(entry["batch"]),
        f"{ours['pairs_per_second']:.2f}", f"{theirs['pairs_per_second']:.2f}", f"{entry['speed_ratio']:.2f}",
        f"{ours['peak_bytes'] / 1e6:,.0f} / {theirs['peak_bytes'] / 1e6:,.0f}", f"{entry['memory_ratio']:.2f}",
        f"{ours['tokens_per_second']:,.0f}", f"{ours['needed_flops_share']:.0%}",
    )  # fmt: skip


def _further(entry: dict) -> list[str]:
    """What isn't a comparison of two rates."""
    if "share_of_step" in entry:
        return [f"live reward, batch {entry['batch']}: {entry['share_of_step']:.3%} of the step"]
    if entry["name"] == "live_reward_by_length":
        return [
            f"live reward against online sampling, {point['tokens']} tokens a pair: {point['operations_ratio']:,.0f} "
            "times fewer operations"
            + (f", {point['seconds_ratio']:,.0f} times less time" if "seconds_ratio" in point else "")
            for point in entry["points"]
        ]
    if "seconds_exponent" in entry:
        memory = entry["memory"]
        return [
            f"growth with {entry['of']}: time to the power {entry['seconds_exponent']:.2f}; memory "
            f"{memory['fixed_bytes'] / 1e6:,.0f} MB and {memory['bytes_each'] / 1e6:,.1f} MB each, which explains "
            f"{memory['explained']:.1%}"
        ]
    return []


if __name__ == "__main__":
    main(sys.argv[1:])
