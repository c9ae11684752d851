"""Whether policies are validated once they are trained, and which files have the prompts that they are asked then."""

import hashlib

from omegaconf import DictConfig

from alignment.data.prompt_sets import prompt_files
from alignment.runs.manifest import hash_file


def is_validated(cfg: DictConfig) -> bool:
    """The world's policies are; others where there are several points of a grid to choose of."""
    return cfg.data.name == "world" or is_chosen_by_judges(cfg)


def is_chosen_by_judges(cfg: DictConfig) -> bool:
    """Whether judges choose the point of a grid, since there is no oracle."""
    several = len(cfg.policy.beta) * len(cfg.policy.learning_rate) > 1
    return cfg.data.name != "world" and bool(cfg.evaluation.validation_sets) and several


def validation_hash(cfg: DictConfig) -> str:
    """A hash of the files whose prompts choose; empty where none do."""
    if not is_chosen_by_judges(cfg):
        return ""
    names = {*cfg.evaluation.validation_sets, *(name for name in cfg.evaluation.sets or [] if name != "data")}
    files = [file for name in sorted(names) for file in prompt_files(name, cfg.evaluation.folder)]
    return hashlib.sha256("".join(map(hash_file, files)).encode()).hexdigest()
