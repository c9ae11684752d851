"""Checks what DeepSpeed, FSDP and 4 bits need before anything is started: their own errors come late, and are long."""

import os
import shutil
import sys
from importlib.util import find_spec

from omegaconf import DictConfig

from alignment.runs.ranks import accelerator
from alignment.types import UserError


def check(cfg: DictConfig) -> None:
    """Refuses FSDP and 4 bits without a GPU, and DeepSpeed where its operator can't be compiled.

    Without a GPU accelerate would silently run plain DDP for FSDP, and bitsandbytes' layouts would differ between
    training and inference.
    """
    layout = cfg.launch.get("layout", cfg.launch.name)
    under = {name for name in ("FSDP", "DEEPSPEED") if os.environ.get(f"ACCELERATE_USE_{name}", "").lower() == "true"}
    fsdp, deepspeed = layout == "fsdp2" or "FSDP" in under, layout.startswith("zero") or "DEEPSPEED" in under
    quantized = cfg.lora.name == "quantized"
    if not (fsdp or deepspeed or quantized):
        return
    on_gpus = cfg.launch.gpus > 0 if cfg.launch.name == "slurm" else accelerator() is not None
    if on_gpus:
        return
    if quantized:
        raise UserError("lora", "weights in 4 bits are for GPUs, and there is none", "choose lora=adapters")
    if fsdp:
        raise UserError("launch", "FSDP needs GPUs, and there is none", "choose ddp, or zero2")
    compiles = "DeepSpeed on CPU ranks compiles an operator"
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler) is None:
        raise UserError("launch", f"{compiles}, and there is no {compiler}", "apt-get install g++")
    if find_spec("ninja") is None and shutil.which("ninja") is None:
        raise UserError("launch", f"{compiles}, and there is no ninja", "pip install ninja")
    if any(character.isspace() for character in sys.prefix):  # torch's line for the linker quotes no folder
        problem = f"{compiles}, which fails in a folder with a blank ({sys.prefix})"
        raise UserError("launch", problem, "choose ddp, or install into another folder")
