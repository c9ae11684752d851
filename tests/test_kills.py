"""Ctrl-C and SIGKILL at any moment: the next run completes, with the bytes of a run never disturbed."""

import itertools
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests import small_recipe
from tests.small_recipe import different


@pytest.fixture(scope="module")
def whole(tmp_path_factory, world_folder) -> Path:
    """A run never disturbed; what all others are compared with."""
    folder = tmp_path_factory.mktemp("whole")
    started = time.perf_counter()
    small_recipe.run(folder)
    assert time.perf_counter() - started < 60
    return folder / "run"


def start(folder: Path) -> subprocess.Popen:
    return subprocess.Popen(
        small_recipe.command("run.dir=run"), cwd=folder, env=small_recipe.environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.slow
def test_ctrl_c_is_one_line_and_the_same_command_goes_on(tmp_path, whole):
    process = start(tmp_path)
    for line in process.stdout:
        if line.startswith("annotate: "):
            break
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert errors.strip().splitlines()[-1] == "repalign: interrupted; the same command goes on in run"
    assert "Traceback" not in errors
    assert "induce: up to date" in small_recipe.run(tmp_path).stdout
    assert not different(tmp_path / "run", whole)


def kill_and_finish(folder: Path, whole: Path, kills: int, seed: int) -> list[str]:
    """Kills a run at random moments, a third of them while a file is being written; then lets it finish.

    Every third run starts over published stages with another setting, so that old files are replaced when it is killed.
    A run that ended before its moment came is no kill, and another is tried. Returns what was killed where.
    """
    chance = random.Random(seed)
    moments: list[str] = []
    for number in itertools.count():
        if len(moments) == kills:
            return moments
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        replacing = number % 3 == 2
        if replacing:
            shutil.copytree(whole, folder / "run")
            small_recipe.run(folder, "annotator.contrast.refusal=no")
        process = start(folder)
        stage = chance.choice(["induce", "annotate", "train_rm", "train_rm", "report"])
        in_write, delay = number % 3 == 0, chance.uniform(0, {"train_rm": 8.0}.get(stage, 1.0))
        for line in process.stdout:
            if line.startswith(f"{stage}: "):
                break
        where = f"after {delay:.2f} s"
        if in_write:
            where = _wait_for_a_write(folder / "run" / ".work", process)
        else:
            time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if process.returncode != -signal.SIGKILL or where == "":
            continue
        moments.append(f"{stage}, {where}{', over published stages' if replacing else ''}")
        print(f"kill {len(moments)} (seed {seed}): {moments[-1]}", flush=True)
        small_recipe.run(folder)
        assert not different(folder / "run", whole), moments[-1]
    raise AssertionError


def _wait_for_a_write(work: Path, process: subprocess.Popen) -> str:
    """Returns the name of a file that is unfinished, or being written by a library, at this moment; "" if none came."""
    known = {path for path in work.rglob("*") if path.is_file()}
    while process.poll() is None:
        for path in work.rglob("*"):
            unfinished = path.name.startswith(".") or path.suffix in (".safetensors", ".pt", ".png")
            if path not in known and unfinished and path.is_file():
                return f"inside a write of {path.name}"
    return ""


@pytest.mark.slow
def test_a_killed_run_finishes_with_the_bytes_of_one_never_killed(tmp_path, whole):
    kill_and_finish(tmp_path / "killed", whole, kills=5, seed=random.randrange(10**6))


@pytest.mark.soak
def test_forty_kills(tmp_path, whole):
    moments = kill_and_finish(tmp_path / "killed", whole, kills=40, seed=random.randrange(10**6))
    for stage in ("induce", "annotate", "train_rm"):
        assert sum(moment.startswith(stage) for moment in moments) >= 2
    assert sum("inside a write" in moment for moment in moments) >= 5
    assert sum("over published stages" in moment for moment in moments) >= 5
