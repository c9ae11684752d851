"""The command that runs one stage in ranks of its own: `accelerate launch` with the layout that the stage needs."""

from collections.abc import Sequence
from pathlib import Path

from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig

from alignment.settings.compose import quoted
from alignment.settings.rules import key_of
from alignment.settings.schema import LAUNCH_DIR
from alignment.stages import STAGES

# Under these variables, ranks on a CPU return the memory they free. Or glibc keeps freed blocks of up to 32 MB, and
# most of them can't be reused: an aligned block needs more room than a freed one of its size has. Large pages, which
# PyTorch then asks for, make up for most of the time that this takes.
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "1048576", "THP_MEM_ALLOC_ENABLE": "1"}


def layout(cfg: DictConfig, stage: str) -> str:
    """The name of the file in launch/accelerate that a stage runs with: only trainings have something to split."""
    chosen = cfg.launch.get("layout", cfg.launch.name)
    return chosen if STAGES[stage].trains else "ddp"


def accelerate(stage_layout: str, processes: int, *options: str) -> list[str]:
    """`accelerate launch` and its options, without the run's arguments. processes: on all machines together."""
    file = LAUNCH_DIR / "accelerate" / f"{stage_layout}.yaml"
    command = ["-m", "accelerate.commands.launch", "--config_file", str(file), "--num_processes", str(processes)]
    return [*command, *options, "--module", "alignment.run"]


def arguments(cfg: DictConfig, stage: str, overrides: Sequence[str], argv: Sequence[str]) -> list[str]:
    """The arguments that run one stage of this run inline, in the ranks that a launcher starts.

    overrides: those of this job, as Hydra has them; argv: the command line, which may name a folder of configuration.
    """
    own_keys = ("launch", "run.dir", "run.stage")
    passed_on = [word for word in overrides if not (key_of(word) in own_keys or key_of(word).startswith("launch."))]
    folder = get_args_parser().parse_known_args(argv)[0].config_dir
    flags = [] if folder is None else ["--config-dir", str(Path(folder).absolute())]
    run = [f"run.stage={stage}", f"run.dir={quoted(str(Path(cfg.run.dir).absolute()))}"]
    return [*flags, *passed_on, "launch=inline", f"launch.timeout_seconds={cfg.launch.timeout_seconds}", *run]
