"""launch=ddp and the like: stages in ranks of their own make what one process makes, and end as they are asked to."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from alignment.runs.run_files import RunDir
from tests import small_recipe
from tests.small_recipe import different
from tests.test_policy_runs import SAME_BYTES, check_policy, check_same_training

TWO = ["launch.processes=2"]
BEFORE_TRAINING = ("fit_reward", "build_pairs")
UNTIL_TRAINED = f"stages=[{','.join([*BEFORE_TRAINING, 'train_cdpo'])}]"


def start(folder: Path, *overrides: str) -> subprocess.Popen:
    return subprocess.Popen(
        small_recipe.command(*small_recipe.CDPO, "run.dir=run", *overrides), cwd=folder, text=True,
        env=small_recipe.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def ranks(launcher: subprocess.Popen, stage: str, count: int = 2) -> list[psutil.Process]:
    """The processes of a stage's ranks, once all are there, in their order."""
    until = time.monotonic() + 240
    while time.monotonic() < until:
        found = {}
        for process in psutil.Process(launcher.pid).children(recursive=True):
            try:
                line, environment = process.cmdline(), process.environ()
            except psutil.Error:
                continue
            if f"run.stage={stage}" in line and "accelerate.commands.launch" not in line and "RANK" in environment:
                found[int(environment["RANK"])] = process
        if len(found) == count:
            return [found[rank] for rank in range(count)]
        assert launcher.poll() is None, launcher.communicate()
        time.sleep(0.2)
    raise AssertionError(f"{stage} has not begun")


def until_training(folder: Path) -> None:
    """Until a first checkpoint is there."""
    until = time.monotonic() + 240
    while not list(checkpoints(folder)):
        assert time.monotonic() < until
        time.sleep(0.1)


def checkpoints(folder: Path) -> Iterator[Path]:
    return folder.glob("run/.work/train_cdpo-*/done/**/checkpoint-*/manifest.json")


@pytest.mark.slow
def test_stages_in_their_own_ranks_make_the_same(undisturbed, tmp_path, world_folder):
    """Under DDP; under ZeRO-2 they are on two nodes, in test_slurm_chain.py."""
    alone = RunDir(undisturbed(*small_recipe.CDPO).run)
    run = RunDir(tmp_path / "josé mit raum" / "run")
    shutil.copytree(undisturbed(*small_recipe.CDPO, "launch=ddp", *TWO).run, run.root)
    check_policy(run, world_folder)
    assert not {name for name in different(run.root, alone.root) if name.split("/")[0] in SAME_BYTES}
    check_same_training(run, alone, world_folder)
    again = small_recipe.run(run.root.parent, *small_recipe.CDPO, "launch=ddp", *TWO)
    assert again.stdout.count("up to date") == 5 and "samples" not in again.stdout
    inline = small_recipe.run(run.root.parent, *small_recipe.CDPO)
    assert inline.stdout.count("up to date") == 5, "the stages know nothing of how they were launched"


@pytest.mark.slow
def test_asked_to_stop_the_ranks_do_and_the_same_command_goes_on(undisturbed, tmp_path):
    """In a folder with an accent and a space in its name. On a busy machine they may be done before they are asked."""
    whole = undisturbed(*small_recipe.CDPO, "launch=ddp", *TWO).run
    tmp_path = tmp_path / "josé mit raum"
    for _ in range(3):
        shutil.rmtree(tmp_path, ignore_errors=True)
        small_recipe.copy_stages(whole, tmp_path / "run", BEFORE_TRAINING)
        launcher = start(tmp_path, "launch=ddp", *TWO, UNTIL_TRAINED)
        until_training(tmp_path)
        launcher.send_signal(signal.SIGUSR1)
        _, error = launcher.communicate(timeout=120)
        if launcher.returncode != 0:
            break
    assert launcher.returncode == 75, error
    assert error.count("repalign: asked to stop") == 2 and "the same command goes on in run" in error
    assert not (tmp_path / "run/train_cdpo").exists(), "what is not finished is not published"
    done = small_recipe.run(tmp_path, *small_recipe.CDPO, "launch=ddp", *TWO, UNTIL_TRAINED)
    assert done.stdout.count("train_cdpo: policies") == 1 and done.stdout.rstrip().endswith("done: run")
    trained = {name for name in small_recipe.artefacts(whole) if name.startswith("train_cdpo/")}
    changed = different(tmp_path / "run", whole) & trained
    assert {Path(name).name for name in changed} <= {"README.md"}, "cards are written when all stages are done"


