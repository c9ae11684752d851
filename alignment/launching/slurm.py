"""Submits a recipe as a chain of Slurm jobs, one for each stage that isn't up to date.

launch/slurm/stage.sbatch is the job; it is filled in here, written to run.dir/slurm and submitted. The first job is
released only when all are submitted, and if Slurm refuses one, all are cancelled.
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

from alignment.inputs.fingerprints import JOBS_DEVICE
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
        if queued := " ".join(_queued(run)):
            problem = f"{run.root} has a chain already: jobs {queued}"
            raise UserError("run.dir", problem, f"wait for it, or end it: scancel {queued}")
        keep_settings(cfg, run)
        folder = run.jobs.absolute()
        folder.mkdir(exist_ok=True)
        files = []
        for stage in stages:
            (folder / f"{stage}.killed").unlink(missing_ok=True)
            files.append(folder / f"{stage}.sbatch")
            files[-1].write_text(script(cfg, run, stage, overrides), encoding="utf-8")
        if cfg.launch.submit:
            print(_how_to_watch(run, stages, _submit_chain(files)))
        else:
            print("\n".join(["written, not submitted:", *(f"  {file}" for file in files)]))


def script(cfg: DictConfig, run: RunDir, stage: str, overrides: Sequence[str]) -> str:
    """The job of one stage, ready for sbatch."""
    launch, alone = cfg.launch, STAGES[stage].alone
    nodes = 1 if alone else launch.nodes
    python = shlex.quote(launch.python or sys.executable)
    root = str(run.root.absolute())
    arguments = map(shlex.quote, commands.arguments(cfg, stage, overrides, sys.argv[1:]))
    fields = {
        "stage": stage, "job": f"{cfg.recipe}-{stage}", "run": root, "quoted_run": shlex.quote(root), "nodes": nodes,
        "grace": launch.grace_seconds, "python": python.replace("'", "'\\''"), "restarts": launch.restarts,
        "ranks": launch.processes or launch.gpus,
        "directives": "\n".join(_directives(launch, alone)), "setup": "\n".join(_setup(launch)),
        "srun": " ".join(_srun(launch, root)),
        "command": " ".join([python, *_launcher(cfg, stage, nodes), *arguments]).replace("'", "'\\''"),
    }  # fmt: skip
    template = (LAUNCH_DIR / "slurm" / "stage.sbatch").read_text(encoding="utf-8")
    return re.sub(r"@(\w+)@", lambda field: str(fields[field[1]]), template)


def _directives(launch: DictConfig, alone: bool) -> list[str]:
    lines = [f"--{name}={launch[name]}" for name in ("partition", "account", "time") if launch[name] is not None]
    if not alone:
        lines += [f"--gpus-per-node={launch.gpus}"] if launch.gpus else []
        lines.append("--exclusive" if launch.cpus is None else f"--cpus-per-task={launch.cpus}")
    return [f"#SBATCH {line}" for line in [*lines, *launch.directives]]


def _setup(launch: DictConfig) -> list[str]:
    environment = [f"{JOBS_DEVICE}={'GPU' if launch.gpus else 'CPU'}"]
    environment += [] if launch.gpus else [f"{name}={value}" for name, value in commands.GIVE_BACK.items()]
    parts = [setting.partition("=") for setting in [*environment, *launch.environment]]
    variables = [f"export {name}={shlex.quote(value)}" for name, _, value in parts]
    modules = [f"module load {module} || exit" for module in launch.modules]
    return [f"cd {shlex.quote(str(Path.cwd()))} || exit", *modules, *launch.setup, *variables]


def _srun(launch: DictConfig, root: str) -> list[str]:
    """srun's options for a container, which has the run folder and the working directory at their own paths."""
    if launch.container is None:
        return []
    here = str(Path.cwd())
    options = {"image": launch.container, "mounts": f"{root}:{root},{here}:{here}", "workdir": here}
    return [f"--container-{name}={shlex.quote(value)}" for name, value in options.items()]


