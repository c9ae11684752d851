"""Runs the steps of a plan in this process or these ranks; each writes to a work folder, is published and timed."""

import gc
import importlib
import os
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from omegaconf import DictConfig

from alignment.evaluation.gates import missed
from alignment.evaluation.judging import asked_judges, calibrated, is_judged
from alignment.inputs import pairs
from alignment.inputs.job import Job
from alignment.inputs.validated import is_chosen_by_judges
from alignment.judges.seen_prompts import fitted_judges, require_unseen, require_untrained
from alignment.launching import lost
from alignment.models.source import model_source
from alignment.plan import Step, keep_settings, reads_pairs
from alignment.policies.run_prompts import run_prompts
from alignment.policies.trained import trained_models
from alignment.runs import artifacts, results
from alignment.runs.agreements import agreements
from alignment.runs.manifest import FRESH, files_in, git_commit
from alignment.runs.once import once
from alignment.runs.peak_memory import forget_peak, in_words, peaks
from alignment.runs.ranks import Ranks
from alignment.runs.run_files import QUARANTINE, RunDir, locked
from alignment.stages import STAGES, own_guards, trained_with
from alignment.types import GatesMissed, StageFailed


def run_here(cfg: DictConfig, run: RunDir, steps: list[Step], judges: list[str], ranks: Ranks) -> None:
    """Runs the steps. judges: those of stage evaluate, whose health is checked before any stage runs."""
    held_here = locked(run) if ranks.main else nullcontext(lambda: True)
    with once.in_a_run(), agreements.in_a_run(run.agreements), held_here as held:
        if ranks.main:
            artifacts.clear_replaced(run)
            if cfg.run.stage is None:
                keep_settings(cfg, run)
        _read_pairs(cfg, run, steps, ranks)
        _say_idle_gpus(steps, ranks)
        _require_unseen(cfg, run, steps, ranks)
        if judges:
            calibrated(cfg.judge, judges, cfg.seed, run, ranks, is_judged(cfg))
        for step in steps:
            if step.cached:
                ranks.say(f"{step.stage}: up to date")
            else:
                why = "" if step.why == FRESH else f" ({step.why})"
                ranks.say(f"{step.stage}: {STAGES[step.stage].does}{why}")
                if step.stage == "evaluate" and (names := fitted_judges(asked_judges(cfg))):
                    _require_untrained(cfg, run, names, set(), ranks)  # its policies may be of this very call
                _run_or_name_the_lost(cfg, run, step, ranks, held)
        if ranks.main and any(step.stage == "report" for step in steps):
            artifacts.write_json(run.report, _report(run))
            _write_page(run)
            ranks.say(run.tables.read_text(encoding="utf-8").rstrip())
        if ranks.main and cfg.run.stage in (None, "report"):  # launched stage by stage, the report is the last
            if not all(step.cached for step in steps):
                _write_cards(cfg, run)
            print("", *results.link(run), sep="\n", flush=True)
    if cfg.run.stage is None:
        ranks.say(f"done: {run.root}")
    if any(step.stage == "report" for step in steps):
        ranks.from_main(lambda: require_gates(run))


def _require_unseen(cfg: DictConfig, run: RunDir, steps: list[Step], ranks: Ranks) -> None:
    """Refuses judges that were fitted on what they are to judge; a guard that this run makes is fitted without it."""
    unmade = {step.stage for step in steps if not step.cached}
    judging = {"evaluate", "best_of_n", *(trained_with("policy") if is_chosen_by_judges(cfg) else ())}
    names = fitted_judges(asked_judges(cfg)) if unmade & judging else []
    if not names:
        return
    _require_untrained(cfg, run, names, unmade, ranks)
    own = own_guards(cfg) if "fit_guard" in unmade else []
    if names := [name for name in names if name not in own]:
        prompts = run_prompts(cfg, run, ranks)
        ranks.from_main(lambda: require_unseen(cfg.judge, names, prompts))


def _require_untrained(cfg: DictConfig, run: RunDir, names: list[str], unmade: set[str], ranks: Ranks) -> None:
    """Refuses judges that read the activations of a trained model that they judge. unmade: stages yet to run."""
    own = own_guards(cfg) if "fit_guard" in unmade else []

    def check() -> None:
        fitted_on = dict.fromkeys(own, model_source(cfg.model).fingerprint)
        require_untrained(cfg.judge, names, trained_models(cfg, run, unmade), fitted_on)

    ranks.from_main(check)


def _say_idle_gpus(steps: list[Step], ranks: Ranks) -> None:
    """Says that one process uses one GPU, if there are more."""
    if ranks.count > 1 or not any(STAGES[step.stage].model and not step.cached for step in steps):
        return
    import torch

    if (count := torch.cuda.device_count()) > 1:
        ranks.say(f"one of the {count} GPUs here is used; launch=ddp, or accelerate launch, uses all of them")


def require_gates(run: RunDir) -> None:
    """Raises GatesMissed if the published scorecard has a gate that was missed."""
    if run.scorecard.exists() and (lines := missed(artifacts.read_json(run.scorecard)["gates"])):
        raise GatesMissed(*lines)


def _read_pairs(cfg: DictConfig, run: RunDir, steps: list[Step], ranks: Ranks) -> None:
    """Reads the given pairs before any stage runs, so that what is wrong with them is known at once."""
    if not reads_pairs(cfg, steps):
        return
    train, heldout = pairs.given_pairs(cfg, run, ranks)
    if "annotate" in cfg.stages:
        pairs.require_enough(cfg, run, train, heldout)


