"""legend_rm and cdpo in under twenty seconds, as a user would run them: in a process of their own."""

import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alignment.runs import results
from alignment.stages import STAGES

# One worker: processes take longer to start than these models to train.
SMALL = [
    "+recipe=legend_rm", "data.pairs=96", "data.heldout=64", "data.evaluation=60", "annotator.contrast.count=40",
    "annotator.batch_tokens=1024", "reward_model.seeds=[0]", "trainer.num_train_epochs=1", "trainer.save_steps=1",
    "trainer.logging_steps=1", "run.workers=1",
]  # fmt: skip
# Every kind of work there is: batches of states, of samples and of scores, a grid with validation, two trainings with a
# checkpoint at every step, and the best of several samples.
CDPO = [
    "+recipe=cdpo", "data.noise=0", "data.double_edged=0",
    "data.pairs=60", "data.heldout=40", "data.evaluation=20", "reward.batch_tokens=512",
    "sampling.n=4", "sampling.batch_tokens=1024", "policy.systems=[base,rs_star,cdpo_star]", "policy.beta=[0.1,0.3]",
    "policy.batch_size=8", "policy.max_steps=4", "policy.logging_steps=1", "policy.save_steps=1",
    "evaluation.prompts=8", "evaluation.validation=8", "run.workers=1",
]  # fmt: skip


def environment(**more: str) -> dict[str, str]:
    """This environment with one thread per process, so that any number of processes computes the same bits."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **more}


def command(*overrides: str) -> list[str]:
    """legend_rm in small, or another recipe given whole."""
    whole = any(override.startswith("+recipe=") for override in overrides)
    return [sys.executable, "-m", "alignment.run", *([] if whole else SMALL), *overrides]


def run(folder: Path, *overrides: str, check: bool = True, **env: str) -> subprocess.CompletedProcess:
    """The recipe in `folder`, files in folder/run; its output as text."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        command("run.dir=run", *overrides), cwd=folder, env=environment(**env), capture_output=True, text=True,
        check=False, timeout=600,
    )  # fmt: skip
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@dataclass(frozen=True)
class Undisturbed:
    """A run that nothing happened to: what others are compared with. seconds: of each stage, its imports included."""

    run: Path
    output: str
    seconds: dict[str, float]


def undisturbed(folder: Path, *overrides: str) -> None:
    """The recipe in `folder`, as `run` has it, and what `Undisturbed` holds."""
    output, moments = "", []
    with (folder / "errors").open("w") as errors:
        process = subprocess.Popen(
            command(*overrides, "run.dir=run"), cwd=folder, env=environment(), text=True, stdout=subprocess.PIPE,
            stderr=errors,
        )  # fmt: skip
        for line in process.stdout:
            output += line
            if line.partition(":")[0] in (*STAGES, "done"):
                moments.append((line.partition(":")[0], time.perf_counter()))
    assert process.wait() == 0, (folder / "errors").read_text()
    seconds = {stage: end - begin for (stage, begin), (_, end) in itertools.pairwise(moments)}
    (folder / "facts.json").write_text(json.dumps([output, seconds]))


def copy_stages(whole: Path, root: Path, stages: Sequence[str]) -> None:
    """What these stages made in one run takes its place in another, where they are up to date then."""
    for name in (*stages, *([".sampled"] if "build_pairs" in stages else [])):
        shutil.rmtree(root / name, ignore_errors=True)
        shutil.copytree(whole / name, root / name)


def artefacts(root: Path) -> dict[str, bytes]:
    """Every published file of a run; what it took in time is no artefact, nor what a launcher wrote."""
    others = ("logs", "slurm", ".exit", ".waiting", ".agreements", *results.KINDS)
    stages = [folder for folder in root.iterdir() if folder.is_dir() and folder.name not in others]
    files = [path for stage in stages for path in stage.rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def different(root: Path, whole: Path) -> set[str]:
    """The published files that two runs don't share byte for byte."""
    one, other = artefacts(root), artefacts(whole)
    return {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}
