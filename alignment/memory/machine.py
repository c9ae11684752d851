"""How many ranks a run will have, on which device, and with how much memory. Nothing is allocated to find that out."""

import os
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from omegaconf import DictConfig

from alignment.launching import commands
from alignment.models.devices import training_dtype
from alignment.runs.ranks import accelerator
from alignment.stages import STAGES

CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")  # version 2 of control groups: a number of bytes, or "max"


@dataclass(frozen=True)
class Machine:
    """The ranks of a run and what each of them has.

    half: `auto` means bfloat16 on it. memory: bytes that a rank may use on its device, None if that is not known.
    inline: the stages run in the ranks of this command, none are started for them.
    """

    ranks: int
    gpu: bool
    half: bool
    memory: int | None
    inline: bool = False

    def layout(self, cfg: DictConfig, stage: str) -> str:
        """How a stage is split over the ranks; inline, accelerate's variables say how."""
        if cfg.launch.name != "inline":
            return commands.layout(cfg, stage)
        trains = STAGES[stage].trains is not None
        if trains and os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
            return f"zero{os.environ.get('ACCELERATE_DEEPSPEED_ZERO_STAGE', '2')}"
        if trains and os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
            return "fsdp2"
        return "ddp" if self.ranks > 1 else "inline"


def machine(cfg: DictConfig, ranks: int) -> Machine:
    """The machine that the stages will run on. ranks: how many run this command; launch=... starts its own."""
    launch, inline = cfg.launch, cfg.launch.name == "inline"
    if launch.name == "slurm":
        gpu, per_node = launch.gpus > 0, launch.processes or launch.gpus
        memory = None if launch.gpu_memory_gb is None else round(launch.gpu_memory_gb * 1e9)
        return Machine(launch.nodes * per_node, gpu, gpu, memory)
    if launch.gpu_memory_gb is not None:  # another machine's GPUs, of which this one knows no more
        ranks = ranks if inline else launch.processes
        return Machine(ranks, True, True, round(launch.gpu_memory_gb * 1e9), inline)
    gpu = accelerator() is not None
    if not inline:
        ranks = launch.processes or (torch.accelerator.device_count() if gpu else 1)
    if gpu:
        return Machine(ranks, True, training_dtype("auto") == "bfloat16", _device_memory(), inline)
    return Machine(ranks, False, False, _host_memory() // ranks, inline)


def _device_memory() -> int | None:
    """The first GPU's memory; its properties are known without a context on it."""
    properties = getattr(torch.get_device_module(accelerator()), "get_device_properties", None)
    return None if properties is None else properties(0).total_memory


def _host_memory() -> int:
    """This machine's memory, or as much of it as its container may use."""
    limit = CONTAINER_LIMIT.read_text().strip() if CONTAINER_LIMIT.is_file() else "max"
    total = psutil.virtual_memory().total
    return total if limit == "max" else min(total, int(limit))
