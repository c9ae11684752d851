"""How our side's time and memory grow: with the pairs of a step, with the tokens of a pair, with layers; and what a
second rank of one thread brings over one.

Every number of pairs sees the same 32 pairs of the data, so that a step of eight times the pairs has just eight times
the tokens. With tokens and layers, all pairs have one length.
"""

import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import machine, models
from benchmarks.comparisons import Plan, alternate, entry
from benchmarks.turns import Side

PAIRS, FACTORS = 4, (1, 2, 4, 8)
TOKENS = (128, 256, 512, 1024)
LAYERS = (2, 4, 6, 8)
# What a step has, of pairs or prompts, on one rank, and how many steps. Trainings have as many pairs as the recipes';
# 256 pairs are about seventeen planned batches, 128 prompts about eighteen: of few, one rank has one more.
IN_RANKS = (
    ("training", 8, 6), ("training", 16, 6), ("reward_model", 16, 6), ("reward_model", 32, 4), ("annotation", 256, 3),
    ("sampling", 128, 1),
)  # fmt: skip
TRAINED = {"training": "cdpo", "reward_model": "reward_model"}


def growth(plan: Plan) -> list[dict]:
    return [_pairs(plan), _tokens(plan), _layers(plan)]


def _pairs(plan: Plan) -> dict:
    all_pairs, passes = PAIRS * FACTORS[-1], 2
    points = []
    for batch in (PAIRS * factor for factor in FACTORS):
        steps = all_pairs // batch
        found = _point(plan.arguments("ours", batch, name="cdpo", rows=all_pairs), passes * steps, steps)
        points.append({"pairs": batch, **found})
    return _curve("growth_pairs", "pairs", points, plan)


def _tokens(plan: Plan) -> dict:
    fitting = [tokens for tokens in TOKENS if tokens <= plan.size.longest]
    points = [
        {"tokens": tokens, **_point(plan.arguments("ours", PAIRS, name="cdpo", tokens=tokens), plan.rounds, 1)}
        for tokens in fitting
    ]
    return _curve("growth_tokens", "tokens", points, plan)


def _layers(plan: Plan) -> dict:
    points = []
    tokens = min(256, plan.size.longest)
    for layers in LAYERS:
        with tempfile.TemporaryDirectory() as folder:
            of_layers = dataclasses.replace(
                plan, folder=Path(folder), size=dataclasses.replace(plan.size, layers=layers)
            )
            models.save(of_layers.folder, of_layers.size)
            given = of_layers.arguments("ours", PAIRS, name="cdpo", tokens=tokens)
            points.append({"layers": layers, **_point(given, plan.rounds, 1)})
    return _curve("growth_layers", "layers", points, plan)


def _point(arguments: dict, steps: int, warm_up: int) -> dict:
    with Side("training", arguments, machine.threads()) as side:
        found = [side.step() for _ in range(warm_up + steps)][warm_up:]
    return {
        "seconds_per_step": float(np.mean([step["seconds"] for step in found])),
        "tokens_per_step": float(np.mean([step["tokens"] for step in found])),
        "peak_bytes": max(step["peak_bytes"] for step in found),
        "baseline_bytes": side.baseline_bytes,
    }


def _curve(name: str, of: str, points: list[dict], plan: Plan) -> dict:
    """The exponent of time, and the line that memory follows: fixed bytes and bytes for each more."""
    x, seconds = (np.array([point[key] for point in points]) for key in (of, "seconds_per_step"))
    memory = np.array([point["peak_bytes"] for point in points])
    each, fixed = np.polyfit(x, memory, 1)
    left = memory - (fixed + each * x)
    return {
        "comparison": "growth", "name": name, "batch": PAIRS, "of": of, "points": points,
        "seconds_exponent": float(np.polyfit(np.log(x), np.log(seconds), 1)[0]),
        "memory": {
            "fixed_bytes": float(fixed), "bytes_each": float(each),
            "explained": float(1 - (left**2).sum() / ((memory - memory.mean()) ** 2).sum()),
        },
        "model": models.settings(plan.size), "matmul_rate": plan.matmul_rate,
    }  # fmt: skip


def ranks(plan: Plan) -> Iterator[dict]:
    """Two ranks of one thread (ours) against one rank of one thread (theirs), the same pairs in every step."""
    for what, batch, rounds in IN_RANKS:
        trained = TRAINED.get(what)
        module = "training" if trained else what
        more = {"name": trained} if trained else dict(plan.more) if what == "sampling" else {}
        each = batch // 2 if trained else batch  # trainers count by rank, planned batches are dealt
        with (
            Side(module, plan.arguments("ours", each, **more), threads=1, ranks=2) as two,
            Side(module, plan.arguments("ours", batch, **more), threads=1) as one,
        ):
            found = alternate(two, one, dataclasses.replace(plan, rounds=rounds))
        name = f"ranks_{what}"
        yield entry("ranks", name, batch, two, one, found, plan) | {"unit": "two ranks against one"}
