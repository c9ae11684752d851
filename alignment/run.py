"""The entry point: check the command line, compose the configuration, run the recipe's stages in order.

    python -m alignment.run +recipe=legend_rm                          on this machine
    accelerate launch recipes/legend_rm.py                             in the ranks that are there
    torchrun --nproc-per-node 2 -m alignment.run +recipe=legend_rm     likewise

A stage whose manifest matches is skipped; `run.plan=true` prints what would run and why, and stops. Exit codes: 0 done,
1 failed, 2 a mistake in the command line or the settings, 130 interrupted.
"""

import errno
import importlib
import logging
import os
import shutil
import signal
import sys
import time
import warnings
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from alignment import artifacts
from alignment.artifacts import Manifest, RunDir
from alignment.compose import check_arguments
from alignment.config import CONF_DIR, register
from alignment.models.source import model_source, ready_path
from alignment.ranks import Ranks
from alignment.stages import STAGES
from alignment.types import UserError
from alignment.world.grammar import generator_hash

OTHER_RANKS_WAIT = 3.0  # seconds
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FULL = os.strerror(errno.ENOSPC)
NO_ACCESS = {errno.EACCES, errno.EPERM, errno.EROFS}


def main(recipe: str | None = None) -> None:
    """Runs a command line; `recipe` fixes the recipe, as the scripts in recipes/ do."""
    if recipe is not None:
        sys.argv[1:1] = [f"+recipe={recipe}"]
    try:
        check_arguments(sys.argv[1:])
    except UserError as error:
        _fail(str(error), 2)
    register()
    _quiet_libraries()
    _hydra_main()


@hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="config")
def _hydra_main(cfg: DictConfig) -> None:
    OmegaConf.resolve(cfg)
    if HydraConfig.get().mode.name == "MULTIRUN":
        cfg.run.dir = str(Path(cfg.run.dir) / HydraConfig.get().job.override_dirname.replace("/", "_"))
    signal.signal(signal.SIGINT, lambda number, frame: _interrupted(cfg.run.dir))
    try:
        run_recipe(cfg)
    except UserError as error:
        _fail(str(error), error.exit_code)
    except Exception as error:
        if _out_of_space(error, Path(cfg.run.dir)):
            _fail(f"{cfg.run.dir}: {FULL}; make room there, or set run.dir, and run the same command again", 1)
        if isinstance(error, OSError) and error.errno in NO_ACCESS:
            _fail(f"{error.filename or cfg.run.dir}: {error.strerror}; make it writable, or set run.dir", 1)
        raise


def _out_of_space(error: BaseException | None, folder: Path) -> bool:
    """Libraries pass a full disk on as an OSError, as an error of their own that quotes it, or as anything at all."""
    while error is not None:
        if (isinstance(error, OSError) and error.errno in NO_SPACE) or FULL in str(error):
            return True
        error = error.__cause__ or error.__context__
    return folder.exists() and shutil.disk_usage(folder).free < 2**16


def run_recipe(cfg: DictConfig) -> None:
    """Runs, or with run.plan=true only plans, the stages of a composed configuration."""
    ranks = Ranks.here()
    steps = ranks.from_main(lambda: plan(cfg, RunDir(Path(cfg.run.dir))))
    ranks.from_main(lambda: _require_same_settings(cfg, RunDir(Path(cfg.run.dir))))
    if cfg.run.plan:
        ranks.say(_plan_table(steps))
        return
    _require_inputs(cfg, steps)
    _refuse_fsdp_on_cpu()
    run = artifacts.open_run(Path(cfg.run.dir))
    with artifacts.locked(run) if ranks.main else nullcontext():
        if ranks.main:
            artifacts.clear_replaced(run)
            (run.root / "config.yaml").write_text(OmegaConf.to_yaml(cfg))
        for step in steps:
            if step.cached:
                ranks.say(f"{step.stage}: up to date")
            else:
                ranks.say(f"{step.stage}: {STAGES[step.stage].does} ({step.why})")
                _run_stage(cfg, run, step, ranks)
        if ranks.main and "report" in cfg.stages:
            artifacts.write_json(run.report, _report(run))
            ranks.say((run.stage("report") / "table.txt").read_text(encoding="utf-8").rstrip())
    ranks.say(f"done: {run.root}")


