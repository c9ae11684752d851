"""The plan of a run: every stage of the recipe, up to date or to run and why, decided from manifests alone."""

from dataclasses import dataclass, replace
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from alignment.inputs import pairs
from alignment.inputs.fingerprints import device_of, fingerprint
from alignment.models.source import configuration, kind_of, model_source, shape_of
from alignment.policies.systems import trained_by
from alignment.runs import artifacts
from alignment.runs.manifest import FRESH, Manifest, difference, hash_file, unusable, versions, why_made
from alignment.runs.run_files import RunDir
from alignment.stages import STAGES, too_few_take_states, trained_with
from alignment.types import UserError

FOLDERS = ("data.folder", "evaluation.folder")  # no settings of a stage: the files in them are among its inputs


@dataclass(frozen=True)
class Step:
    """One stage of a plan, with the manifest it would be published with."""

    stage: str
    cached: bool
    why: str
    manifest: Manifest


def plan(cfg: DictConfig, run: RunDir) -> list[Step]:
    """Every stage of the recipe: up to date, or to run and why."""
    steps: list[Step] = []
    keys: dict[str, str] = {}
    libraries = versions()
    if any("data" in STAGES[name].inputs for name in cfg.stages):
        fingerprint("data", cfg)  # before all others: where there are no pairs, nothing else is worth an error
    for name in cfg.stages:
        stage = STAGES[name]
        made_from = {source: fingerprint(source, cfg) for source in stage.inputs}
        if stage.model is not None:
            made_from["device"] = device_of(cfg, stage.trains.settings if stage.trains else None)
        if name == "read_states" and cfg.states.keep == "auto":
            made_from["who takes them"] = too_few_take_states(cfg) or "stages that need all pairs"
        made_from |= {f"stage {read}": keys.get(read) or _published_key(run, read) for read in stage.reads_with(cfg)}
        manifest = Manifest(name, _settings(cfg, name), made_from, libraries)
        keys[name] = manifest.key
        why = why_made(run.stage(name), manifest)
        if why is None and name == "report" and not run.report.exists():
            why = f"{run.report.name} is missing"
        if why is None and name == "judge" and not _as_judged(cfg, run):
            why = f"{cfg.judge.output} is not as it was written"
        steps.append(Step(name, why is None, why or "up to date", manifest))
    return steps


def _as_judged(cfg: DictConfig, run: RunDir) -> bool:
    """Whether judge.output, which is outside the run folder, is as the published stage wrote it."""
    output = Path(cfg.judge.output)
    return output.is_file() and hash_file(output) == artifacts.read_json(run.judged)["sha256"]


def _published_key(run: RunDir, stage: str) -> str:
    """The key of a stage that this run only reads; empty if it is missing or damaged."""
    return "" if unusable(run, stage) else Manifest.read(run.stage(stage)).key


def _settings(cfg: DictConfig, stage: str) -> dict:
    """The settings that shape a stage's result.

    Of the systems, a training reads its own; its precision is told with the device, which settles what `auto` is.
    """
    settings = _flat({key: _plain(OmegaConf.select(cfg, key)) for key in STAGES[stage].keys_with(cfg)})
    if trains := STAGES[stage].trains:
        del settings[f"{trains.settings}.precision"]
        if trains.settings == "policy":
            settings["policy.systems"] = trained_by(stage, settings["policy.systems"])
    return {key: value for key, value in settings.items() if key not in FOLDERS}


def require_same_settings(cfg: DictConfig, run: RunDir) -> None:
    """A stage that is only read must have been made with the settings of this call, or its record would be wrong."""
    for read in dict.fromkeys(read for stage in cfg.stages for read in STAGES[stage].reads_with(cfg)):
        if read in cfg.stages or unusable(run, read):
            continue
        published, settings = Manifest.read(run.stage(read)), _settings(cfg, read)
        if published.config != settings:
            change = difference(published, replace(published, config=settings))
            problem = f"{read} was made with other settings: {change} in this call"
            raise UserError("stages", problem, f"add {read} to stages, or give the settings it was made with")
        if cfg.stages != ["report"] and published.inputs.get("data", "") not in ("", fingerprint("data", cfg)):
            problem = f"{read} was made from other data, or before these evaluation sets were kept out of it"
            raise UserError("stages", problem, f"add {read} to stages")


