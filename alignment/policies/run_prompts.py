"""All that a run's policies and rewards learn from, are chosen by or are asked, as texts: no judge may have seen it."""

from omegaconf import DictConfig

from alignment.data.prompt_sets import prompt_set
from alignment.data.same_prompts import user_turns
from alignment.inputs.pairs import evaluation_pairs, given_pairs
from alignment.inputs.reward_pairs import reward_pairs
from alignment.inputs.validated import is_chosen_by_judges
from alignment.runs.artifacts import read_rows
from alignment.runs.ranks import Ranks
from alignment.runs.run_files import RunDir
from alignment.types import Message


def run_prompts(cfg: DictConfig, run: RunDir, ranks: Ranks) -> list[str]:
    """What the user says in each turn of the prompts of the pairs, held-out ones too, and of all that is evaluated on,
    the world's own and those that choose its policies among it; and of the labelled answers that margins are read
    along, where there are some."""
    parts = [*given_pairs(cfg, run, ranks), *evaluation_pairs(cfg).values()]
    if cfg.reward.path is not None:
        parts += reward_pairs(cfg, run, ranks)
    prompts = [row["prompt"] for part in parts for row in part.rows]
    choosing = cfg.evaluation.validation_sets if is_chosen_by_judges(cfg) else []
    sets = dict.fromkeys(name for name in [*(cfg.evaluation.sets or []), *choosing] if name != "data")
    prompts += [row["prompt"] for name in sets for row in prompt_set(name, cfg.evaluation.folder).rows]
    if cfg.data.name == "world":
        prompts += _of_world(cfg)
    induced = read_rows(run.induced) if cfg.annotator.contrast.labelled and run.induced.exists() else []
    prompts += [row[column] for row in induced for column in ("prompt", "negative_prompt") if row.get(column)]
    return [turn for prompt in prompts for turn in user_turns(prompt)]


def _of_world(cfg: DictConfig) -> list[list[Message]]:
    from alignment.evaluation.answers import evaluation_prompts, validation_prompts  # here: with torch, a second

    count, seed = cfg.evaluation.prompts, cfg.data.seed
    asked = evaluation_prompts(count, seed=seed) + validation_prompts(cfg.evaluation.validation, count, seed=seed)
    return [prompt.messages for prompt in asked]