# ---- what will run --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One stage of a plan. `manifest` is what it would be published with."""

    stage: str
    cached: bool
    why: str
    manifest: Manifest


def plan(cfg: DictConfig, run: RunDir) -> list[Step]:
    """Every stage of the recipe: up to date, or to run and why."""
    steps: list[Step] = []
    keys: dict[str, str] = {}
    versions = artifacts.versions()
    for name in cfg.stages:
        stage = STAGES[name]
        made_from = {what: _fingerprint(what, cfg) for what in stage.inputs}
        made_from |= {f"stage {read}": keys.get(read) or _published_key(run, read) for read in stage.reads_with(cfg)}
        manifest = Manifest(name, _settings(cfg, name), made_from, versions)
        keys[name] = manifest.key
        why = _why_run(run.stage(name), manifest)
        steps.append(Step(name, why is None, why or "up to date", manifest))
    return steps


def _why_run(folder: Path, wanted: Manifest) -> str | None:
    if not folder.exists():
        return "not there yet"
    if problem := artifacts.damage(folder):
        return f"rebuilding: {problem}"
    published = Manifest.read(folder)
    return None if published.key == wanted.key else f"rebuilding: {artifacts.difference(published, wanted)}"


def _published_key(run: RunDir, stage: str) -> str:
    """The key of a stage that this run only reads; empty when it isn't there, or must not be read."""
    return "" if artifacts.unusable(run, stage) else Manifest.read(run.stage(stage)).key


def _settings(cfg: DictConfig, stage: str) -> dict:
    """The settings that shape a stage's result."""
    return _flat({key: _plain(OmegaConf.select(cfg, key)) for key in STAGES[stage].config})


def _require_same_settings(cfg: DictConfig, run: RunDir) -> None:
    """A stage that is only read must have been made with the settings of this call, or its record would be wrong."""
    for read in dict.fromkeys(read for stage in cfg.stages for read in STAGES[stage].reads_with(cfg)):
        if read in cfg.stages or artifacts.unusable(run, read):
            continue
        published, wanted = Manifest.read(run.stage(read)), _settings(cfg, read)
        if published.config != wanted:
            difference = artifacts.difference(published, replace(published, config=wanted))
            raise UserError(
                "stages", f"{read} was made with other settings: {difference} in this call",
                f"add {read} to stages, or give the settings it was made with",
            )  # fmt: skip


def _require_inputs(cfg: DictConfig, steps: list[Step]) -> None:
    """A stage asked for alone needs the files of those before it."""
    for step in steps:
        if step.cached or step.stage == "report":
            continue
        for read in STAGES[step.stage].reads_with(cfg):
            if read not in cfg.stages and not step.manifest.inputs[f"stage {read}"]:
                raise UserError(
                    "stages", f"{step.stage} needs what {read} makes, and {cfg.run.dir} has no intact {read}",
                    f"run it first: stages=[{read},{','.join(cfg.stages)}]",
                )  # fmt: skip


def _refuse_fsdp_on_cpu() -> None:
    """accelerate would run plain DDP there without saying so."""
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        import torch

        if not torch.accelerator.is_available():
            raise UserError("accelerate", "FSDP needs GPUs, and there is none", "use ddp.yaml or zero2_cpu.yaml")


def _fingerprint(what: str, cfg: DictConfig) -> str:
    """What a thing outside the run folder was when the plan was made."""
    if what == "model":
        template = cfg.model.get("chat_template")
        fingerprint = model_source(cfg.model.name, cfg.model.get("path")).fingerprint
        return fingerprint if template is None else f"{fingerprint} {_file_hash('model.chat_template', template)}"
    if what == "data":
        return generator_hash() if cfg.data.name == "world" else _file_hash("data.path", cfg.data.path)
    contrast = cfg.annotator.contrast
    if contrast.file is not None:
        return _file_hash("annotator.contrast.file", contrast.file)
    if contrast.questions in ("harmful", "harmless"):
        return generator_hash()
    return _file_hash("annotator.contrast.questions", contrast.questions)


def _file_hash(key: str, path: str) -> str:
    if not Path(path).is_file():
        raise UserError(
            key, f"there is no file {path}", "check the path; relative ones start where the command was given"
        )
    return artifacts.hash_file(Path(path))


