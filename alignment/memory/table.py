"""What run.plan=true prints of memory and tokens, below what would run and why."""

import os
from collections.abc import Sequence

from omegaconf import DictConfig

from alignment.launching import commands
from alignment.memory import fitting
from alignment.memory.estimates import Estimate, Estimator
from alignment.memory.fitting import gigabytes
from alignment.memory.machine import Machine, machine
from alignment.plan import Step
from alignment.runs.run_files import RunDir
from alignment.stages import STAGES, Infers
from alignment.types import UserError

PARTS = ("weights", "gradients", "optimiser", "reference", "activations", "hidden", "cache", "other")
HEADS = {"hidden": "hidden states", "cache": "KV cache"}


def report(cfg: DictConfig, run: RunDir, steps: Sequence[Step], ranks: int) -> tuple[str, UserError | None]:
    """The table, and what to refuse: the first stage that is to run and can't fit."""
    models = {step.stage: STAGES[step.stage].model for step in steps}  # None has none, or brings its own, as judges do
    unknown = [stage for stage, model in models.items() if isinstance(model, Infers) and model.estimate is None]
    estimated = [stage for stage, model in models.items() if model is not None and stage not in unknown]
    left_out = f"\n  memory is not estimated of {', '.join(unknown)}" if unknown else ""
    if not estimated:
        return left_out, None
    try:
        estimator = Estimator(cfg, run, machine(cfg, ranks))
        found = [estimator.estimate(stage, cfg) for stage in estimated]
    except UserError:
        raise
    except (ValueError, KeyError, AttributeError, NotImplementedError, RuntimeError, TypeError, OSError) as error:
        return f"\n  memory is not known: {_line(error)}", None  # a model that only its own code can build, say
    text = table(found, estimator.machine) + left_out
    waiting = {step.stage for step in steps if not step.cached}
    try:
        fitting.require_fit(cfg, [one for one in found if one.stage in waiting], estimator)
    except UserError as error:
        return text, error
    return text, None


def table(estimates: Sequence[Estimate], there: Machine) -> str:
    """Memory of a rank by what it is for, then tokens."""
    if not estimates:
        return ""
    parts = [name for name in PARTS if any(getattr(one.memory, name) for one in estimates)]
    host = ["of the host"] if there.gpu else []
    rows = [["stage", "parameters", "layout", *(HEADS.get(name, name) for name in parts), "at most", *host]]
    for one in estimates:
        sizes = [_size(getattr(one.memory, name)) for name in parts]
        more = [_size(one.memory.host)] if host else []
        rows.append([one.stage, _parameters(one), one.layout, *sizes, _size(one.memory.peak), *more])
    who = "the one rank" if there.ranks == 1 else f"each of {there.ranks} ranks"
    has = "how much it has is not known" if there.memory is None else f"which has {gigabytes(there.memory)}"
    tokens = [["stage", "texts", "median tokens", "longest", "a step or batch", "in all"]]
    for one in estimates:
        texts = one.texts
        lengths = (
            [f"{texts.median:,}", f"{texts.longest:,}"]
            if texts.known
            else [f"to {texts.median:,}", f"to {texts.longest:,}"]
        )
        tokens.append([one.stage, f"{texts.count:,}", *lengths, f"{one.step:,}", _count(one.total)])
    heads = f"  memory of {who}, in GB, {has}:", "  tokens, of a sample of the texts:"
    return "\n".join(["", heads[0], *_aligned(rows), *_held_on_to(there), "", heads[1], *_aligned(tokens)])


def _held_on_to(there: Machine) -> list[str]:
    """What no estimate knows, of ranks on a CPU that nobody told to give back what they free."""
    if there.gpu or not there.inline or set(commands.GIVE_BACK) & set(os.environ):
        return []
    return ["  and what the C library holds on to of freed memory; ranks of launch=ddp give it back (docs/memory.md)"]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  " + "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]  # fmt: skip


def _parameters(one: Estimate) -> str:
    total, trained = one.shape.parameters, one.shape.trainable
    return _count(total) if trained in (0, total) else f"{_count(trained)} of {_count(total)}"


def _size(count: int) -> str:
    return "-" if count == 0 else "<0.01" if count < 5e6 else gigabytes(count)


def _count(count: int) -> str:
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            found = count / size
            return f"{found:.2f}{letter}" if found < 10 else f"{found:.1f}{letter}"
    return str(count)


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
