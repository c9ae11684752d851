"""The command that runs one stage in ranks of its own: `accelerate launch` with the layout that the stage needs."""

import sys
from collections.abc import Sequence
from pathlib import Path

from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig

from alignment.settings.compose import quoted
from alignment.settings.schema import LAUNCH_DIR
from alignment.stages import STAGES

# Ranks on a CPU give back what they free. Left alone, glibc keeps blocks of up to 32 MB for reuse, and mostly can't
# reuse them: an aligned block needs more room than a freed one of its size has. Large pages, which PyTorch then asks
# for, make up for most of the time that this takes.
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "1048576", "THP_MEM_ALLOC_ENABLE": "1"}


def layout(cfg: DictConfig, stage: str) -> str:
    """The file in launch/accelerate that a stage runs with: only trainings have something to split."""
    chosen = cfg.launch.get("layout", cfg.launch.name)
    return chosen if STAGES[stage].trains else "ddp"


def is_deepspeed(cfg: DictConfig, stage: str) -> bool:
    return layout(cfg, stage).startswith("zero")


def accelerate(stage_layout: str, processes: int, *more: str) -> list[str]:
    """`accelerate launch`, up to what it is to run; processes: on all machines together."""
    file = LAUNCH_DIR / "accelerate" / f"{stage_layout}.yaml"
    command = ["-m", "accelerate.commands.launch", "--config_file", str(file), "--num_processes", str(processes)]
    return [*command, *more, "--module", "alignment.run"]


def arguments(cfg: DictConfig, stage: str, overrides: Sequence[str], argv: Sequence[str]) -> list[str]:
    """The arguments of this run for one of its stages, in the ranks that will be there.

    overrides: this job's, as Hydra has them; argv: what the command line said, for folders of configuration.
    """
    ours = ("launch", "run.dir", "run.stage")
    kept = [one for one in overrides if not _key(one).startswith("launch.") and _key(one) not in ours]
    settings = {"launch": "inline", "launch.timeout_seconds": cfg.launch.timeout_seconds, "run.stage": stage}
    return [
        *_config_flags(argv), *kept, *(f"{key}={value}" for key, value in settings.items()),
        f"run.dir={quoted(str(Path(cfg.run.dir).absolute()))}",
    ]  # fmt: skip


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0].partition("@")[0]


def _config_flags(argv: Sequence[str]) -> list[str]:
    folder = get_args_parser().parse_known_args(argv)[0].config_dir
    return [] if folder is None else ["--config-dir", str(Path(folder).absolute())]


def python() -> str:
    return sys.executable
