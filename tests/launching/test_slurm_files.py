"""What is written for Slurm: one file for each stage, with everything that was asked for, read back as it was meant."""

import os
import re
import shlex
import subprocess
from itertools import pairwise

import pytest

from alignment.launching import slurm
from alignment.runs.run_files import RunDir
from alignment.settings.compose import compose_config, quoted, split_arguments
from alignment.settings.launch_rules import slurm_seconds
from alignment.types import UserError

CPU = ["launch=slurm", "launch.gpus=0", "launch.processes=1", "launch.nodes=2", "launch.submit=false"]


def job(folder, stage: str, *overrides: str, recipe: str = "cdpo") -> str:
    given = [f"+recipe={recipe}", *CPU, *overrides]
    cfg = compose_config([*given, f"run.dir={quoted(str(folder))}"])
    text = slurm.script(cfg, RunDir(folder), stage, given)
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    assert "@" not in text.replace("USR1@", ""), "a field was left open"
    return text


def command(text: str) -> list[str]:
    """What a node runs, as its shell reads it."""
    ranks = shlex.split(text[text.index("ranks=") :].split("\nrm -f")[0])[0].removeprefix("ranks=")
    return shlex.split(ranks.split("exec ")[1])


def test_everything_asked_for_is_in_the_job(tmp_path):
    text = job(
        tmp_path, "train_cdpo", "launch.partition=long", "launch.account=safety", "launch.time=2-00:00:00",
        "launch.grace_seconds=90", "launch.directives=['--qos=low','--mem=0']", "launch.modules=[cuda/12.8]",
        "launch.setup=['source ~/venv/bin/activate']", "launch.environment=['NCCL_SOCKET_IFNAME=ib0',\"ODD=it's\"]",
        "launch.container=nvcr.io/x:1", "launch.python=/opt/python", "launch.layout=zero2",
    )  # fmt: skip
    lines = text.splitlines()
    for line in (
        "#SBATCH --partition=long", "#SBATCH --account=safety", "#SBATCH --time=2-00:00:00", "#SBATCH --nodes=2",
        "#SBATCH --qos=low", "#SBATCH --mem=0", "#SBATCH --signal=B:USR1@90", "#SBATCH --requeue",
        "module load cuda/12.8 || exit", "source ~/venv/bin/activate", "export NCCL_SOCKET_IFNAME=ib0",
        "export ODD='it'\"'\"'s'",
    ):  # fmt: skip
        assert line in lines, line
    order = ["module load cuda/12.8 || exit", "source ~/venv/bin/activate", "set -uo pipefail"]
    assert [line for line in lines if line in order] == order, "what is the user's own may read unset variables"
    container = [one for one in shlex.split(text, comments=True) if one.startswith("--container-")]
    assert container[0] == "--container-image=nvcr.io/x:1"
    assert container[1].startswith(f"--container-mounts={tmp_path}:{tmp_path},")
    assert "#SBATCH --exclusive" in lines and "--gpus-per-node" not in text
    found = command(text)
    assert found[:3] == ["/opt/python", "-m", "accelerate.commands.launch"]
    given = dict(pairwise(found))
    assert given["--num_processes"] == "2" and given["--num_machines"] == "2"
    assert given["--machine_rank"] == "$SLURM_NODEID" and given["--rdzv_backend"] == "c10d"
    assert given["--config_file"].endswith("launch/accelerate/zero2.yaml")
    assert given["--deepspeed_multinode_launcher"] == "standard"


def test_stages_have_the_layout_they_need(tmp_path):
    """Only trainings have something to split; the report is no work for ranks."""
    build = command(job(tmp_path, "build_pairs", "launch.layout=zero3"))
    assert any(one.endswith("accelerate/ddp.yaml") for one in build)
    report = job(
        tmp_path, "report", "launch.layout=zero3", "launch.gpus=8", "launch.processes=8", "policy.batch_size=16"
    )
    assert "#SBATCH --nodes=1\n" in report and "--gpus-per-node" not in report
    assert command(report)[1:3] == ["-m", "alignment.run"]
    train = job(
        tmp_path, "train_cdpo", "launch.gpus=4", "launch.processes=null", "launch.nodes=1", "policy.batch_size=16"
    )
    assert "#SBATCH --gpus-per-node=4" in train
    assert "#SBATCH --cpus-per-task=12\n" in job(tmp_path, "train_cdpo", "launch.cpus=12")
    assert "--num_machines" not in command(train) and "4" in command(train)


