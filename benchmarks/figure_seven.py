"""The live reward's part of a step, and its extra cost beside online sampling by length (the paper's figure 7).

Counted: operations.py says what is needed of either. Measured: the seconds that hooks, scoring, backward pass and step
of the live reward take inside a training step, against the seconds of two answers to every prompt and their reading by
a reward model of the policy's size. Half of a pair's tokens are its prompt, a quarter each answer.
"""

import numpy as np

from benchmarks import machine, models
from benchmarks.comparisons import Plan, alternate, entry
from benchmarks.operations import Shape, live_reward_operations, online_operations
from benchmarks.turns import Side

TOKENS = (64, 128, 256, 512, 1024)
MEASURED = (64, 256, 1024)
FEW = 2  # pairs in a step where sampling is measured
LLAMA_7B = Shape(layers=32, width=4096, intermediate=11008, vocabulary=32000)


def live_reward(batch: int, plan: Plan) -> list[dict]:
    return [_share(batch, plan), _by_length(plan)]


def _share(batch: int, plan: Plan) -> dict:
    """Inside the step of the data; and beside it, the same step with a fixed confidence."""
    with (
        Side("live_reward", plan.arguments("live", batch), machine.threads()) as live,
        Side("live_reward", plan.arguments("fixed", batch), machine.threads()) as fixed,
    ):
        found = alternate(live, fixed, plan)
    inside = [step["inside"] for step in found[0]]
    shares = [sum(step["inside"].values()) / step["seconds"] for step in found[0]]
    return entry("live_reward", "live_reward", batch, live, fixed, found, plan) | {
        "share_of_step": float(np.median(shares)),
        "inside_seconds": {part: float(np.median([one[part] for one in inside])) for part in inside[0]},
        "bytes_held": found[0][-1]["bytes_held"],
    }


def _by_length(plan: Plan) -> dict:
    points = []
    for tokens in (tokens for tokens in TOKENS if tokens <= plan.size.longest):
        point = {"tokens": tokens, **_counted(plan.size.shape, tokens, FEW)}
        point["llama_7b"] = _counted(LLAMA_7B, tokens, FEW)
        if tokens in MEASURED:
            point |= _measured(tokens, plan)
        points.append(point)
    return {
        "comparison": "live_reward", "name": "live_reward_by_length", "batch": FEW, "points": points,
        "model": models.settings(plan.size), "matmul_rate": plan.matmul_rate,
    }  # fmt: skip


def _counted(shape: Shape, tokens: int, pairs: int) -> dict:
    """Operations of a step of `pairs`."""
    live = live_reward_operations(shape, pairs)
    online = pairs * online_operations(shape, tokens - 2 * (tokens // 4), tokens // 4)
    return {"live_operations": live, "online_operations": online, "operations_ratio": online / live}


def _measured(tokens: int, plan: Plan) -> dict:
    with (
        Side("live_reward", plan.arguments("live", FEW, tokens=tokens), machine.threads()) as live,
        Side("live_reward", plan.arguments("online", FEW, tokens=tokens), machine.threads()) as online,
    ):
        inside, sampled = alternate(live, online, plan)
    live_seconds = float(np.median([sum(step["inside"].values()) for step in inside]))
    online_seconds = float(np.median([step["seconds"] for step in sampled]))
    return {
        "live_seconds": live_seconds, "online_seconds": online_seconds, "seconds_ratio": online_seconds / live_seconds,
    }  # fmt: skip
