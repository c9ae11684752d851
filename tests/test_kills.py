"""Ctrl-C and SIGKILL at any moment: the next run completes, with the bytes of a run never disturbed."""

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
    """Kills a run at `kills` random moments, a third of them while a file is being written; then lets it finish."""
    chance = random.Random(seed)
    moments = []
    for number in range(kills):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        process = start(folder)
        stage = chance.choice(["induce", "annotate", "train_rm", "train_rm", "report"])
        in_write, delay = chance.random() < 1 / 3, chance.uniform(0, {"train_rm": 8.0}.get(stage, 2.0))
        moment = f"kill {number} (seed {seed}): {stage}, {'inside a write' if in_write else f'after {delay:.2f} s'}"
        for line in process.stdout:
            if line.startswith(f"{stage}: "):
                break
        if in_write:
            before = {path for path in (folder / "run").rglob(".*") if path.is_file()}
            stop = time.perf_counter() + 10
            while time.perf_counter() < stop and process.poll() is None:
                written = {path for path in (folder / "run" / ".work").rglob("*") if path.is_file()}
                if any(path.name.startswith(".") or path.suffix == ".safetensors" for path in written - before):
                    break
        else:
            time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        moments.append(moment + (" (it had ended)" if process.returncode == 0 else ""))
        print(moments[-1])
        small_recipe.run(folder)
        assert not different(folder / "run", whole), moment
    return moments


@pytest.mark.slow
def test_a_killed_run_finishes_with_the_bytes_of_one_never_killed(tmp_path, whole):
    kill_and_finish(tmp_path / "killed", whole, kills=5, seed=random.randrange(10**6))


@pytest.mark.soak
def test_forty_kills(tmp_path, whole):
    moments = kill_and_finish(tmp_path / "killed", whole, kills=40, seed=random.randrange(10**6))
    for stage in ("induce", "annotate", "train_rm"):
        assert sum(stage in moment for moment in moments) >= 2
    assert sum("inside a write" in moment for moment in moments) >= 5