def _launcher(cfg: DictConfig, stage: str, nodes: int) -> list[str]:
    """Python's arguments before the run's own: on every node accelerate's launcher, with variables that Slurm sets."""
    if STAGES[stage].alone:
        return ["-m", "alignment.run"]
    processes = nodes * (cfg.launch.processes or cfg.launch.gpus)
    options = ["--main_process_port", '"$REPALIGN_PORT"']
    if nodes > 1:
        options += [
            "--num_machines", str(nodes), "--machine_rank", '"$SLURM_NODEID"', "--main_process_ip", '"$REPALIGN_HEAD"',
            "--rdzv_backend", "c10d", "--rdzv_conf", '"is_host=$((SLURM_NODEID == 0))"',
        ]  # fmt: skip
        if commands.layout(cfg, stage).startswith("zero"):
            options += ["--deepspeed_multinode_launcher", "standard"]
    launcher = commands.accelerate(commands.layout(cfg, stage), processes, *options)
    return [word if word in options else shlex.quote(word) for word in launcher]  # options have variables of the node


# ---- before anything is submitted -----------------------------------------------------------------------------------


def _refuse_unshared(cfg: DictConfig, run: RunDir) -> None:
    """Refuses folders that no other node sees, as far as that can be told on this machine."""
    if set('%"\n') & set(str(run.root)):
        raise UserError("run.dir", f"{run.root} has a character that Slurm's file names can't have", "rename it")
    root = run.root.resolve()
    mounts = [mount for mount in psutil.disk_partitions(all=True) if root.is_relative_to(mount.mountpoint)]
    kind = max(mounts, key=lambda mount: len(mount.mountpoint)).fstype if mounts else ""
    if kind in ON_ONE_MACHINE:
        problem = f"{run.root} is in this machine's memory ({kind}), where no node sees it"
        raise UserError("run.dir", problem, "choose a folder that all nodes share")


def _check_slurm(cfg: DictConfig) -> None:
    if shutil.which("sbatch") is None:
        remedy = "submit from a login node, or launch.submit=false"
        raise UserError("launch", "there is no sbatch on this machine", remedy)
    partitions = _partitions()
    choose = f"choose one of {', '.join(partitions)}"
    default = next((name for name in partitions if partitions[name].default), None)
    names = cfg.launch.partition or default
    if names is None:
        raise UserError("launch.partition", "the cluster has no default", choose)
    for name in names.split(","):
        if name not in partitions:
            raise UserError("launch.partition", f"there is no partition {name}", choose)
        _check_partition(cfg.launch, name, partitions[name])


@dataclass
class _Partition:
    """The time limit of its jobs, and that of jobs that don't name one, in seconds; None where there is no limit."""

    default: bool
    limit: int | None
    default_limit: int | None
    nodes: int = 0


def _partitions() -> dict[str, _Partition]:
    partitions: dict[str, _Partition] = {}
    for line in _ask("sinfo", "-h", "-o", "%P|%l|%L|%D").split():
        name, limit, default_limit, nodes = line.split("|")
        partition = _Partition("*" in name, slurm_seconds(limit), slurm_seconds(default_limit))
        partitions.setdefault(name.rstrip("*"), partition).nodes += int(nodes)  # it may have several lines
    return partitions


def _check_partition(launch: DictConfig, name: str, partition: _Partition) -> None:
    """Refuses jobs that Slurm, unless told otherwise, would leave waiting for ever."""
    if launch.nodes > partition.nodes:
        problem = f"partition {name} has {partition.nodes} nodes"
        raise UserError("launch.nodes", problem, "ask for fewer, or another one")
    if launch.time is None and partition.limit is None and partition.default_limit is None:
        problem = f"partition {name} has no limit of its own, and a job without one waits longer"
        raise UserError("launch.time", problem, "say how long a job may run, as launch.time=24:00:00")
    if launch.time is not None and partition.limit is not None and slurm_seconds(launch.time) > partition.limit:
        problem = f"{launch.time} is more than partition {name} allows"
        raise UserError("launch.time", problem, "give less: a stage goes on in its next job")


def _queued(run: RunDir) -> list[str]:
    """Jobs of an earlier chain that are still waiting or running."""
    record = run.jobs / "chain.json"
    if not record.exists() or shutil.which("squeue") is None:
        return []
    jobs = [entry["job"] for entry in artifacts.read_json(record)]
    return [job for job in jobs if _run("squeue", "-h", "-j", job, "-o", "%i").stdout.strip()]


def _submit_chain(files: list[Path]) -> list[str]:
    """Submits the jobs and returns their numbers, which are in chain.json before the first job may start."""
    jobs: list[str] = []
    for file in files:
        order = ["--hold"] if not jobs else [f"--dependency=afterok:{jobs[-1]}", "--kill-on-invalid-dep=yes"]
        done = _run("sbatch", "--parsable", *order, str(file))
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


def _how_to_watch(run: RunDir, stages: list[str], jobs: list[str]) -> str:
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
