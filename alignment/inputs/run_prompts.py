"""All that a run's policies and rewards learn from, are chosen by or are asked, as texts: no judge may have seen it."""

from omegaconf import DictConfig

from alignment.data.prompt_sets import prompt_set
from alignment.data.same_prompts import opening
from alignment.inputs.pairs import given_pairs
from alignment.inputs.validated import is_chosen_by_judges
from alignment.runs.artifacts import read_rows
from alignment.runs.ranks import Ranks
from alignment.runs.run_files import RunDir


def run_prompts(cfg: DictConfig, run: RunDir, ranks: Ranks) -> list[str]:
    """What the prompts of the pairs, held-out ones too, and of all sets that are evaluated on open with; and those of
    the labelled answers that margins are read along, where there are some."""
    pairs = [row["prompt"] for part in given_pairs(cfg, run, ranks) for row in part.rows]
    chosen_by = cfg.evaluation.validation_sets if is_chosen_by_judges(cfg) else []
    sets = [name for name in dict.fromkeys([*(cfg.evaluation.sets or []), *chosen_by]) if name != "data"]
    asked = [row["prompt"] for name in sets for row in prompt_set(name, cfg.evaluation.folder).rows]
    induced = read_rows(run.induced) if cfg.annotator.contrast.labelled and run.induced.exists() else []
    labelled = [row[column] for row in induced for column in ("prompt", "negative_prompt") if row.get(column)]
    return [opening(prompt)["content"] for prompt in pairs + asked + labelled]
