"""The pairs that the hybrid reward is fitted on: the run's own training pairs, or those of a file of its own.

Labels that are believed, of other prompts than the policy learns from, may teach a reward that judges those which are
not.
"""

from omegaconf import DictConfig

from alignment.data.columns import Loaded
from alignment.inputs import pairs
from alignment.runs.ranks import Ranks
from alignment.runs.run_files import RunDir


def reward_pairs(cfg: DictConfig, run: RunDir, ranks: Ranks) -> tuple[Loaded, Loaded]:
    """Pairs to fit on and held-out ones, read as the run's own are: evaluation prompts are kept out of them, too."""
    if cfg.reward.path is None:
        return pairs.given_pairs(cfg, run, ranks)
    return pairs.given_pairs(_own(cfg), RunDir(run.root / "reward_pairs"), ranks)


def reward_pairs_hash(cfg: DictConfig) -> str:
    """The file's hash; empty where there is none."""
    return "" if cfg.reward.path is None else pairs.fingerprint(_own(cfg))


def _own(cfg: DictConfig) -> DictConfig:
    """The settings with the reward's file in the place of the policy's; corrections are of the policy's rows."""
    own = cfg.copy()
    own.data.path, own.data.corrections = cfg.reward.path, None
    return own