def _run_or_name_the_lost(cfg: DictConfig, run: RunDir, step: Step, ranks: Ranks, held: Callable[[], bool]) -> None:
    """Runs a step; a rank that waited in vain for another names it and ends at once."""
    try:
        ranks.stop_if_asked(f"before {step.stage}")
        _run_stage(cfg, run, step, ranks, held)
    except Exception as error:
        if not lost.gave_up(error, ranks):
            raise
        absent = lost.missing(run.waiting, ranks)
        line = lost.message(step.stage, absent, ranks, cfg.launch.timeout_seconds, run.root)
        print(f"repalign: {line}", file=sys.stderr, flush=True)
        os._exit(1)  # without an exit code in the run folder, since it is not this rank that failed


def _run_stage(cfg: DictConfig, run: RunDir, step: Step, ranks: Ranks, held: Callable[[], bool]) -> None:
    """Runs one stage on all ranks; the main process publishes what they wrote. held: is the run's folder still ours?"""
    work = run.work(step.stage, step.manifest.key)
    out = work / "out"
    if ranks.main:
        work.mkdir(parents=True, exist_ok=True)
        earlier = _seconds_before(work)
        shutil.rmtree(out, ignore_errors=True)  # a killed run may have left half a file there
        out.mkdir()
    stage = _imported(f"alignment.stages.{step.stage}")
    ranks.wait()
    started = time.perf_counter()  # once libraries are imported
    forget_peak()
    rows = stage.run(Job(cfg, run, out, ranks))
    held_at_most = ranks.most(*peaks())
    if ranks.main:
        if not held():
            raise StageFailed(step.stage, f"{run.root} was taken over by another attempt", "that one goes on")
        replaced = None if cfg.run.replace else artifacts.long_seconds(run, step.stage)
        seconds = earlier + time.perf_counter() - started
        of_each = "each rank held" if ranks.count > 1 else "it held"
        ranks.say(f"  {seconds:.1f} s; {of_each} at most {in_words(*held_at_most)}")
        manifest = replace(step.manifest, git_commit=git_commit(), rows=rows)
        aside = None if replaced is None else run.aside(step.stage)
        artifacts.publish(out, run.stage(step.stage), manifest, aside)
        if aside is not None:
            ranks.say(f"  the result before it, of {replaced:.0f} s, is kept in {aside}; run.replace=true keeps none")
        timings = {**artifacts.read_json_if_intact(run.timings), step.stage: round(seconds, 3)}
        artifacts.write_json(run.timings, timings)  # now: killed before, it told how long the result before it took
        memory = {
            **artifacts.read_json_if_intact(run.memory),
            step.stage: {"bytes": held_at_most[0], "gpu_bytes": held_at_most[1]},
        }
        artifacts.write_json(run.memory, memory)
        _clear_work(run, step.stage)
        if rows.quarantined:
            ranks.say(f"  {rows.quarantined} of {rows.read} rows quarantined: {step.stage}/{QUARANTINE} says why")
    ranks.wait()


def _imported(name: str) -> ModuleType:
    """A stage's module. With it come millions of objects that stay: garbage is not looked for among them, neither as
    they come nor later, which would take a second and, in every training, another."""
    if name in sys.modules:
        return sys.modules[name]
    gc.collect()  # what an earlier stage left mustn't stay for ever
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        gc.freeze()
        gc.enable()


def _write_cards(cfg: DictConfig, run: RunDir) -> None:
    from alignment.reports.model_cards import write_cards  # slow to import, and a run that is up to date needs it not

    data = [] if cfg.data.name == "world" else pairs.sources(cfg.data)
    write_cards(run, cfg.stages, cfg.recipe, model_source(cfg.model), data, cfg.policy)


def _seconds_before(work: Path) -> float:
    """The seconds of earlier attempts at this work, each until the last file that it wrote; begins a new one."""
    attempt, seconds = work / "attempt", 0.0
    with suppress(FileNotFoundError, ValueError):
        seconds = float(attempt.read_text()) + _newest(work) - attempt.stat().st_mtime
    attempt.write_text(f"{seconds}")
    return seconds


def _newest(work: Path) -> float:
    return max(path.stat().st_mtime for path in files_in(work))


def _report(run: RunDir) -> dict:
    """The report with the seconds that stages took; published stages have none, so that they are reproducible."""
    report = artifacts.read_json(run.stage_report)
    if "annotation" in report:
        timings = artifacts.read_json_if_intact(run.timings)
        seconds = [timings.get(stage) for stage in ("induce", "annotate")]
        report["annotation"]["seconds"] = None if None in seconds else round(sum(seconds), 3)
    return report


def _write_page(run: RunDir) -> None:
    """The page with the seconds that stages took, the memory they held, and the settings as composed: no results."""
    from alignment.reports.page.page_file import with_outside  # a run without a report needs it not

    if not run.page.exists():  # it could not be written, and the stage said so
        run.page_at_top.unlink(missing_ok=True)
        return
    settings = run.settings.read_text(encoding="utf-8") if run.settings.exists() else None
    seconds, memory = map(artifacts.read_json_if_intact, (run.timings, run.memory))
    outside = {"seconds": seconds, "memory": memory, "settings": settings}
    with artifacts.atomic_file(run.page_at_top) as file:
        file.write_text(with_outside(run.page.read_text(encoding="utf-8"), outside), encoding="utf-8")


def _clear_work(run: RunDir, stage: str) -> None:
    """Removes the stage's unfinished work. Under other settings it stayed until now: they may have been a mistake."""
    for folder in run.work("").glob(f"{stage}-*"):
        shutil.rmtree(folder, ignore_errors=True)