@pytest.mark.parametrize(
    "name", ["plain", "with space", "it's", 'quo"te', "back\\slash", "\\'\\", "dollar$HOME", "a=b,c{d}"]
)
def test_a_stage_runs_in_the_same_folder_with_the_same_settings(name, tmp_path):
    """Through three readers: the batch script's shell, the node's, and Hydra."""
    folder = tmp_path / name
    text = job(folder, "train_cdpo", "policy.beta=[0.3]", "seed=4")
    overrides = command(text)[command(text).index("alignment.run") + 1 :]
    cfg = compose_config(overrides)
    assert cfg.run.dir == str(folder) and cfg.run.stage == "train_cdpo" and cfg.launch.name == "inline"
    assert cfg.policy.beta == [0.3] and cfg.seed == 4 and cfg.stages[-1] == "report"


def test_folders_of_configuration_go_along(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["run", "--config-dir", str(tmp_path), "+recipe=cdpo"])
    found = command(job(tmp_path, "train_cdpo"))
    assert found[found.index("--config-dir") + 1] == str(tmp_path)


def test_a_stage_starts_only_where_the_one_before_it_ended_well(tmp_path, monkeypatch):
    """And the first one only when all of them are there."""
    log = tmp_path / "log"
    for program, says in (("sbatch", f"wc -l < {log}"), ("scontrol", "true")):
        (tmp_path / program).write_text(f'#!/bin/sh\necho {program} "$@" >> {log}\n{says}\n')
        (tmp_path / program).chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    files = [tmp_path / f"{stage}.sbatch" for stage in ("fit_reward", "train_cdpo", "report")]
    assert slurm._submit_chain(files) == ["1", "2", "3"]
    assert log.read_text().splitlines() == [
        f"sbatch --parsable --hold {files[0]}",
        f"sbatch --parsable --dependency=afterok:1 --kill-on-invalid-dep=yes {files[1]}",
        f"sbatch --parsable --dependency=afterok:2 --kill-on-invalid-dep=yes {files[2]}",
        "scontrol release 1",
    ]


@pytest.mark.parametrize(
    "text, seconds",
    [("90", 5400), ("1:30", 90), ("24:00:00", 86400), ("2-00", 172800), ("1-01:30", 91800), ("1-00:00:05", 86405),
     ("soon", None), ("", None), ("1:2:3:4", None)],
)  # fmt: skip
def test_times_are_read_as_slurm_reads_them(text, seconds):
    assert slurm_seconds(text) == seconds


@pytest.mark.parametrize(
    "override, problem",
    [
        ("launch.nodes=0", "launch.nodes: 0 is out of range"),
        ("launch.time=never", "launch.time: 'never' is no time"),
        ("launch.time=2", "launch.grace_seconds: 120 s leave nothing of launch.time=2"),
        ("launch.processes=null", "launch.processes: without GPUs nothing says how many ranks"),
        ("launch.layout=fsdp2", "launch.layout: FSDP needs GPUs"),
        ("launch.layout=best", "launch.layout: 'best' is not a choice"),
        ("launch.directives=['rm -r']", "launch.directives: 'rm -r' is no option of sbatch"),
        ("launch.environment=['A-B=x']", "launch.environment: 'A-B=x' sets no variable"),
        ("policy.batch_size=9", "policy.batch_size: 9 pairs can't be dealt to 2 ranks"),
        ("run.stage=evaluate", "run.stage: launch=slurm starts all stages"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(override, problem):
    with pytest.raises(UserError, match=re.escape(problem)):
        compose_config(["+recipe=cdpo", *CPU, override])


def test_one_stage_must_be_of_the_recipe():
    with pytest.raises(UserError, match=r"run\.stage: 'annotate' is not in stages"):
        compose_config(["+recipe=cdpo", "run.stage=annotate"])


def test_a_site_sets_its_own_once(tmp_path):
    """As docs/clusters.md shows it."""
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch/site.yaml").write_text("defaults: [slurm]\npartition: gpu\naccount: safety\ntime: '24:00:00'\n")
    overrides, _ = split_arguments(["--config-dir", str(tmp_path), "+recipe=cdpo", "launch=site", "launch.nodes=2"])
    launch = compose_config([*overrides, "policy.batch_size=16"]).launch
    assert (launch.name, launch.partition, launch.account, launch.nodes) == ("slurm", "gpu", "safety", 2)
    assert launch.grace_seconds == 120
