"""One rank with batch 8, two ranks with batch 4, micro-batches and DeepSpeed: the same losses and the same reward."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import REPOSITORY
from tests.trainers.test_cdpo import fitted_reward, folder, pairs  # noqa: F401 (a fixture)

SCRIPT = "tests/trainers/train_in_ranks.py"
LAUNCH = REPOSITORY / "launch" / "accelerate"
ONE = [sys.executable]
TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def accelerate(name: str) -> list[str]:
    return [
        sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0", "--config_file",
        str(LAUNCH / f"{name}.yaml"),
    ]  # fmt: skip


DEEPSPEED = {
    "micro": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
    "references": {"per_device_train_batch_size": 4, "precompute_ref_log_probs": True},
}
TRAININGS = {  # what each launcher starts, and what the ranks that it starts train, one after the other
    "one": (
        ONE,
        {
            "padded": {"per_device_train_batch_size": 8, "packing": "off"},
            "packed": {"per_device_train_batch_size": 8},
            "fitted": {"per_device_train_batch_size": 8, "reward": None, "max_steps": 3},
        },
    ),
    "two": (
        TWO,
        {
            "whole": {"per_device_train_batch_size": 4},
            "micro": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
        },
    ),
    "zero2_cpu": (accelerate("zero2_cpu"), DEEPSPEED),
    "zero3_cpu": (
        accelerate("zero3_cpu"),
        {**DEEPSPEED, "fitted": {"per_device_train_batch_size": 4, "reward": None, "max_steps": 3}},
    ),
}


@pytest.fixture(scope="module")
def in_ranks(folder, once):  # noqa: F811
    """in_ranks(launcher, name): what a training found. All of a launcher's are made at once: processes take longer to
    start than these models to train."""
    reward = once("reward-for-ranks", lambda path: fitted_reward(folder, pairs(52), path / "out").save(path / "reward"))

    def found(launcher: str, name: str) -> dict:
        command, trainings = TRAININGS[launcher]
        settings = {name: {"reward": str(reward / "reward"), **given} for name, given in trainings.items()}

        def run(work: Path) -> None:
            done = subprocess.run(
                [*command, SCRIPT, str(work), str(folder), json.dumps(settings)], cwd=REPOSITORY,
                capture_output=True, text=True, check=False, timeout=600,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "CI": "true"},
            )  # fmt: skip
            assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]

        figures = json.loads((once(f"ranks-{launcher}", run) / f"{name}.json").read_text())
        assert figures.pop("packed") == ("packing" not in trainings[name]), "rows that were put to the test"
        return figures

    return found


def same(one: dict, other: dict, tolerance: float) -> None:
    losses = one["logs"]["loss"]
    assert len(losses) == 21 and np.mean(losses[-7:]) < 0.8 * losses[0]
    assert len(set(one["logs"]["alpha"])) == 2, "it is fitted anew after 20 steps"
    for name in ("loss", "confidence", "hybrid_gap", "dpo_gap", "head_loss", "saturated_share", "alpha", "kl"):
        room = tolerance * (3 if name == "dpo_gap" else 1)  # of four sums of log-probabilities, 1e-6 off each
        if name in other["logs"]:  # references that are computed before the training have no `kl`
            assert np.allclose(one["logs"][name], other["logs"][name], rtol=tolerance, atol=room), name
    assert np.abs(np.array(one["head"]) - np.array(other["head"])).max() < tolerance
    for name in ("eval_loss", "eval_confidence", "eval_dpo_accuracy", "eval_hybrid_gap"):  # 11 pairs: ranks have filler
        assert one["evaluated"][name] == pytest.approx(other["evaluated"][name], rel=10 * tolerance, abs=10 * tolerance)


@pytest.mark.slow
def test_ranks_and_micro_batches_make_no_difference(in_ranks):
    """52 pairs in steps of 8: every epoch ends with a step of 4, one rank of which has filler only. Rows are packed. Of
    micro-batches in one process there is a fast test."""
    one = in_ranks("one", "padded")
    same(one, in_ranks("one", "packed"), 1e-5)
    same(one, in_ranks("two", "whole"), 1e-5)
    same(one, in_ranks("two", "micro"), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["zero2_cpu", "zero3_cpu"])
def test_deepspeed_makes_no_difference(in_ranks, launcher):
    """Nor do, under DeepSpeed, micro-batches, or references that are computed before the training."""
    one = in_ranks("one", "padded")
    same(one, in_ranks(launcher, "micro"), 1e-4)
    same(one, in_ranks(launcher, "references"), 1e-4)


@pytest.mark.slow
def test_a_reward_fitted_at_start_is_the_same_on_every_rank(in_ranks):
    alone, ranks = in_ranks("one", "fitted"), in_ranks("zero3_cpu", "fitted")
    assert np.allclose(alone["logs"]["confidence"], ranks["logs"]["confidence"], atol=1e-3)
