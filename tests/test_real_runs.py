"""The recipe as users start it elsewhere than in one process on a healthy disk: ranks, accelerate, a wheel, trackers,
a full disk and a read-only folder. Everything here is the real thing."""

import json
import resource
import shutil
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from alignment.run import run_recipe
from alignment.runs import artifacts
from alignment.settings.compose import compose_config
from tests import small_recipe
from tests.conftest import REPOSITORY
from tests.small_recipe import different


@pytest.fixture
def whole(undisturbed) -> Path:
    return undisturbed(*small_recipe.SMALL).run


# ---- ranks ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_ranks_give_the_files_of_one(tmp_path, whole):
    """The same bytes up to the reward models, whose gradients two ranks sum in another order: those to 1e-4. Under
    DeepSpeed they are in test_policy_runs.py."""
    torchrun = ["torch.distributed.run", "--nproc-per-node", "2", "-m", "alignment.run"]
    command = [sys.executable, "-m", *torchrun, *small_recipe.SMALL, "run.dir=run"]
    done = subprocess.run(
        command, cwd=tmp_path, env=small_recipe.environment(), capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "run"
    assert done.stdout.count("annotate: ") == 1, "the main process alone speaks"
    assert not {name for name in different(run, whole) if name.split("/")[0] in ("induce", "annotate")}
    assert small_recipe.artefacts(run).keys() == small_recipe.artefacts(whole).keys()
    scores = [artifacts.read_rows(root / "train_rm/scores.parquet") for root in (run, whole)]
    for ours, expected in zip(*scores, strict=True):
        for side in ("chosen_score", "rejected_score"):
            assert ours[side] == pytest.approx(expected[side], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mistake", "line"),
    {
        "stages=[annotate]": "repalign: stages: annotate needs what induce makes",
        "model.chat_template=none.jinja": "repalign: model.chat_template: there is no file none.jinja",
    }.items(),
)
def test_a_mistake_found_by_the_main_process_ends_all_ranks_with_one_line(mistake, line, tmp_path, world_folder):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "alignment.run"]
    local = ["model=local", f"model.path={world_folder}"] if mistake.startswith("model") else []
    done = subprocess.run(
        [*command, *small_recipe.SMALL, *local, mistake, "run.dir=run"],
        cwd=tmp_path, env=small_recipe.environment(), capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode != 0
    assert done.stderr.count(line) == 1
    ours = done.stderr.split("torch/distributed/elastic")[0]  # the launcher's own traceback follows
    assert "Traceback" not in ours


# ---- trackers -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_tensorboard_gets_a_curve_of_every_model(tmp_path, whole):
    for stage in ("induce", "annotate"):
        shutil.copytree(whole / stage, tmp_path / "run" / stage)
    run_recipe(compose_config([*small_recipe.SMALL, f"run.dir={tmp_path}/run", "run.tracking=tensorboard"]))
    for margins in ("none", "legend"):
        events = EventAccumulator(str(tmp_path / "run/logs/tensorboard" / f"{margins}-seed-0")).Reload()
        assert {"train/loss", "train/accuracy", "train/reward_gap"} <= set(events.Tags()["scalars"])
    assert not different(tmp_path / "run", whole) - {"train_rm/manifest.json"}


@pytest.mark.slow
def test_wandb_offline_writes_a_run_folder_for_every_model(tmp_path, whole):
    """Beside the trainings alone: what is annotated is there already."""
    for stage in ("induce", "annotate"):
        shutil.copytree(whole / stage, tmp_path / "run" / stage)
    out = small_recipe.run(tmp_path, "stages=[train_rm]", "run.tracking=wandb", WANDB_MODE="offline")
    runs = list((tmp_path / "run/logs/wandb").glob("offline-run-*"))
    assert len(runs) == 2 and all(list(folder.glob("*.wandb")) for folder in runs)
    assert "api_key" not in out.stdout + out.stderr


# ---- the built wheel ------------------------------------------------------------------------------------------------


def link_what_it_needs(site: Path) -> None:
    """Links to the packages installed here that repalign in this folder requires, that these require, and so on."""
    (ours,) = metadata.distributions(name="repalign", path=[str(site)])
    waiting, known = [(ours, frozenset())], set()
    while waiting:
        package, extras = waiting.pop()
        if package is not ours:
            for top in {file.parts[0] for file in package.files} - {"..", "__pycache__"}:
                if not (site / top).exists():
                    (site / top).symlink_to(package.locate_file(top))
        for requirement in map(Requirement, package.requires or []):
            wanted = (requirement.name, frozenset(requirement.extras))
            marker = requirement.marker
            if wanted in known or not (marker is None or any(marker.evaluate({"extra": one}) for one in {"", *extras})):
                continue
            known.add(wanted)
            waiting.append((metadata.distribution(requirement.name), wanted[1]))


@pytest.mark.slow
def test_the_wheel_runs_from_any_folder(tmp_path, whole):
    """In an environment that has what its metadata ask for and nothing else."""
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(REPOSITORY)],
        check=True, capture_output=True, timeout=300,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("repalign-*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv/bin/python"
    pip = [sys.executable, "-m", "pip", "--python", str(python)]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", str(wheel)], check=True, capture_output=True, timeout=300)
    (site,) = (tmp_path / "venv/lib").glob("python3.*/site-packages")
    link_what_it_needs(site)
    done = subprocess.run([*pip, "check"], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = subprocess.run(
        [python, "-m", "alignment.run", *small_recipe.SMALL, "run.dir=run"],
        cwd=elsewhere, env=small_recipe.environment(), capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    changed = different(elsewhere / "run", whole)
    manifests = {f"{stage}/manifest.json" for stage in ("induce", "annotate", "train_rm", "report")}
    assert changed <= {*manifests, "report/index.html"}  # the git commit, which the page shows


# ---- disks ----------------------------------------------------------------------------------------------------------


def small_disk(tmp_path: Path, size: str, inside: str) -> subprocess.CompletedProcess:
    """Runs `inside` with a real file system of that size mounted at `disk`, in a mount namespace of its own."""
    (tmp_path / "disk").mkdir()
    script = f"mount -t tmpfs -o size={size} none disk && {inside}"
    namespace = ["unshare", "--mount", "--map-root-user"]
    if subprocess.run([*namespace, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine doesn't allow a mount namespace")
    return subprocess.run(
        [*namespace, "sh", "-c", script], cwd=tmp_path, env=small_recipe.environment(), capture_output=True, text=True,
        check=False, timeout=300,
    )  # fmt: skip


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_nothing_half_written_is_kept(tmp_path, whole):
    """Room for annotation, not for reward models; then room is made and the same command completes the run."""
    line = " ".join(small_recipe.command("run.dir=disk/run"))
    done = small_disk(
        tmp_path, "3m", f"{line}; code=$?; mount -o remount,size=100m disk; {line} && cp -r disk/run .; exit $code"
    )
    assert done.returncode == 1
    complaints = [text for text in done.stderr.splitlines() if text.startswith("repalign: ")]
    assert complaints == [
        "repalign: disk/run: No space left on device; make room there, or set run.dir, and run the same command again"
    ]
    assert "Traceback" not in done.stderr
    assert done.stdout.count("annotate: up to date") == 1
    assert not different(tmp_path / "run", whole)


@pytest.mark.slow
def test_a_read_only_folder_is_one_line(tmp_path):
    line = " ".join(small_recipe.command("run.dir=disk/run"))
    done = small_disk(tmp_path, "3m", f"mount -o remount,ro disk; {line}")
    assert done.returncode == 2
    assert (
        done.stderr.strip()
        == "repalign: run.dir: cannot write to disk/run: Read-only file system; choose another folder"
    )


# ---- the main job, as the README promises it -------------------------------------------------------------------------


@pytest.mark.soak
def test_make_legend_rm_keeps_its_promises(tmp_path):
    """On two free cores: two and a half minutes and 2 GB, 15 s when everything is cached, and the README's table."""
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        command = [sys.executable, "-m", "alignment.run", "+recipe=legend_rm"]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
        seconds.append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    report = json.loads((tmp_path / "runs/legend_rm/report.json").read_text())
    print(f"{seconds[0]:.0f} s, then {seconds[1]:.1f} s; {peak / 1e9:.2f} GB a process")
    assert seconds[0] <= 150 and seconds[1] <= 15 and peak <= 2e9
    committed = json.loads((REPOSITORY / "docs/reports/legend_rm.json").read_text())
    accuracies = [
        [one["reward_model"][kind]["accuracy"]["mean"] for kind in ("none", "legend")] for one in (report, committed)
    ]
    assert accuracies[0] == pytest.approx(accuracies[1], abs=5e-4), "as the README prints it"
