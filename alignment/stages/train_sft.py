"""Stage train_sft: the baseline that is fine-tuned on the chosen answers."""

from pathlib import Path

from omegaconf import DictConfig

from alignment.policies.search import train_systems
from alignment.runs.manifest import Rows
from alignment.runs.ranks import Ranks
from alignment.runs.run_files import RunDir


def run(cfg: DictConfig, run: RunDir, out: Path, ranks: Ranks) -> Rows:
    return train_systems("train_sft", cfg, run, out, ranks)
