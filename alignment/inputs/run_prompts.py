"""All that a run's policies learn from, are chosen by or are asked, as texts: what their judge may not have seen."""

from omegaconf import DictConfig

from alignment.data.prompt_sets import prompt_set
from alignment.data.same_prompts import opening
from alignment.inputs.pairs import given_pairs
from alignment.runs.ranks import Ranks
from alignment.runs.run_files import RunDir


def run_prompts(cfg: DictConfig, run: RunDir, ranks: Ranks) -> list[str]:
    """What the prompts of the pairs, held-out ones too, and of all sets that are evaluated on open with."""
    pairs = [row["prompt"] for part in given_pairs(cfg, run, ranks) for row in part.rows]
    sets = [name for name in cfg.evaluation.sets or [] if name != "data"]
    asked = [row["prompt"] for name in sets for row in prompt_set(name, cfg.evaluation.folder).rows]
    return [opening(prompt)["content"] for prompt in pairs + asked]
