"""The entry point: the command line, signals, and exit codes.

    python -m alignment.run +recipe=legend_rm                          on this machine
    python -m alignment.run +recipe=legend_rm launch=ddp               each stage in ranks of its own
    python -m alignment.run +recipe=legend_rm launch=slurm             as a chain of jobs
    accelerate launch recipes/legend_rm.py                             in the ranks that are there
    torchrun --nproc-per-node 2 -m alignment.run +recipe=legend_rm     likewise

A stage whose manifest matches is skipped; `run.plan=true` only prints what would run and why, and what it takes.
Exit codes: 0 done, 1 failed, 2 a mistake in the command line or the settings, 3 a gate of the scorecard was missed (and
everything is done), 75 stopped as asked (SIGUSR1, SIGTERM): the same command goes on, 130 interrupted.
"""

import errno
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

import alignment
from alignment.evaluation.judging import asked_judges
from alignment.judges.choice import require_ready
from alignment.launching import engines, exits, local, slurm
from alignment.plan import (
    Step,
    chosen,
    plan,
    plan_table,
    require_inputs,
    require_layers,
    require_router_choice,
    require_same_settings,
)
from alignment.runner import require_gates, run_here
from alignment.runs import stopping
from alignment.runs.ranks import Ranks
from alignment.runs.run_files import RunDir, open_run
from alignment.settings.compose import as_hydra_reads, check_arguments, sweep_folder
from alignment.settings.schema import CONF_DIR, register
from alignment.stages import own_guards
from alignment.trainers.quiet import quiet_libraries
from alignment.types import GatesMissed, Stopped, UserError

OTHER_RANKS_WAIT = 3.0  # seconds before they print their line
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FULL = os.strerror(errno.ENOSPC)
_swept: list[Path] = []  # the folders of a sweep's jobs, as they come
NO_ACCESS = {errno.EACCES, errno.EPERM, errno.EROFS}


def main(recipe: str | None = None) -> None:
    """Runs a command line; `recipe` fixes the recipe, as the scripts in recipes/ do."""
    given = sys.argv[1:]
    if "--version" in given:
        print(f"repalign {alignment.__version__}")
        return
    if recipe is not None:  # behind the flags: Hydra wants them before all settings
        first = next((i for i, one in enumerate(given) if "=" in one and not one.startswith("-")), len(given))
        given.insert(first, f"+recipe={recipe}")
    sys.argv[1:] = as_hydra_reads(given)
    try:
        check_arguments(sys.argv[1:])
    except UserError as error:
        _fail(str(error), 2)
    register()
    quiet_libraries()
    try:
        _hydra_main()
    finally:  # a job that fails ends the sweep: what others came to is said all the same
        if len(_swept) > 1 and int(os.environ.get("RANK", "0")) == 0:
            _say_sweep()


@hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="config")
def _hydra_main(cfg: DictConfig) -> None:
    OmegaConf.resolve(cfg)
    if HydraConfig.get().mode.name == "MULTIRUN":
        cfg.run.dir = str(Path(cfg.run.dir) / sweep_folder(sys.argv[1:], list(HydraConfig.get().overrides.task)))
        if not cfg.run.plan:
            _swept.append(Path(cfg.run.dir))
    signal.signal(signal.SIGINT, lambda number, frame: _interrupted(cfg.run.dir))
    stopping.listen()
    root, stage = Path(cfg.run.dir), cfg.run.stage
    try:
        run_recipe(cfg)
    except (UserError, GatesMissed) as error:
        exits.leave(root, stage, error.exit_code)
        _fail("\nrepalign: ".join(error.args), error.exit_code)
    except Stopped as stopped:
        exits.leave(root, stage, stopped.exit_code)
        _fail(f"stopped {stopped}; the same command goes on in {root}", stopped.exit_code)
    except Exception as error:
        exits.leave(root, stage, 1)
        if _out_of_space(error, root):
            _fail(f"{root}: {FULL}; make room there, or set run.dir, and run the same command again", 1)
        if isinstance(error, OSError) and error.errno in NO_ACCESS:
            _fail(f"{error.filename or root}: {error.strerror}; make it writable, or set run.dir", 1)
        raise
    finally:
        stopping.over()


