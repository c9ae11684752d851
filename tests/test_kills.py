"""Ctrl-C and SIGKILL at any moment: the next run completes, with the bytes of a run never disturbed."""

import itertools
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from alignment.stages import STAGES
from tests import small_recipe
from tests.small_recipe import Undisturbed, different


@dataclass(frozen=True)
class Recipe:
    """kills: the stages that are killed, in turn. other: a setting under which every one of them gives other files."""

    stages: tuple[str, ...]
    settings: tuple[str, ...]
    kills: tuple[str, ...]
    other: str

    def before(self, stage: str) -> tuple[str, ...]:
        """What needn't be computed again to kill a stage."""
        return self.stages[: self.stages.index(stage)]


LEGEND_RM = Recipe(
    ("induce", "annotate", "train_rm", "report"),
    tuple(small_recipe.SMALL),
    ("induce", "annotate", "train_rm", "train_rm", "report"),
    "annotator.contrast.refusal=no",
)
CDPO = Recipe(
    ("fit_reward", "build_pairs", "train_cdpo", "evaluate", "report"),
    tuple(small_recipe.CDPO),
    ("fit_reward", "build_pairs", "train_cdpo", "evaluate"),
    "reward.margin=2",
)


def start(recipe: Recipe, folder: Path) -> subprocess.Popen:
    return subprocess.Popen(
        small_recipe.command(*recipe.settings, "run.dir=run"), cwd=folder, env=small_recipe.environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "stage", "made", "before"),
    [
        (LEGEND_RM, "annotate", "batch-*", "induce"),
        (CDPO, "build_pairs", "batch-*", "fit_reward"),
        (CDPO, "train_cdpo", "checkpoint-*", "build_pairs"),
    ],
    ids=["annotate", "build_pairs", "train_cdpo"],
)
def test_ctrl_c_is_one_line_and_the_same_command_goes_on(recipe, stage, made, before, tmp_path, undisturbed):
    """Pressed as soon as the stage has a batch or a checkpoint to go on from."""
    whole = undisturbed(*recipe.settings).run
    small_recipe.copy_stages(whole, tmp_path / "run", recipe.before(before))
    process = start(recipe, tmp_path)
    work = tmp_path / "run" / ".work"
    while not any(path for folder in work.glob(f"{stage}-*") for path in folder.rglob(made)):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert errors.strip().splitlines()[-1] == "repalign: interrupted; the same command goes on in run"
    assert "Traceback" not in errors
    assert f"{before}: up to date" in small_recipe.run(tmp_path, *recipe.settings).stdout
    assert not different(tmp_path / "run", whole)


def kill_and_finish(
    recipe: Recipe, whole: Undisturbed, other: Callable[[], Undisturbed], folder: Path, kills: int, seed: int
) -> list[str]:
    """Kills a run at random moments, a third of them while a file is being written; then lets it finish.

    Every third run starts over stages published with another setting, so that old files are replaced when it is killed.
    A run that ended before its moment came is no kill, and another is tried. Returns what was killed where.
    """
    chance = random.Random(seed)
    first = chance.randrange(len(recipe.kills))
    moments: list[str] = []
    for number in itertools.count():
        if len(moments) == kills:
            return moments
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        replacing = number % 3 == 2
        if replacing:
            shutil.copytree(other().run, folder / "run")
            kept = {name for name in different(folder / "run", whole.run) if name.endswith("manifest.json")}
            assert {f"{stage}/manifest.json" for stage in recipe.kills} <= kept, "every stage has something to replace"
        stage = recipe.kills[(first + len(moments)) % len(recipe.kills)]
        small_recipe.copy_stages(whole.run, folder / "run", recipe.before(stage))
        process = start(recipe, folder)
        in_write, delay = number % 3 == 0, chance.uniform(*moments_of(stage, recipe, whole))
        for line in process.stdout:
            if line.startswith(f"{stage}: "):
                break
        where = f"after {delay:.2f} s"
        if in_write:
            where = _wait_for_a_write(folder / "run" / ".work", process, chance)
        else:
            time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if process.returncode != -signal.SIGKILL or where == "":
            continue
        moments.append(f"{stage}, {where}{', over published stages' if replacing else ''}")
        print(f"kill {len(moments)} (seed {seed}): {moments[-1]}", flush=True)
        small_recipe.run(folder, *recipe.settings)
        assert not different(folder / "run", whole.run), moments[-1]
    raise AssertionError


def moments_of(stage: str, recipe: Recipe, whole: Undisturbed) -> tuple[float, float]:
    """The seconds after which a stage may be killed, if a process begins with it: rather not as it imports libraries,
    for which the undisturbed run took the seconds of its first stage that this stage didn't count."""
    first = recipe.stages[0]
    imports = whole.seconds[first] - float(re.search(r"^  ([\d.]+) s$", whole.output, re.MULTILINE)[1])
    own = whole.seconds[stage] - (imports if stage == first else 0)
    return (imports / 2, imports + own) if STAGES[stage].model else (0, own)


def _wait_for_a_write(work: Path, process: subprocess.Popen, chance: random.Random) -> str:
    """Returns the name of a file that is unfinished, or being written by a library, at this moment; "" if none came.

    Not always the first one: a stage that writes a hundred files is killed in any of the first four.
    """
    known, passed = {path for path in work.rglob("*") if path.is_file()}, chance.randrange(4)
    while process.poll() is None:
        for path in work.rglob("*"):
            unfinished = path.name.startswith(".") or path.suffix in (".safetensors", ".pt", ".png")
            if path not in known and unfinished and path.is_file():
                if not passed:
                    return f"inside a write of {path.name}"
                known.add(path)
                passed -= 1
    return ""


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "kills"), [(LEGEND_RM, 3), (CDPO, 3)], ids=["legend_rm", "cdpo"])
def test_a_killed_run_finishes_with_the_bytes_of_one_never_killed(recipe, kills, tmp_path, undisturbed):
    """Of one killed in a write, one at any moment, and one over published stages; beginning with a random stage."""
    whole, other = undisturbed(*recipe.settings), partial(undisturbed, *recipe.settings, recipe.other)
    kill_and_finish(recipe, whole, other, tmp_path / "killed", kills, seed=random.randrange(10**6))


@pytest.mark.soak
@pytest.mark.parametrize(("recipe", "kills"), [(LEGEND_RM, 40), (CDPO, 30)], ids=["legend_rm", "cdpo"])
def test_many_kills(recipe, kills, tmp_path, undisturbed):
    whole, other = undisturbed(*recipe.settings), partial(undisturbed, *recipe.settings, recipe.other)
    moments = kill_and_finish(recipe, whole, other, tmp_path / "killed", kills, seed=random.randrange(10**6))
    for stage in recipe.kills:
        assert sum(moment.startswith(f"{stage},") for moment in moments) >= 2
    assert sum("inside a write" in moment for moment in moments) >= 5
    assert sum("over published stages" in moment for moment in moments) >= 5
