"""Which settings of an evaluation and its scorecard go together. This module imports no torch."""

from collections.abc import Collection, Sequence
from importlib.util import find_spec

from alignment.data.prompt_sets import PROMPT_SETS, is_own_file, prompt_files, set_name
from alignment.evaluation.gates import require_measured
from alignment.evaluation.judging import asked_judges
from alignment.evaluation.vocabulary import measurable
from alignment.judges.choice import JUDGES, chosen
from alignment.policies.systems import evaluated
from alignment.settings.schema import Config
from alignment.settings.value_rules import check_list
from alignment.types import UserError

SETS = ("data", *PROMPT_SETS)  # what evaluation.sets may name


def check_scorecard(cfg: Config) -> None:
    """Refuses unknown sets, models and judges that don't go together, and gates on what won't be measured."""
    card, sets = cfg.scorecard, cfg.evaluation.sets
    if cfg.recipe == "scorecard":
        for key in ("before", "after"):
            if card[key] is None:
                raise UserError(f"scorecard.{key}", "a value is required", f"set scorecard.{key}=<folder or hub name>")
    elif card.before is not None or card.after is not None:
        raise UserError("scorecard.before and after", "they are read by +recipe=scorecard alone", "leave them out")
    if sets is None:
        raise UserError("evaluation.sets", "a value is required", f"name what is asked: {', '.join(SETS)}")
    check_list("evaluation.sets", sets)
    check_sets(sets)
    if card.rankings and card.reward_model is None:
        raise UserError("scorecard.rankings", "there is no reward model to rank them", "set scorecard.reward_model")
    if (card.lm_eval.include_path is None) != (not card.lm_eval.tasks):
        raise UserError("scorecard.lm_eval", "tasks need include_path, and the other way round", "set both or neither")
    if card.lm_eval.tasks and find_spec("lm_eval") is None:
        raise UserError("scorecard.lm_eval", "lm_eval is not installed", "pip install 'repalign[lm_eval]'")
    judges = {name: JUDGES[name].says for name in asked_judges(cfg)}
    if card.pairwise and "api" not in judges:
        raise UserError("scorecard.pairwise", "no judge behind an API is chosen", "set judge=[refusal,api]")
    if card.pairwise and len(evaluated(cfg)) < 2:
        raise UserError("scorecard.pairwise", "there is one model, and nothing to compare it with", "leave it out")
    require_measured(card.gate, measurable(card, judges), len(evaluated(cfg)) > 1, f"judge: {', '.join(judges)}")


def check_best_of_n(cfg: Config) -> None:
    """Refuses unknown sets, and a judge that is to pick by harm and says nothing of it; not of the world's own."""
    if cfg.evaluation.sets is None:
        raise UserError("evaluation.sets", "a value is required", f"name what is asked: {', '.join(SETS)}")
    check_list("evaluation.sets", cfg.evaluation.sets)
    check_sets(cfg.evaluation.sets)
    judges = asked_judges(cfg)
    if "judge" in cfg.best_of_n.scorers and not any("toxic" in JUDGES[name].says for name in judges):
        problem = f"judge picks by harm, of which {' and '.join(judges)} says nothing"
        remedy = "leave judge out, as [hybrid,reward_model], or add a judge of harm: judge=[refusal,llama_guard_3]"
        raise UserError("best_of_n.scorers", problem, remedy)


def check_sets(sets: Sequence[str], key: str = "evaluation.sets", known: Collection[str] = SETS) -> None:
    """Refuses what is neither a set's name nor a file, and two files that tables would call alike."""
    for name in sets:
        if is_own_file(name):
            prompt_files(name, "")
        elif name not in known:
            remedy = f"the sets are {', '.join(known)}; or give a file of prompts, as prompts.jsonl"
            raise UserError(key, f"there is no set {name!r}", remedy)
    names = [set_name(name) for name in sets]
    if alike := [name for name in names if names.count(name) > 1]:
        raise UserError(key, f"{alike[0]} is there twice", "name each once; files need names of their own")


def _oracle_unasked(cfg: Config) -> bool:
    """Whether the oracle is the only judge that is chosen, and no prompt that is evaluated on means anything to it."""
    return "evaluate" in cfg.stages and chosen(cfg.judge) == ["oracle"] and "oracle" not in asked_judges(cfg)


# A part of rules.IDLE.
IDLE = (
    (
        lambda cfg: cfg.scorecard.after is not None,
        ["policy.systems", "model.path"],
        "scorecard.before and scorecard.after say which models are compared",
    ),
    (
        lambda cfg: cfg.recipe == "scorecard",
        ["sampling.n"],
        "the scorecard samples one answer to a prompt, for each of policy.seeds",
    ),
    (
        lambda cfg: "base_prompted" not in evaluated(cfg),
        ["evaluation.system_prompt"],
        "policy.systems has no base_prompted",
    ),
    (
        lambda cfg: cfg.data.name == "world" or len(cfg.policy.beta) * len(cfg.policy.learning_rate) == 1,
        ["evaluation.validation_sets"],
        "there is no grid for judges to choose of: policy.beta and policy.learning_rate have one value each",
    ),
    (lambda cfg: cfg.scorecard.mmlu.questions == 0, ["scorecard.mmlu.shots"], "scorecard.mmlu.questions=0 asks none"),
    (
        lambda cfg: "best_of_n" in cfg.stages and "evaluate" not in cfg.stages and cfg.data.name == "world",
        ["judge", "evaluation.sets", "evaluation.folder"],
        "the best of the world's samples are asked its own prompts, and judged by its oracle",
    ),
    (
        lambda cfg: cfg.recipe == "judge" and "probe" not in chosen(cfg.judge),
        ["packing", "packing.max_tokens"],
        "of judges, probe alone packs what it reads",
    ),
    (_oracle_unasked, ["judge"], "the oracle knows the world's prompts alone, and none is asked"),
)
