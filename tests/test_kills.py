"""Ctrl-C and SIGKILL at any moment: the next run completes, with the bytes of a run never disturbed."""

import itertools
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from alignment.runs import artifacts
from alignment.runs.manifest import MANIFEST, Manifest
from alignment.stages import STAGES
from tests import small_recipe
from tests.small_recipe import Undisturbed, different


@dataclass(frozen=True)
class Recipe:
    """kills: the stages that are killed."""

    stages: tuple[str, ...]
    settings: tuple[str, ...]
    kills: tuple[str, ...]

    def before(self, stage: str) -> tuple[str, ...]:
        """What needn't be computed again to kill a stage."""
        return self.stages[: self.stages.index(stage)]


LEGEND_RM = Recipe(
    ("induce", "annotate", "train_rm", "report"),
    tuple(small_recipe.SMALL),
    ("induce", "annotate", "train_rm", "train_rm", "report"),
)
CDPO = Recipe(
    ("fit_reward", "build_pairs", "train_cdpo", "evaluate", "report"),
    tuple(small_recipe.CDPO),
    ("fit_reward", "build_pairs", "train_cdpo", "evaluate"),
)


def start(recipe: Recipe, folder: Path) -> subprocess.Popen:
    return subprocess.Popen(
        small_recipe.command(*recipe.settings, "run.dir=run"), cwd=folder, env=small_recipe.environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "stage", "made", "before"),
    [(LEGEND_RM, "annotate", "batch-*", "induce"), (CDPO, "train_cdpo", "checkpoint-*", "build_pairs")],
    ids=["annotate", "train_cdpo"],
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


def kill_and_finish(recipe: Recipe, whole: Undisturbed, folder: Path, kills: int, seed: int) -> list[str]:
    """Kills a run three times in a row, once while a file is being written; then lets it finish; until there were as
    many kills. Returns what was killed where.

    The first kill of a row is in one stage after the other, the next ones in any that isn't done. Every second row
    begins over stages made with another setting, so that old files are replaced when it is killed.
    """
    chance = random.Random(seed)
    first = chance.randrange(2 * len(recipe.kills))
    moments: list[str] = []
    for row in itertools.count(first):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        replacing, stage = row % 2 == 0, recipe.kills[row // 2 % len(recipe.kills)]
        if replacing:
            copy_outdated(whole.run, folder / "run", set(recipe.stages))
        small_recipe.copy_stages(whole.run, folder / "run", recipe.before(stage))
        in_write = chance.randrange(3)
        for number in range(3):
            where = kill(recipe, stage, folder, whole, chance, number == in_write)
            if where is None:
                break
            moments.append(f"{stage}, {where}{', over published stages' if replacing else ''}")
            print(f"kill {len(moments)} (seed {seed}): {moments[-1]}", flush=True)
            left = [stage for stage in recipe.kills if not is_done(stage, folder / "run", whole.run)]
            if not left or len(moments) == kills:
                break
            stage = chance.choice(left)
        small_recipe.run(folder, *recipe.settings)
        assert not different(folder / "run", whole.run), moments
        if len(moments) == kills:
            return moments
    raise AssertionError


def kill(
    recipe: Recipe, stage: str, folder: Path, whole: Undisturbed, chance: random.Random, in_write: bool
) -> str | None:
    """Kills the run in this stage and says where; None if it ended before the moment came."""
    process, delay = start(recipe, folder), chance.uniform(*moments_of(stage, recipe, whole))
    for line in process.stdout:
        if line.startswith(f"{stage}: "):
            break
    where = f"after {delay:.2f} s"
    if in_write:
        where = _wait_for_a_write(folder / "run" / ".work", process, chance)
    else:
        time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), errors
    return where if process.returncode else None


def copy_outdated(whole: Path, root: Path, stages: Collection[str]) -> None:
    """These stages as another setting might have made them: each file is another one, and whole."""
    for stage in stages:
        made = root / f".{stage}"
        shutil.copytree(whole / stage, made)
        for path in made.rglob("*"):
            if path.is_file():
                path.write_bytes(path.read_bytes() + b"other")
        manifest = Manifest.read(whole / stage)
        artifacts.publish(made, root / stage, replace(manifest, config=manifest.config | {"setting": "another"}))


def is_done(stage: str, root: Path, whole: Path) -> bool:
    manifest = root / stage / MANIFEST
    return manifest.exists() and manifest.read_bytes() == (whole / stage / MANIFEST).read_bytes()


def moments_of(stage: str, recipe: Recipe, whole: Undisturbed) -> tuple[float, float]:
    """The seconds after which a stage may be killed, if a process begins with it: rather not as it imports libraries,
    for which the undisturbed run took the seconds of its first stage that this stage didn't count."""
    first = recipe.stages[0]
    imports = whole.seconds[first] - float(re.search(r"^  ([\d.]+) s;", whole.output, re.MULTILINE)[1])
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
    """Beginning with a random stage, in a new folder or over published stages; once in a write."""
    kill_and_finish(recipe, undisturbed(*recipe.settings), tmp_path / "killed", kills, seed=random.randrange(10**6))


@pytest.mark.soak
@pytest.mark.parametrize(("recipe", "kills"), [(LEGEND_RM, 60), (CDPO, 48)], ids=["legend_rm", "cdpo"])
def test_many_kills(recipe, kills, tmp_path, undisturbed):
    whole = undisturbed(*recipe.settings)
    moments = kill_and_finish(recipe, whole, tmp_path / "killed", kills, seed=random.randrange(10**6))
    for stage in recipe.kills:
        assert sum(moment.startswith(f"{stage},") for moment in moments) >= 2
    assert sum("inside a write" in moment for moment in moments) >= 5
    assert sum("over published stages" in moment for moment in moments) >= 5
