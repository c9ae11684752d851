"""What fitting a hybrid reward takes at 32 layers x 4,096: all gates, on made-up states with a planted signal.

    python -m benchmarks.reward_fit [pairs ...]        250, 500 and 1,000: two minutes on two cores, 3 GB

Each number of pairs is a process of its own. Memory is the most that was held, less what was held before the fit, which
includes the states. Results are in results/reward_fit.json.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import torch

from alignment.models.hybrid_reward import HybridReward
from alignment.runs import peak_memory
from benchmarks import machine

RESULTS = Path(__file__).resolve().parent / "results" / "reward_fit.json"
LAYERS, WIDTH, PAIRS = 32, 4096, (250, 500, 1000)
SPREAD = torch.arange(1, WIDTH + 1) ** -0.4  # of the dimensions: a model's states vary in few directions most
SIGNAL = torch.linspace(0.01, 0.06, LAYERS)[:, None]  # deeper layers know more


def states(pairs: int, seed: int, layers: int = LAYERS) -> tuple[torch.Tensor, torch.Tensor]:
    """(pair, layer, width) of chosen and rejected answers."""
    side = torch.randn(layers, WIDTH, generator=torch.Generator().manual_seed(0)) * SPREAD * (torch.arange(WIDTH) < 60)
    source, both = torch.Generator().manual_seed(seed), []
    for sign in (1, -1):
        rows = torch.empty(pairs, layers, WIDTH)
        for row in rows:
            row.copy_(torch.randn(layers, WIDTH, generator=source) * SPREAD + sign * SIGNAL[-layers:] * side)
        both.append(rows)
    return both[0], both[1]


def measure(pairs: int, layers: int = LAYERS) -> dict:
    """Seconds, memory, and how many of 200 unseen pairs the default gate ranks right."""
    chosen, rejected = states(pairs, 1, layers)
    peak_memory.forget_peak()
    before, wall, processor = peak_memory.held_bytes(), time.perf_counter(), time.process_time()
    rewards = HybridReward.fit_gates(chosen, rejected)
    took = {"seconds": time.perf_counter() - wall, "processor_seconds": time.process_time() - processor}
    took |= {"bytes_beside_states": peak_memory.peak_bytes() - before, "states_bytes": 2 * chosen.nbytes}
    unseen = [rewards["sigmoid_scores"].score(side) for side in states(200, 2, layers)]
    steps = {gate: int(reward.meaning["steps"]) for gate, reward in rewards.items()}
    return {
        "pairs": pairs,
        **took,
        "steps": steps,
        "right": float((unseen[0] > unseen[1]).double().mean()),
    }


def main(sizes: list[int]) -> None:
    found = []
    for pairs in sizes:
        child = [sys.executable, "-m", "benchmarks.reward_fit", "--only", str(pairs)]
        found.append(json.loads(subprocess.run(child, check=True, stdout=subprocess.PIPE, text=True).stdout))
        row = found[-1]
        memory = row["bytes_beside_states"] / 1e9
        print(
            f"{pairs:>6} pairs: {row['seconds']:.1f} s, {row['processor_seconds']:.1f} s of processors, "
            f"{memory:.2f} GB beside the states, {row['right']:.3f} of unseen pairs ranked right", flush=True,
        )  # fmt: skip
    result = {"machine": machine.description(), "layers": LAYERS, "width": WIDTH, "fits": found}
    RESULTS.write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--only"]:
        print(json.dumps(measure(int(sys.argv[2]))))
    else:
        main([int(pairs) for pairs in sys.argv[1:]] or list(PAIRS))