def keep_settings(cfg: DictConfig, run: RunDir) -> None:
    """Writes the settings of a run beside its stages; only a process that has locked the run folder does."""
    run.settings.write_text(OmegaConf.to_yaml(cfg))


def chosen(cfg: DictConfig, steps: list[Step]) -> list[Step]:
    """The steps of this call: all, or run.stage alone, which needs up-to-date files of those before it."""
    if cfg.run.stage is None:
        return steps
    step = next(step for step in steps if step.stage == cfg.run.stage)
    reads = STAGES[step.stage].reads_with(cfg)
    for before in steps:
        if before.stage in reads and not before.cached and not step.cached:
            problem = f"{step.stage} needs {before.stage}, which has to run first ({before.why})"
            remedy = f"run.stage={before.stage} runs it, and no run.stage the whole recipe"
            raise UserError("run.stage", problem, remedy)
    return [step]


def require_inputs(cfg: DictConfig, steps: list[Step]) -> None:
    """Refuses to run a stage without the files of earlier stages that it reads and this call doesn't run."""
    for step in steps:
        if step.cached or step.stage == "report":
            continue
        for read in STAGES[step.stage].reads_with(cfg):
            if read not in cfg.stages and not step.manifest.inputs[f"stage {read}"]:
                problem = f"{step.stage} needs what {read} makes, and {cfg.run.dir} has no intact {read}"
                raise UserError("stages", problem, f"run it first: stages=[{read},{','.join(cfg.stages)}]")


def require_layers(cfg: DictConfig, steps: list[Step]) -> None:
    """Refuses a layer or upper blocks that the model hasn't, before the stages that come before the one that does."""
    layer, blocks = cfg.annotator.layer, cfg.trainer.upper_blocks
    to_run = {step.stage for step in steps if not step.cached}
    if type(layer) is int and "annotate" in to_run and layer > (count := shape_of(model_source(cfg.model))[0]):
        raise UserError("annotator.layer", f"the model has {count} layers, and no layer {layer}", f"give 1 to {count}")
    if blocks is not None and to_run & set(trained_with("trainer")):
        from alignment.models.upper_blocks import require_split  # here, since it imports torch

        source = model_source(cfg.model)
        require_split(kind_of(source), shape_of(source)[0], blocks)


def require_router_choice(cfg: DictConfig, steps: list[Step]) -> None:
    """Refuses to train a mixture of experts that nobody has said may be trained without its routers' loss."""
    to_run = {step.stage for step in steps if not step.cached}
    for group in ("trainer", "policy"):
        if to_run & set(trained_with(group)):
            from alignment.models.routers import require_told  # here, since it imports transformers

            config = configuration(model_source(cfg.model))
            require_told(config, cfg[group].without_router_loss, f"{group}.without_router_loss")


def _plain(value: object) -> object:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _flat(config: dict, prefix: str = "") -> dict:
    """Nested settings as one level of dotted keys, so that a difference can be named."""
    flat: dict = {}
    for key, value in config.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def plan_table(cfg: DictConfig, run: RunDir, steps: list[Step]) -> str:
    all_fresh = all(step.why == FRESH for step in steps)  # then there is nothing to tell apart
    lines = [
        (
            step.stage, "cached" if step.cached else "run",
            (STAGES[step.stage].does if all_fresh else step.why) + _kept(cfg, run, step),
        )
        for step in steps
    ]  # fmt: skip
    if reads_pairs(cfg, steps) and (why := pairs.why_read(cfg, run)):
        lines.insert(0, ("data", "read", why))
    width = max(len(name) for name, *_ in lines)
    return "\n".join(f"  {name:<{width}}  {state:<6}  {why}" for name, state, why in lines)


def _kept(cfg: DictConfig, run: RunDir, step: Step) -> str:
    """What becomes of a result that is to be replaced."""
    seconds = artifacts.read_json_if_intact(run.timings).get(step.stage)
    if step.cached or seconds is None or not run.stage(step.stage).exists():
        return ""
    kept = artifacts.long_seconds(run, step.stage) is not None and not cfg.run.replace
    will = f"be kept aside in {run.aside(step.stage)}" if kept else "be removed"
    return f"; its result, of {seconds:.0f} s, will {will}"


def reads_pairs(cfg: DictConfig, steps: list[Step]) -> bool:
    """Whether a stage that will run needs the given pairs; the world makes its own."""
    return cfg.data.name != "world" and any("data" in STAGES[step.stage].inputs and not step.cached for step in steps)
