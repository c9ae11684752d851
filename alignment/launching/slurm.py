"""A recipe as a chain of Slurm jobs, one for each stage that isn't up to date.

launch/slurm/stage.sbatch is the job; it is filled in here, written to run.dir/slurm and submitted. All jobs are there
before the first may start, and if Slurm refuses one none is left.
"""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from omegaconf import DictConfig

from alignment.launching import commands
from alignment.plan import Step, keep_settings
from alignment.runs import artifacts
from alignment.runs.run_files import RunDir, locked
from alignment.settings.launch_rules import slurm_seconds
from alignment.settings.schema import LAUNCH_DIR
from alignment.stages import STAGES
from alignment.types import UserError

ON_ONE_MACHINE = ("tmpfs", "ramfs")  # filesystems that no other node sees


def submit(cfg: DictConfig, run: RunDir, steps: Sequence[Step], overrides: Sequence[str]) -> None:
    """Writes the jobs, and unless launch.submit=false submits them as a chain; says how to watch and cancel it."""
    stages = [step.stage for step in steps if not step.cached]
    if not stages:
        print(f"everything is up to date: {run.root}")
        return
    _refuse_unshared(cfg, run)
    with locked(run, "launch"), locked(run):
        if cfg.launch.submit:
            _check_slurm(cfg)
        if before := _queued(run):
            raise UserError(
                "run.dir", f"{run.root} has a chain already: jobs {' '.join(before)}",
                f"wait for it, or end it: scancel {' '.join(before)}",
            )  # fmt: skip
        keep_settings(cfg, run)
        folder = run.jobs.absolute()
        folder.mkdir(exist_ok=True)
        files = []
        for stage in stages:
            (folder / f"{stage}.killed").unlink(missing_ok=True)
            files.append(folder / f"{stage}.sbatch")
            files[-1].write_text(script(cfg, run, stage, overrides), encoding="utf-8")
        if cfg.launch.submit:
            jobs = _submit_chain(files)
            print(_told(run, stages, jobs))
        else:
            print("\n".join(["written, not submitted:", *(f"  {file}" for file in files)]))


def script(cfg: DictConfig, run: RunDir, stage: str, overrides: Sequence[str]) -> str:
    """The job of one stage, ready for sbatch."""
    launch, alone = cfg.launch, STAGES[stage].alone
    nodes = 1 if alone else launch.nodes
    python = shlex.quote(launch.python or commands.python())
    root = str(run.root.absolute())
    given = [shlex.quote(one) for one in commands.arguments(cfg, stage, overrides, sys.argv[1:])]
    fields = {
        "stage": stage, "job": f"{cfg.recipe}-{stage}", "run": root, "quoted_run": shlex.quote(root), "nodes": nodes,
        "grace": launch.grace_seconds, "python": python.replace("'", "'\\''"), "restarts": launch.restarts,
        "ranks": launch.processes or launch.gpus,
        "directives": "\n".join(_directives(launch, alone)), "setup": "\n".join(_setup(launch)),
        "srun": " ".join(_srun(launch, root)),
        "command": " ".join([python, *_launcher(cfg, stage, nodes), *given]).replace("'", "'\\''"),
    }  # fmt: skip
    template = (LAUNCH_DIR / "slurm" / "stage.sbatch").read_text(encoding="utf-8")
    return re.sub(r"@(\w+)@", lambda found: str(fields[found[1]]), template)


def _directives(launch: DictConfig, alone: bool) -> list[str]:
    named = {"partition": launch.partition, "account": launch.account, "time": launch.time}
    lines = [f"--{name}={value}" for name, value in named.items() if value is not None]
    if not alone:
        lines += [f"--gpus-per-node={launch.gpus}"] if launch.gpus else []
        lines.append("--exclusive" if launch.cpus is None else f"--cpus-per-task={launch.cpus}")
    return [f"#SBATCH {line}" for line in [*lines, *launch.directives]]


def _setup(launch: DictConfig) -> list[str]:
    always = [] if launch.gpus else [f"{name}={value}" for name, value in commands.GIVE_BACK.items()]
    parts = [one.partition("=") for one in [*always, *launch.environment]]
    variables = [f"export {name}={shlex.quote(value)}" for name, _, value in parts]
    modules = [f"module load {one} || exit" for one in launch.modules]
    return [f"cd {shlex.quote(str(Path.cwd()))} || exit", *modules, *launch.setup, *variables]


def _srun(launch: DictConfig, root: str) -> list[str]:
    """In a container: with the run folder and the one that the command was given in, where they are outside."""
    if launch.container is None:
        return []
    here = str(Path.cwd())
    options = {"image": launch.container, "mounts": f"{root}:{root},{here}:{here}", "workdir": here}
    return [f"--container-{name}={shlex.quote(value)}" for name, value in options.items()]


def _launcher(cfg: DictConfig, stage: str, nodes: int) -> list[str]:
    """accelerate's, on every node; what Slurm knows is filled in there."""
    if STAGES[stage].alone:
        return ["-m", "alignment.run"]
    processes = nodes * (cfg.launch.processes or cfg.launch.gpus)
    more = ["--main_process_port", '"$REPALIGN_PORT"']
    if nodes > 1:
        more += [
            "--num_machines", str(nodes), "--machine_rank", '"$SLURM_NODEID"', "--main_process_ip", '"$REPALIGN_HEAD"',
            "--rdzv_backend", "c10d", "--rdzv_conf", '"is_host=$((SLURM_NODEID == 0))"',
        ]  # fmt: skip
        if commands.is_deepspeed(cfg, stage):
            more += ["--deepspeed_multinode_launcher", "standard"]
    launcher = commands.accelerate(commands.layout(cfg, stage), processes, *more)
    return [word if word in more else shlex.quote(word) for word in launcher]  # the node's shell fills in `more`


