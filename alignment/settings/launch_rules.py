"""Which settings of launch.* go together, before anything is started or submitted."""

import re

from omegaconf import DictConfig

from alignment.runs.ranks import batch_shape
from alignment.settings.schema import Config
from alignment.stages import trained_with
from alignment.types import UserError


def check_launch(cfg: Config) -> None:
    launch = cfg.launch
    if cfg.run.stage is not None:
        if cfg.run.stage not in cfg.stages:
            raise UserError("run.stage", f"{cfg.run.stage!r} is not in stages", f"choose of {', '.join(cfg.stages)}")
        if launch.name != "inline":
            raise UserError("run.stage", f"launch={launch.name} starts all stages", "leave one of the two out")
    if launch.name == "slurm":
        _check_slurm(launch)
    elif launch.gpu_memory_gb is not None:
        _check_other_machine(cfg)
    ranks = launch.get("processes") or launch.get("gpus")
    for group in ("trainer", "policy"):
        if ranks and set(trained_with(group)) & set(cfg.stages):
            batch_shape(cfg[group].batch_size, cfg[group].per_device_batch_size, ranks * launch.get("nodes", 1), group)


def _check_other_machine(cfg: Config) -> None:
    """A plan for GPUs that are elsewhere."""
    if not cfg.run.plan:
        problem = "it is for a plan of what another machine's GPUs would take, and this is no plan"
        raise UserError("launch.gpu_memory_gb", problem, "add run.plan=true, or leave it out")
    if cfg.launch.name != "inline" and cfg.launch.processes is None:
        remedy = "give it, as launch.processes=8"
        raise UserError("launch.processes", "nothing says how many GPUs the other machine has", remedy)


def _check_slurm(launch: DictConfig) -> None:
    if not launch.gpus and launch.processes is None:
        problem = "without GPUs nothing says how many ranks"
        raise UserError("launch.processes", problem, "give it, as launch.processes=2")
    if not launch.gpus and launch.gpu_memory_gb is not None:
        raise UserError("launch.gpu_memory_gb", "it would have no effect: launch.gpus=0", "leave one of the two out")
    if not launch.gpus and launch.layout == "fsdp2":
        raise UserError("launch.layout", "FSDP needs GPUs, and launch.gpus=0", "choose ddp, or zero2")
    if launch.time is not None:
        seconds = slurm_seconds(launch.time)
        if seconds is None:
            raise UserError("launch.time", f"{launch.time!r} is no time", "write minutes, hh:mm:ss or days-hh:mm:ss")
        if seconds <= launch.grace_seconds:
            problem = f"{launch.grace_seconds} s leave nothing of launch.time={launch.time}"
            raise UserError("launch.grace_seconds", problem, "give jobs more time, or less grace")
    for line in launch.directives:
        if not line.startswith("-") or "\n" in line:
            raise UserError("launch.directives", f"{line!r} is no option of sbatch", "write them as --qos=low")
    for variable in launch.environment:
        name, separator, _ = variable.partition("=")
        if not separator or not name.isidentifier():
            raise UserError("launch.environment", f"{variable!r} sets no variable", "write NAME=value")


def slurm_seconds(text: str) -> int | None:
    """A time limit as Slurm reads it; None if it can't."""
    limit = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text.strip())
    if not limit:
        return None
    days, *rest = limit.groups()
    parts = [int(part) for part in rest if part is not None]
    if days is not None:  # days-hours[:minutes[:seconds]]
        return int(days) * 86400 + sum(part * unit for part, unit in zip(parts, (3600, 60, 1), strict=False))
    units = {1: (60,), 2: (60, 1), 3: (3600, 60, 1)}[len(parts)]
    return sum(part * unit for part, unit in zip(parts, units, strict=True))
