"""Which gate orders unseen pairs best, on real activations: Llama 7B's, published with the confidence-DPO paper.

    python benchmarks/gates.py [folder of the data]        about ten minutes on two cores

5 folds x 10 repetitions over the 150 pairs; every choice (cost, layer, steps) is made inside the training folds. What
is compared is the share of a pair's ten tries that come out right, so intervals are over pairs: Student's t, 95%.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from alignment.maths.hybrid import GATES
from alignment.maths.metrics import ordered_right
from alignment.maths.statistics import t_interval
from alignment.models.hybrid_reward import HybridReward

HERE = Path(__file__).resolve().parent
DATA = HERE.parent.parent / "shared" / "data"
FOLDS, REPETITIONS = 5, 10
RIVALS = {"last": "last_layer", "best": "best_layer"}


def main(folder: Path) -> None:
    states = load_file(folder / "llama7b_activations.safetensors")
    chosen, rejected = states["safe"][:, 1:], states["unsafe"][:, 1:]  # state 0 is the embedding
    pairs, layers = chosen.shape[:2]
    right = {gate: np.zeros(pairs) for gate in GATES}
    right_by_layer = np.zeros((layers, pairs))
    for repetition in range(REPETITIONS):
        order = torch.randperm(pairs, generator=torch.Generator().manual_seed(repetition))
        for fold in range(FOLDS):
            test = order[fold::FOLDS]
            train = torch.ones(pairs, dtype=torch.bool).index_fill_(0, test, False)
            rewards = HybridReward.fit_gates(chosen[train], rejected[train], seed=repetition)
            for gate, reward in rewards.items():
                right[gate][test] += _right(reward.score(chosen[test]), reward.score(rejected[test]))
            with torch.no_grad():
                scores = [rewards["uniform"].layer_scores(side[test]) for side in (chosen, rejected)]
            for layer in range(layers):
                right_by_layer[layer, test] += _right(scores[0][:, layer], scores[1][:, layer])
        print(f"repetition {repetition + 1} of {REPETITIONS}", file=sys.stderr, flush=True)
    right = {gate: values / REPETITIONS for gate, values in right.items()}
    by_layer = right_by_layer.mean(axis=1) / REPETITIONS
    oracle = int(by_layer.argmax())
    result = {
        "pairs": pairs,
        "gates": {gate: _row(values, right) for gate, values in right.items()},
        "layer_oracle": {"layer": oracle + 1, "pair_accuracy": by_layer[oracle]},
        "by_layer": by_layer.tolist(),
    }
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "gates.json").write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")
    _print(result)


def _right(chosen: torch.Tensor, rejected: torch.Tensor) -> np.ndarray:
    return ordered_right(chosen.numpy(), rejected.numpy())


def _row(values: np.ndarray, right: dict[str, np.ndarray]) -> dict:
    """Accuracy, and the differences to the rivals, pair by pair."""
    row = {"pair_accuracy": _interval(values)}
    return row | {f"minus_{name}": _interval(values - right[gate]) for name, gate in RIVALS.items()}


def _interval(values: np.ndarray) -> dict:
    mean, low, high = t_interval(values.tolist())
    return {"mean": mean, "ci95": [low, high]}


def _print(result: dict) -> None:
    print(f"{'gate':<16}{'pair accuracy':<26}{'minus last layer':<34}minus best layer by inner validation")
    for gate, row in result["gates"].items():
        cells = [_cell(row["pair_accuracy"])]
        for name, rival in RIVALS.items():
            difference = row[f"minus_{name}"]
            verdict = " above" if difference["ci95"][0] > 0 else " below" if difference["ci95"][1] < 0 else ""
            cells.append("-" if gate == rival else _cell(difference) + verdict)
        print(f"{gate:<16}{cells[0]:<26}{cells[1]:<34}{cells[2]}")
    oracle = result["layer_oracle"]
    print(f"best layer in hindsight: {oracle['layer']}, {oracle['pair_accuracy']:.3f}")


def _cell(summary: dict) -> str:
    low, high = summary["ci95"]
    return f"{summary['mean']:.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DATA)
