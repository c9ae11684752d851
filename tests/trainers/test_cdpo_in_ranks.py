"""One rank with batch 8, two ranks with batch 4, micro-batches and DeepSpeed: the same losses and the same reward."""

import hashlib
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


@pytest.fixture(scope="module")
def in_ranks(folder, once):  # noqa: F811
    """Trains in ranks; what each way found is kept, since several tests ask for it."""
    reward = once("reward-for-ranks", lambda path: fitted_reward(folder, pairs(52), path / "out").save(path / "reward"))

    def train(launcher: list[str], **settings) -> dict:
        given = {"reward": str(reward / "reward"), **settings}
        words = [f"{name}={json.dumps(value)}" for name, value in given.items() if value is not None]

        def run(work: Path) -> None:
            done = subprocess.run(
                [*launcher, SCRIPT, str(work / "found.json"), str(folder), *words], cwd=REPOSITORY,
                capture_output=True, text=True, check=False, timeout=600,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "CI": "true"},
            )  # fmt: skip
            assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]

        name = hashlib.sha256(json.dumps([launcher, settings], sort_keys=True).encode()).hexdigest()[:8]
        return json.loads((once(f"ranks-{name}", run) / "found.json").read_text())

    return train


def same(one: dict, other: dict, tolerance: float) -> None:
    losses = one["logs"]["loss"]
    assert len(losses) == 21 and np.mean(losses[-7:]) < 0.8 * losses[0]
    for name in ("loss", "confidence", "hybrid_gap", "dpo_gap", "head_loss", "saturated_share"):
        room = tolerance * (3 if name == "dpo_gap" else 1)  # of four sums of log-probabilities, 1e-6 off each
        assert np.allclose(one["logs"][name], other["logs"][name], rtol=tolerance, atol=room), name
    assert np.abs(np.array(one["head"]) - np.array(other["head"])).max() < tolerance
    for name in ("eval_loss", "eval_confidence", "eval_dpo_accuracy", "eval_hybrid_gap"):  # 11 pairs: ranks have filler
        assert one["evaluated"][name] == pytest.approx(other["evaluated"][name], rel=10 * tolerance, abs=10 * tolerance)


@pytest.mark.slow
def test_ranks_and_micro_batches_make_no_difference(in_ranks):
    """52 pairs in steps of 8: every epoch ends with a step of 4, one rank of which has filler only. Rows are packed. Of
    micro-batches in one process there is a fast test."""
    one = in_ranks(ONE, per_device_train_batch_size=8, packing="off")
    same(one, in_ranks(ONE, per_device_train_batch_size=8), 1e-5)
    same(one, in_ranks(TWO, per_device_train_batch_size=4), 1e-5)
    same(one, in_ranks(TWO, per_device_train_batch_size=2, gradient_accumulation_steps=2), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["zero2_cpu", "zero3_cpu"])
def test_deepspeed_makes_no_difference(in_ranks, launcher):
    """Nor do, under DeepSpeed, micro-batches, or references that are computed before the training."""
    one = in_ranks(ONE, per_device_train_batch_size=8, packing="off")
    same(one, in_ranks(accelerate(launcher), per_device_train_batch_size=2, gradient_accumulation_steps=2), 1e-4)
    same(one, in_ranks(accelerate(launcher), per_device_train_batch_size=4, precompute_ref_log_probs=True), 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["zero3_cpu"])
def test_a_reward_fitted_at_start_is_the_same_on_every_rank(in_ranks, launcher):
    alone = in_ranks(ONE, per_device_train_batch_size=8, reward=None, max_steps=3)
    ranks = in_ranks(accelerate(launcher), per_device_train_batch_size=4, reward=None, max_steps=3)
    assert np.allclose(alone["logs"]["confidence"], ranks["logs"]["confidence"], atol=1e-3)