@pytest.mark.slow
def test_a_rank_that_is_killed_is_named_and_nothing_is_lost(undisturbed, tmp_path):
    whole = undisturbed(*small_recipe.CDPO, "launch=ddp", *TWO).run
    small_recipe.copy_stages(whole, tmp_path / "run", BEFORE_TRAINING)
    launcher = start(tmp_path, "launch=ddp", *TWO, UNTIL_TRAINED)
    second = ranks(launcher, "train_cdpo")[1]
    until_training(tmp_path)
    second.kill()
    _, error = launcher.communicate(timeout=120)
    assert launcher.returncode == 1, error
    assert "train_cdpo: rank 1 on " in error and "did not answer rank 0" in error
    assert "repalign: train_cdpo: one of its ranks was killed" in error
    assert list(checkpoints(tmp_path)), "with which the same command goes on, as it does above"
    assert not different(tmp_path / "run", whole) & {f"{stage}/manifest.json" for stage in BEFORE_TRAINING}


@pytest.mark.slow
def test_a_rank_that_hangs_is_named_within_the_time_out(undisturbed, tmp_path):
    """Under ZeRO-2, whose engine waits in calls of its own; under DDP one is killed above."""
    whole = undisturbed(*small_recipe.CDPO, "launch=ddp", *TWO).run
    small_recipe.copy_stages(whole, tmp_path / "run", BEFORE_TRAINING)
    launcher = start(tmp_path, "launch=zero2", *TWO, UNTIL_TRAINED, "launch.timeout_seconds=15")
    second = ranks(launcher, "train_cdpo")[1]
    until_training(tmp_path)
    second.suspend()
    stopped = time.monotonic()
    try:
        while "rank 1 on " not in (line := launcher.stderr.readline()):
            assert line, "the run ended without a word about the rank that hung"
        assert time.monotonic() - stopped < 15 + 20 + 15  # the time-out, the patience of the others, a busy machine
        assert "gone or silent for 15 s" in line
    finally:
        os.kill(second.pid, signal.SIGKILL)
    launcher.communicate(timeout=120)
    assert launcher.returncode == 1


@pytest.mark.slow
def test_a_mistake_in_a_stage_is_said_once(tmp_path, world_folder):
    """By the ranks; the launcher adds nothing but its exit code."""
    rows = '{"prompt": "a", "chosen": "b", "rejected": "c"}\n' * 3
    (tmp_path / "few.jsonl").write_text(rows)
    overrides = ["data=file", "data.path=few.jsonl", "policy.beta=[0.1]", "policy.systems=[cdpo]"]
    given = [one for one in small_recipe.CDPO if not one.startswith(("data.", "policy.beta", "policy.systems"))]
    done = small_recipe.run(tmp_path, *given, *overrides, "launch=ddp", *TWO, check=False)
    assert done.returncode in (1, 2)
    assert done.stderr.count("repalign: ") == 1, done.stderr


@pytest.mark.slow
def test_ranks_that_are_there_already_and_a_launch_of_others(tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, "-m", "alignment.run", "+recipe=cdpo", "launch=ddp", *TWO],
        cwd=tmp_path, env=small_recipe.environment(), capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode != 0
    assert "repalign: launch: 2 ranks are there already; leave it out, or start one process" in done.stderr


@pytest.mark.slow
def test_without_a_gpu_the_number_of_ranks_is_asked_for(tmp_path):
    done = small_recipe.run(tmp_path, *small_recipe.CDPO, "launch=zero2", check=False)
    assert done.returncode == 2
    assert done.stderr.strip().endswith(
        "launch.processes: there is no GPU to count; say how many ranks, as launch.processes=2"
    )