# ---- before anything is submitted -----------------------------------------------------------------------------------


def _refuse_unshared(cfg: DictConfig, run: RunDir) -> None:
    """Of the folders that no other node sees, those that can be told from here."""
    if set('%"\n') & set(str(run.root)):
        raise UserError("run.dir", f"{run.root} has a character that Slurm's file names can't have", "rename it")
    root = run.root.resolve()
    mounts = [one for one in psutil.disk_partitions(all=True) if root.is_relative_to(one.mountpoint)]
    kind = max(mounts, key=lambda one: len(one.mountpoint)).fstype if mounts else ""
    if kind in ON_ONE_MACHINE:
        raise UserError(
            "run.dir", f"{run.root} is in this machine's memory ({kind}), where no node sees it",
            "choose a folder that all nodes share",
        )  # fmt: skip


def _check_slurm(cfg: DictConfig) -> None:
    if shutil.which("sbatch") is None:
        raise UserError(
            "launch", "there is no sbatch on this machine", "submit from a login node, or launch.submit=false"
        )
    partitions = _partitions()
    default = next((name for name in partitions if partitions[name].default), None)
    name = cfg.launch.partition or default
    if name is None:
        raise UserError("launch.partition", "the cluster has no default", f"choose one of {', '.join(partitions)}")
    for one in name.split(","):
        if one not in partitions:
            raise UserError(
                "launch.partition", f"there is no partition {one}", f"choose one of {', '.join(partitions)}"
            )
        _check_partition(cfg.launch, one, partitions[one])


@dataclass
class _Partition:
    """limit, by default: seconds; None where there is no end."""

    default: bool
    limit: int | None
    by_default: int | None
    nodes: int = 0


def _partitions() -> dict[str, _Partition]:
    found: dict[str, _Partition] = {}
    for line in _ask("sinfo", "-h", "-o", "%P|%l|%L|%D").split():
        name, limit, by_default, nodes = line.split("|")
        known = _Partition("*" in name, slurm_seconds(limit), slurm_seconds(by_default))
        found.setdefault(name.rstrip("*"), known).nodes += int(nodes)  # nodes of one partition can be on several lines
    return found


def _check_partition(launch: DictConfig, name: str, partition: _Partition) -> None:
    """What Slurm itself, unless told otherwise, would let wait for ever."""
    if launch.nodes > partition.nodes:
        raise UserError(
            "launch.nodes", f"partition {name} has {partition.nodes} nodes", "ask for fewer, or another one"
        )
    if launch.time is None and partition.limit is None and partition.by_default is None:
        raise UserError(
            "launch.time", f"partition {name} has no limit of its own, and a job without one waits longer",
            "say how long a job may run, as launch.time=24:00:00",
        )  # fmt: skip
    if launch.time is not None and partition.limit is not None and slurm_seconds(launch.time) > partition.limit:
        raise UserError(
            "launch.time",
            f"{launch.time} is more than partition {name} allows",
            "give less: a stage goes on in its next job",
        )


def _queued(run: RunDir) -> list[str]:
    """Jobs of an earlier chain that are still waiting or running."""
    record = run.jobs / "chain.json"
    if not record.exists() or shutil.which("squeue") is None:
        return []
    jobs = [one["job"] for one in artifacts.read_json(record)]
    return [job for job in jobs if _run("squeue", "-h", "-j", job, "-o", "%i").stdout.strip()]


def _submit_chain(files: list[Path]) -> list[str]:
    """Their numbers, which are on record before the first job may start."""
    jobs: list[str] = []
    for file in files:
        more = ["--hold"] if not jobs else [f"--dependency=afterok:{jobs[-1]}", "--kill-on-invalid-dep=yes"]
        done = _run("sbatch", "--parsable", *more, str(file))
        if done.returncode != 0:
            if jobs:
                _run("scancel", *jobs)
            problem = " ".join(done.stderr.split()).removeprefix("sbatch: error: ")
            raise UserError("sbatch", f"Slurm refused {file.stem}: {problem}", "nothing is submitted; mend launch.*")
        jobs.append(done.stdout.strip().split(";")[0])
    chain = [{"stage": file.stem, "job": job} for file, job in zip(files, jobs, strict=True)]
    artifacts.write_json(files[0].parent / "chain.json", chain)
    try:
        _ask("scontrol", "release", jobs[0])
    except UserError:
        _run("scancel", *jobs)
        raise
    return jobs


def _told(run: RunDir, stages: list[str], jobs: list[str]) -> str:
    width = max(map(len, stages))
    lines = [f"  {stage:<{width}}  job {job}" for stage, job in zip(stages, jobs, strict=True)]
    return "\n".join([
        f"submitted {len(jobs)} jobs, one after the other:", *lines,
        f"watch   squeue -j {','.join(jobs)}    tail -F {run.root}/slurm/*.log", f"cancel  scancel {' '.join(jobs)}",
    ])  # fmt: skip


def _run(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _ask(*command: str) -> str:
    done = _run(*command)
    if done.returncode != 0:
        problem = " ".join(done.stderr.split())
        raise UserError("launch", f"{command[0]} failed: {problem}", "is Slurm running, and may you use it?")
    return done.stdout
