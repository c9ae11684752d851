"""Stage train_dpo: DPO, and DPO with one confidence for every pair."""

from pathlib import Path

from omegaconf import DictConfig

from alignment.policies.search import train_systems
from alignment.runs.manifest import Rows
from alignment.runs.ranks import Ranks
from alignment.runs.run_files import RunDir


def run(cfg: DictConfig, run: RunDir, out: Path, ranks: Ranks) -> Rows:
    return train_systems("train_dpo", cfg, run, out, ranks)
