"""What a run takes beside memory: how many models it trains, how much disk they fill, about how long it computes."""

import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig

from alignment.inputs.stage_kinds import Infers, Trains
from alignment.memory.estimates import Estimate
from alignment.memory.fitting import gigabytes
from alignment.memory.machine import Machine
from alignment.memory.planned_states import PlannedStates
from alignment.memory.trained_models import trainings
from alignment.models.kept_states import ON_DISK
from alignment.policies.systems import trained_by
from alignment.stages import STAGES

# Operations a second that a GPU is taken to do in bfloat16, a third of what an A100 could; in float32 a third of it.
GPU_SPEED, WITHOUT_HALF = 1e14, 3
# A token that is sampled takes about as long as three that are read: the weights are read for every one anew.
SAMPLED = 3
OF_PEAK = 0.5  # what a model reaches of the speed of one large product on a CPU
CHECKPOINTS = 3  # two are kept, and a third is there while it is written
SECONDS = ((86400, "days"), (3600, "h"), (60, "min"), (1, "s"))


@dataclass(frozen=True)
class Costs:
    """Of one stage. models: that it trains, of which `kept` are published; bytes of each, of a checkpoint, and of what
    lies there while they train (`states` of frozen blocks)."""

    stage: str
    models: int
    kept: int
    model: int
    checkpoint: int
    seconds: float
    states: int = 0


def costs(cfg: DictConfig, estimate: Estimate, machine: Machine, dtype: torch.dtype, speed: float) -> Costs:
    """dtype: in which a model is saved; speed: operations a second of all ranks together."""
    stage, shape, does = estimate.stage, estimate.shape, STAGES[estimate.stage].model
    frozen = 2.0 * (shape.parameters - shape.trainable) * estimate.once
    seconds = (_operations(cfg, estimate) * estimate.total + frozen) / speed
    if not isinstance(does, Trains):
        return Costs(stage, 0, 0, 0, 0, seconds)
    weights = 2 if machine.half and estimate.layout.startswith(("zero", "fsdp2")) else 4
    adapters = 0 if cfg.lora.name == "none" else shape.trainable
    whole = shape.parameters - adapters
    saved = whole * dtype.itemsize + adapters * 4
    checkpoint = shape.trainable * weights + 8 * shape.trainable  # with AdamW's two states, in float32
    states = estimate.once * shape.width * 2  # in half precision
    count = trainings(stage, cfg)
    kept = count
    if does.settings == "policy":
        kept = len(trained_by(stage, list(cfg.policy.systems))) * len(cfg.policy.seeds)
    return Costs(stage, count, kept, saved, checkpoint, seconds, states)


def _operations(cfg: DictConfig, estimate: Estimate) -> float:
    """Operations that a token takes: two a parameter forwards, four backwards, two where most weights are frozen."""
    does, shape = STAGES[estimate.stage].model, estimate.shape
    if isinstance(does, Infers):
        return 2.0 * shape.parameters * (SAMPLED if does.samples else 1)
    if does.settings == "trainer" and cfg.trainer.upper_blocks is not None:
        return 6.0 * shape.trainable
    passes = 4.0 if shape.trainable < shape.parameters else 6.0
    passes += 2 if does.reference else 0  # of the reference, which is the policy itself under adapters
    passes += 2 if cfg[does.settings].activation_checkpointing else 0
    return passes * shape.parameters


def speed_of(machine: Machine) -> float:
    """Operations a second of all ranks: a GPU's are assumed, this CPU's are measured in a tenth of a second."""
    if machine.gpu:
        return machine.ranks * GPU_SPEED / (1 if machine.half else WITHOUT_HALF)
    size, count = 512, 0
    left, right = torch.rand(size, size), torch.rand(size, size)
    left @ right  # the first one starts threads
    began = time.perf_counter()
    while time.perf_counter() - began < 0.1:
        left @ right
        count += 1
    return OF_PEAK * 2 * size**3 * count / (time.perf_counter() - began)


def costs_text(each: Sequence[Costs], machine: Machine, folder: Path, states: PlannedStates | None = None) -> str:
    """The lines of a plan, of the stages that are to run. folder: where the run will be, or is; states: that are to be
    read."""
    lines = [] if states is None else [states.line]
    size = 0 if states is None else states.kept
    trained = [one for one in each if one.models]
    if trained:
        counts = ", ".join(f"{one.models} {'model' if one.models == 1 else 'models'} ({one.stage})" for one in trained)
        lines.append(f"  trains {counts}")
    if trained or size:
        end, most = _disk(trained, size)
        there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
        free = shutil.disk_usage(there).free
        short = f": MORE THAN the {gigabytes(free)} GB that are free there" if most > free else ""
        what = " and ".join(["the states"] * bool(size) + ["the models"] * bool(trained))
        how = "train, with checkpoints" if trained else "are read"
        lines.append(
            f"  disk: {what} take {_size(end)} GB in {folder}, and up to {_size(most)} GB while they {how}{short}"
        )
    times = ", ".join(f"{one.stage} {rounded(one.seconds)}" for one in each)
    speed = "as fast as this CPU multiplies" if not machine.gpu else f"at {GPU_SPEED / 1e12:.0f} TFLOP/s a GPU"
    lines.append(f"  time: about {rounded(sum(one.seconds for one in each))} ({times})")
    lines.append(
        f"  that is of the tokens alone, {speed}: a third or three times as much is as likely; small models take longer"
    )
    return "\n".join(["", *lines])


def _disk(trained: Sequence[Costs], states: int = 0) -> tuple[int, int]:
    """Bytes in the end, and the most at any time: checkpoints come and go, unpublished points of a grid stay until the
    end of their stage, and states are put together from batches."""
    end, most = states, ON_DISK * states
    for one in trained:
        most = max(most, end + one.models * one.model + CHECKPOINTS * one.checkpoint + 2 * one.states)  # put together
        end += one.kept * one.model
    return end, most


def _size(count: int) -> str:
    return "<0.01" if count < 5e6 else gigabytes(count)


def rounded(seconds: float) -> str:
    """A time with as many digits as it deserves."""
    for size, unit in SECONDS:
        if seconds >= size:
            value = seconds / size
            return f"{value:.1f} {unit}" if value < 3 and unit != "s" else f"{math.ceil(value)} {unit}"
    return "1 s"
