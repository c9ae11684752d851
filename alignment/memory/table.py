"""The tables of memory and tokens that run.plan=true prints, below what would run and why."""

import os
from collections.abc import Sequence

import torch
from omegaconf import DictConfig

from alignment.inputs.stage_kinds import Infers
from alignment.launching import commands
from alignment.memory import costs, fitting
from alignment.memory.estimates import Estimate, Estimator
from alignment.memory.fitting import gigabytes
from alignment.memory.machine import Machine, machine
from alignment.plan import Step
from alignment.runs.run_files import RunDir
from alignment.stages import STAGES
from alignment.types import UserError

PARTS = ("weights", "gradients", "optimiser", "reference", "activations", "hidden", "cache", "other")
HEADS = {"hidden": "hidden states", "cache": "KV cache"}


def report(cfg: DictConfig, run: RunDir, steps: Sequence[Step], ranks: int) -> tuple[str, UserError | None]:
    """The tables, and the error for the first stage that is to run and can't fit."""
    models = {step.stage: STAGES[step.stage].model for step in steps}  # None: without a model, or with one of its own
    unknown = [stage for stage, model in models.items() if isinstance(model, Infers) and model.estimate is None]
    stages = [stage for stage, model in models.items() if model is not None and stage not in unknown]
    left_out = f"\n  memory is not estimated of {', '.join(unknown)}" if unknown else ""
    if not stages:
        return left_out, None
    try:
        estimator = Estimator(cfg, run, machine(cfg, ranks))
        estimates = [estimator.estimate(stage, cfg) for stage in stages]
    except UserError:
        raise
    except (ValueError, KeyError, AttributeError, NotImplementedError, RuntimeError, TypeError, OSError) as error:
        line = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        return f"\n  memory is not known: {line}", None  # of a model that only its own code can build, for example
    text = table(estimates, estimator.machine) + left_out
    waiting = {step.stage for step in steps if not step.cached}
    if to_run := [estimate for estimate in estimates if estimate.stage in waiting]:
        text += f"\n{_costs(cfg, run, estimator, to_run)}"
    try:
        fitting.require_fit(cfg, to_run, estimator)
    except UserError as error:
        return text, error
    return text, None


def _costs(cfg: DictConfig, run: RunDir, estimator: Estimator, estimates: Sequence[Estimate]) -> str:
    machine = estimator.machine
    speed, each = costs.speed_of(machine), []
    for estimate in estimates:
        trains = STAGES[estimate.stage].trains
        named = "auto" if trains is None else cfg[trains.settings].save_dtype
        dtype = estimator.stored_dtype if named == "auto" else getattr(torch, named)
        each.append(costs.costs(cfg, estimate, machine, dtype, speed))
    reads = any(estimate.stage == "read_states" for estimate in estimates)
    return costs.costs_text(each, machine, run.root, estimator.states(cfg) if reads else None)


def table(estimates: Sequence[Estimate], machine: Machine) -> str:
    """Memory of a rank by what it is for, then tokens."""
    parts = [name for name in PARTS if any(getattr(estimate.memory, name) for estimate in estimates)]
    host = ["of the host"] if machine.gpu else []
    memory = [["stage", "parameters", "layout", *(HEADS.get(name, name) for name in parts), "at most", *host]]
    tokens = [["stage", "texts", "median tokens", "longest", "a step or batch", "in all"]]
    for estimate in estimates:
        stage, texts = estimate.stage, estimate.texts
        sizes = [_size(getattr(estimate.memory, name)) for name in [*parts, "peak", *(["host"] if host else [])]]
        memory.append([stage, _parameters(estimate), estimate.layout, *sizes])
        lengths = [f"{'' if texts.known else 'to '}{length:,}" for length in (texts.median, texts.longest)]
        tokens.append([stage, f"{texts.count:,}", *lengths, f"{estimate.step:,}", _count(estimate.total)])
    who = "the one rank" if machine.ranks == 1 else f"each of {machine.ranks} ranks"
    has = "how much it has is not known" if machine.memory is None else f"which has {gigabytes(machine.memory)}"
    heads = f"  memory of {who}, in GB, {has}:", "  tokens, of a sample of the texts:"
    return "\n".join(["", heads[0], *_aligned(memory), *_unreturned(machine), "", heads[1], *_aligned(tokens)])


def _unreturned(machine: Machine) -> list[str]:
    """A line on freed memory that ranks on a CPU keep, unless they were told to return it: no estimate knows it."""
    if machine.gpu or not machine.inline or set(commands.GIVE_BACK) & set(os.environ):
        return []
    return ["  and what the C library holds on to of freed memory; ranks of launch=ddp give it back (docs/memory.md)"]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A line for every row: the first column to the left, the others to the right."""
    first, *widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, *cells in rows:
        padded = [name.ljust(first), *map(str.rjust, cells, widths)]
        lines.append(f"  {'  '.join(padded)}".rstrip())
    return lines


def _parameters(estimate: Estimate) -> str:
    total, trained = estimate.shape.parameters, estimate.shape.trainable
    return _count(total) if trained in (0, total) else f"{_count(trained)} of {_count(total)}"


def _size(count: int) -> str:
    return "-" if count == 0 else "<0.01" if count < 5e6 else gigabytes(count)


def _count(count: int) -> str:
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            value = count / size
            return f"{value:.2f}{letter}" if value < 10 else f"{value:.1f}{letter}"
    return str(count)
