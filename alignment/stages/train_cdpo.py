"""Stage train_cdpo: confidence DPO, the hybrid reward re-fitted on every batch."""

from pathlib import Path

from omegaconf import DictConfig

from alignment.policies.search import train_systems
from alignment.runs.manifest import Rows
from alignment.runs.ranks import Ranks
from alignment.runs.run_files import RunDir


def run(cfg: DictConfig, run: RunDir, out: Path, ranks: Ranks) -> Rows:
    return train_systems("train_cdpo", cfg, run, out, ranks)
