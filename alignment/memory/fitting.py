"""Does every stage fit into the memory that ranks have, and what is the smallest change that makes it?

Changes are tried in the order of what they cost: smaller micro-batches next to nothing, activations computed again a
third more time, references computed beforehand a pass over the data, split layouts talk between ranks, and adapters are
another method.
"""

from collections.abc import Callable, Iterator, Sequence

from omegaconf import DictConfig, OmegaConf

from alignment.launching import commands
from alignment.memory.estimates import Estimate, Estimator
from alignment.memory.machine import Machine
from alignment.settings.schema import CONF_DIR
from alignment.stages import STAGES, Infers
from alignment.types import UserError

Fits = Callable[[Sequence[str]], bool]
LAYOUTS = ("inline", "ddp", "zero1", "zero2", "zero3", "zero3_offload")  # each leaves less on a rank's device
SMALLEST_BATCH = 512  # tokens; below it, weights are what doesn't fit


def require_fit(cfg: DictConfig, estimates: Sequence[Estimate], estimator: Estimator) -> None:
    """Raises UserError for the first stage that takes more than a rank has."""
    there = estimator.machine.memory
    for one in estimates:
        if there is None or one.memory.peak <= there:
            continue
        change = smallest_change(cfg, one.stage, estimator)
        if change is None:
            remedy = "nothing that could be set here makes it fit: take a smaller model, or ranks with more memory"
        else:
            then = estimator.estimate(one.stage, changed(cfg, change)).memory.peak
            remedy = f"with {' '.join(change)} it would take {gigabytes(then)}"
        raise UserError(
            one.stage,
            f"it takes about {gigabytes(one.memory.peak)} GB on every rank, and there are {gigabytes(there)}", remedy,
        )  # fmt: skip


def smallest_change(cfg: DictConfig, stage: str, estimator: Estimator) -> list[str] | None:
    """Overrides with which the stage fits: the first single one that does, or as few as it takes; None if none do."""

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
        together = [one for one in together if _key(one) != _key(override)] + [override]
        if fits(together):
            return _needed(together, kinds, fits)
    return None


def changed(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The configuration with these, as Hydra would have composed it."""
    made = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))
    for override in overrides:
        key, _, value = override.partition("=")
        if "." in key:
            OmegaConf.update(made, key, OmegaConf.create(f"value: {value}").value)
        elif key == "launch":
            made.launch.name = value
        else:
            group = OmegaConf.load(CONF_DIR / key / f"{value}.yaml")
            made[key] = {name: one for name, one in group.items() if name != "defaults"}
    return made


def gigabytes(count: int) -> str:
    """Of 10^9 bytes, in two digits or three."""
    found = count / 1e9
    return f"{found:.2f}" if found < 10 else f"{found:.1f}" if found < 100 else f"{found:.0f}"


def _needed(overrides: Sequence[str], kinds: Sequence[list[str]], fits: Fits) -> list[str]:
    """Without those that the others don't need, the costliest left out first; and no more of each than it takes."""
    needed = list(overrides)
    for override in reversed(overrides):
        others = [one for one in needed if one != override]
        if fits(others):
            needed = others
    for place, override in enumerate(needed):
        milder = next(kind for kind in kinds if override in kind)
        needed[place] = next(one for one in milder if fits([*needed[:place], one, *needed[place + 1 :]]))
    return needed


def _key(override: str) -> str:
    return override.partition("=")[0]


def _changes(cfg: DictConfig, stage: str, machine: Machine) -> Iterator[list[str]]:
    """Overrides that may help this stage, kind by kind, those of a kind from the smallest change on."""
    trains = STAGES[stage].trains
    if trains is None:
        yield from _inference_changes(cfg, STAGES[stage].model)
        return
    group, settings = trains.settings, cfg[trains.settings]
    if cfg.packing.name == "off":
        yield ["packing=auto"]
    share = settings.batch_size // machine.ranks
    now = min(settings.per_device_batch_size or share, share)
    if smaller := [size for size in range(now - 1, 0, -1) if share % size == 0]:
        yield [f"{group}.per_device_batch_size={size}" for size in smaller]
    if not settings.activation_checkpointing:
        yield [f"{group}.activation_checkpointing=true"]
    whole = cfg.lora.name == "none"
    if whole and trains.reference and not settings.precompute_ref_log_probs:
        yield [f"{group}.precompute_ref_log_probs=true"]
    layouts = list(_layouts(cfg, stage, machine))
    for layout in layouts[:2]:
        yield [layout]
    if whole:
        yield ["lora=adapters"]
    for layout in layouts[2:]:
        yield [layout]


def _layouts(cfg: DictConfig, stage: str, machine: Machine) -> Iterator[str]:
    """zero2, zero3 and zero3_offload, where they leave less than the present one. Ranks that are there keep theirs."""
    now = commands.layout(cfg, stage)
    if machine.ranks == 1 or now not in LAYOUTS or (cfg.launch.name == "inline"):
        return
    key = "launch.layout" if cfg.launch.name == "slurm" else "launch"
    for layout in ("zero2", "zero3", "zero3_offload"):
        if LAYOUTS.index(layout) > LAYOUTS.index(now) and (machine.gpu or layout != "zero3_offload"):
            yield f"{key}={layout}"


def _inference_changes(cfg: DictConfig, infers: Infers) -> Iterator[list[str]]:
    if infers.batch_tokens is not None:
        tokens, smaller = OmegaConf.select(cfg, infers.batch_tokens) // 2, []
        while tokens >= SMALLEST_BATCH:
            smaller.append(f"{infers.batch_tokens}={tokens}")
            tokens //= 2
        if smaller:
            yield smaller
    if cfg.model.dtype in ("auto", "float32"):
        yield ["model.dtype=bfloat16"]