def _out_of_space(error: BaseException | None, folder: Path) -> bool:
    """Whether a disk is full: libraries raise an OSError, an error of their own that quotes it, or anything at all."""
    while error is not None:
        if (isinstance(error, OSError) and error.errno in NO_SPACE) or FULL in str(error):
            return True
        error = error.__cause__ or error.__context__
    return folder.exists() and shutil.disk_usage(folder).free < 2**16


def run_recipe(cfg: DictConfig) -> None:
    """Runs, or with run.plan=true only plans, the stages of a composed configuration."""
    ranks = Ranks.here(cfg.launch.timeout_seconds)
    run = RunDir(Path(cfg.run.dir))
    steps = ranks.from_main(lambda: plan(cfg, run))
    ranks.from_main(lambda: require_same_settings(cfg, run))
    ranks.from_main(lambda: require_layers(cfg, steps))
    ranks.from_main(lambda: require_router_choice(cfg, steps))
    if cfg.run.plan:
        ranks.say(ranks.from_main(lambda: plan_table(cfg, run, steps)))
        _say_memory(cfg, run, steps, ranks)
        return
    judging = any(step.stage == "evaluate" and not step.cached for step in steps)
    made_first = own_guards(cfg) if any(step.stage == "fit_guard" and not step.cached for step in steps) else []
    steps = chosen(cfg, steps)
    require_inputs(cfg, steps)
    engines.check(cfg)
    judges = asked_judges(cfg) if judging and not all(step.cached for step in steps) else []
    judges = [name for name in judges if name not in made_first]  # those are checked once they are there
    ranks.from_main(lambda: require_ready(cfg.judge, judges))
    open_run(run.root)
    if cfg.launch.name == "inline":
        run_here(cfg, run, steps, judges, ranks)
    elif ranks.count > 1:
        raise UserError("launch", f"{ranks.count} ranks are there already", "leave it out, or start one process")
    elif cfg.launch.name == "slurm":
        slurm.submit(cfg, run, steps, HydraConfig.get().overrides.task)
    else:
        local.run_stages(cfg, run, steps, HydraConfig.get().overrides.task)
        ranks.say(f"done: {run.root}")
    if cfg.launch.name != "inline" and any(step.stage == "report" and step.cached for step in steps):
        require_gates(run)  # if report runs, it does so itself


def _say_sweep() -> None:
    """The headline figures of all jobs so far, where any has a report: what Slurm will run has none yet."""
    from alignment.reports.compare import comparison
    from alignment.reports.tables import as_text

    try:
        tables = comparison(_swept)
    except UserError as error:  # a report that can't be read takes nothing from the jobs
        print(f"repalign: {error}", file=sys.stderr, flush=True)
        return
    if tables:
        print(f"\nthe {len(_swept)} jobs:\n{as_text(tables).rstrip()}", flush=True)


def _say_memory(cfg: DictConfig, run: RunDir, steps: list[Step], ranks: Ranks) -> None:
    """Prints what the stages take and refuses what can't fit. Only a plan is refused, no run: this is an estimate."""
    from alignment.memory import table

    text, refusal = ranks.from_main(lambda: table.report(cfg, run, steps, ranks.count))
    ranks.say(text)
    if refusal is not None:
        raise refusal


def _interrupted(folder: str) -> None:
    """Ends the process at Ctrl-C: a stage can be killed at any moment, and libraries swallow KeyboardInterrupt."""
    if int(os.environ.get("RANK", "0")) == 0:
        print(f"\nrepalign: interrupted; the same command goes on in {folder}", file=sys.stderr, flush=True)
    os._exit(130)


def _fail(message: str, code: int) -> None:
    """Ends with one line. Other ranks than the main one wait: if all fail alike, the launcher ends them meanwhile."""
    rank = int(os.environ.get("RANK", "0"))
    if rank == 0:
        print(f"repalign: {message}", file=sys.stderr, flush=True)
    else:
        time.sleep(OTHER_RANKS_WAIT)
        if code != Stopped.exit_code:  # all of them stop
            print(f"repalign, rank {rank}: {message}", file=sys.stderr, flush=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