def _plain(value: object) -> object:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _flat(config: dict, prefix: str = "") -> dict:
    """Nested settings as one level of dotted keys, so that a difference can be named."""
    flat: dict = {}
    for key, value in config.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _plan_table(steps: list[Step]) -> str:
    width = max(len(step.stage) for step in steps)
    return "\n".join(f"  {step.stage:<{width}}  {'cached' if step.cached else 'run':<6}  {step.why}" for step in steps)


# ---- running --------------------------------------------------------------------------------------------------------


def _run_stage(cfg: DictConfig, run: RunDir, step: Step, ranks: "Ranks") -> None:
    """Runs one stage on all ranks; the main process publishes what they wrote."""
    work = run.work(step.stage, step.manifest.key)
    out = work / "out"
    if ranks.main:
        _clear_stale_work(work)
        shutil.rmtree(out, ignore_errors=True)  # what a killed run left there may hold half a file
        out.mkdir(parents=True)
    stage = importlib.import_module(f"alignment.stages.{step.stage}")
    if "model" in STAGES[step.stage].inputs:
        ready_path(model_source(cfg.model.name, cfg.model.get("path")))
    ranks.wait()
    started = time.perf_counter()  # of the work itself: libraries are imported, the world's model is there
    rows = stage.run(cfg, run, out, ranks)
    ranks.wait()
    if ranks.main:
        seconds = time.perf_counter() - started
        artifacts.write_json(run.timings, {**_timings(run), step.stage: round(seconds, 3)})
        ranks.say(f"  {seconds:.1f} s")
        record = {"git_commit": artifacts.git_commit(), "rows": rows}
        artifacts.publish(out, run.stage(step.stage), Manifest(**{**vars(step.manifest), **record}))
        shutil.rmtree(work, ignore_errors=True)
        if rows.quarantined:
            ranks.say(f"  {rows.quarantined} of {rows.read} rows quarantined: {step.stage}/quarantine.jsonl says why")
    ranks.wait()


def _report(run: RunDir) -> dict:
    """The report, with what must stay out of published stages for those to be reproducible: the time they took."""
    report = artifacts.read_json(run.stage("report") / "report.json")
    if "annotation" in report:
        seconds = [_timings(run).get(stage) for stage in ("induce", "annotate")]
        report["annotation"]["seconds"] = None if None in seconds else round(sum(seconds), 3)
    return report


def _timings(run: RunDir) -> dict[str, float]:
    """Seconds by stage; none that are lost or unreadable."""
    try:
        return artifacts.read_json(run.timings)
    except (FileNotFoundError, ValueError):
        return {}


def _clear_stale_work(work: Path) -> None:
    """Half-done work of this stage under other settings will never be used."""
    stage = work.name.rpartition("-")[0]
    for folder in work.parent.glob(f"{stage}-*") if work.parent.exists() else []:
        if folder != work:
            shutil.rmtree(folder, ignore_errors=True)


def _interrupted(folder: str) -> None:
    """Ctrl-C ends the process at once: a stage can be killed at any moment, and libraries swallow KeyboardInterrupt."""
    if int(os.environ.get("RANK", "0")) == 0:
        print(f"\nrepalign: interrupted; the same command goes on in {folder}", file=sys.stderr, flush=True)
    os._exit(130)


def _quiet_libraries() -> None:
    """Libraries listen to environment variables, read at import: no telemetry, and no warnings about what this package
    settles itself. What is set already stays as it is."""
    for name, value in {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads make training many times slower when a core is shared
    }.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", r"`torch\.distributed", FutureWarning)
    warnings.filterwarnings("ignore", r"`is_gradient_checkpointing`", FutureWarning)  # TRL's own call of it
    logging.getLogger("DeepSpeed").addFilter(lambda record: "Setting accelerator to CPU" not in record.getMessage())


def _fail(message: str, code: int) -> None:
    """One line, from the main process. Others wait first: if all ranks fail alike, the launcher ends them meanwhile."""
    rank = int(os.environ.get("RANK", "0"))
    if rank != 0:
        time.sleep(OTHER_RANKS_WAIT)
    print(f"repalign: {message}" if rank == 0 else f"repalign, rank {rank}: {message}", file=sys.stderr, flush=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
