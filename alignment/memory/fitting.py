"""Whether every stage fits into the memory that ranks have, and the smallest change that makes it fit.

Changes are tried in the order of what they cost. Smaller micro-batches cost next to nothing, computing activations
again a third more time, references computed beforehand a pass over the data, and split layouts traffic between ranks;
adapters are another method.
"""

from collections.abc import Callable, Iterator, Sequence

from omegaconf import DictConfig, OmegaConf

from alignment.inputs.stage_kinds import Infers
from alignment.launching import commands
from alignment.memory.estimates import Estimate, Estimator
from alignment.memory.machine import Machine
from alignment.settings.rules import key_of
from alignment.settings.schema import CONF_DIR
from alignment.stages import STAGES
from alignment.types import UserError

Fits = Callable[[Sequence[str]], bool]
LAYOUTS = ("inline", "ddp", "zero1", "zero2", "zero3", "zero3_offload")  # each holds less on a rank than the one before
SMALLEST_BATCH = 512  # tokens; in smaller batches it is the weights that don't fit


def require_fit(cfg: DictConfig, estimates: Sequence[Estimate], estimator: Estimator) -> None:
    """Raises UserError for the first stage that takes more than a rank has."""
    available = estimator.machine.memory
    for estimate in estimates:
        stage, needed = estimate.stage, estimate.memory.peak
        if available is None or needed <= available:
            continue
        change = smallest_change(cfg, stage, estimator)
        if change is None:
            remedy = "nothing that could be set here makes it fit: take a smaller model, or ranks with more memory"
        else:
            changed_peak = estimator.estimate(stage, changed(cfg, change)).memory.peak
            remedy = f"with {' '.join(change)} it would take {gigabytes(changed_peak)}"
        problem = f"it takes about {gigabytes(needed)} GB on every rank, and there are {gigabytes(available)}"
        raise UserError(stage, problem, remedy)


def smallest_change(cfg: DictConfig, stage: str, estimator: Estimator) -> list[str] | None:
    """Overrides with which the stage fits: the first that is enough alone, or as few as it takes; None if none do."""

    def fits(overrides: Sequence[str]) -> bool:
        return estimator.estimate(stage, changed(cfg, overrides)).memory.peak <= estimator.machine.memory

    kinds = list(_changes(cfg, stage, estimator.machine))
    for alternatives in kinds:
        for override in alternatives:
            if fits([override]):
                return [override]
    together: list[str] = []
    for alternatives in kinds:
        override = alternatives[-1]
        together = [earlier for earlier in together if key_of(earlier) != key_of(override)] + [override]
        if fits(together):
            return _needed(together, kinds, fits)
    return None


def changed(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The configuration with these overrides, as Hydra would have composed it."""
    config = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))
    for override in overrides:
        key, _, value = override.partition("=")
        if "." in key:
            OmegaConf.update(config, key, OmegaConf.create(f"value: {value}").value)
        elif key == "launch":
            config.launch.name = value
        else:
            group = OmegaConf.load(CONF_DIR / key / f"{value}.yaml")
            config[key] = {name: setting for name, setting in group.items() if name != "defaults"}
    return config


def gigabytes(count: int) -> str:
    """A number of bytes in units of 10^9, in two digits or three."""
    size = count / 1e9
    return f"{size:.2f}" if size < 10 else f"{size:.1f}" if size < 100 else f"{size:.0f}"


def _needed(overrides: Sequence[str], kinds: Sequence[list[str]], fits: Fits) -> list[str]:
    """The overrides that are needed, each with the smallest change that is enough; the costliest are left out first."""
    needed = list(overrides)
    for override in reversed(overrides):
        without = [other for other in needed if other != override]
        if fits(without):
            needed = without
    for place, override in enumerate(needed):
        alternatives = next(kind for kind in kinds if override in kind)
        needed[place] = next(milder for milder in alternatives if fits([*needed[:place], milder, *needed[place + 1 :]]))
    return needed


def _changes(cfg: DictConfig, stage: str, machine: Machine) -> Iterator[list[str]]:
    """Overrides that may help this stage, one kind after the other, each with its smallest change first."""
    trains = STAGES[stage].trains
    if trains is None:
        yield from _inference_changes(cfg, STAGES[stage].model)
        return
    group, settings = trains.settings, cfg[trains.settings]
    if cfg.packing.name == "off":
        yield ["packing=auto"]
    share = settings.batch_size // machine.ranks
    size_now = min(settings.per_device_batch_size or share, share)
    if smaller := [size for size in range(size_now - 1, 0, -1) if share % size == 0]:
        yield [f"{group}.per_device_batch_size={size}" for size in smaller]
    if settings.get("upper_blocks") is not None:  # what else there is doesn't go with it (settings/training_rules.py)
        return
    if not settings.activation_checkpointing:
        yield [f"{group}.activation_checkpointing=true"]
    whole = cfg.lora.name == "none"
    if whole and trains.reference and not settings.precompute_ref_log_probs:
        yield [f"{group}.precompute_ref_log_probs=true"]
    layouts = list(_layouts(cfg, stage, machine))
    yield from ([layout] for layout in layouts[:2])
    if whole:
        yield ["lora=adapters"]
    yield from ([layout] for layout in layouts[2:])


def _layouts(cfg: DictConfig, stage: str, machine: Machine) -> Iterator[str]:
    """zero2, zero3 and zero3_offload, if they hold less than the present layout. Inline, ranks keep their layout."""
    present = commands.layout(cfg, stage)
    if machine.ranks == 1 or present not in LAYOUTS or cfg.launch.name == "inline":
        return
    key = "launch.layout" if cfg.launch.name == "slurm" else "launch"
    for layout in ("zero2", "zero3", "zero3_offload"):
        if LAYOUTS.index(layout) > LAYOUTS.index(present) and (machine.gpu or layout != "zero3_offload"):
            yield f"{key}={layout}"


def _inference_changes(cfg: DictConfig, infers: Infers) -> Iterator[list[str]]:
    if infers.batch_tokens is not None:
        tokens = OmegaConf.select(cfg, infers.batch_tokens)
        halves = [tokens // 2**times for times in range(1, tokens.bit_length())]
        if smaller := [f"{infers.batch_tokens}={half}" for half in halves if half >= SMALLEST_BATCH]:
            yield smaller
    if cfg.model.dtype in ("auto", "float32"):
        yield ["model.dtype=bfloat16"]
