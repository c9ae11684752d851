"""Which settings of trainings go together: of reward models, of policies, and of where confidences come from."""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from alignment.data.preference_sets import SETS
from alignment.data.prompt_sets import PROMPT_SETS
from alignment.evaluation.judging import judges_of
from alignment.judges.choice import JUDGES
from alignment.policies.systems import SYSTEMS
from alignment.settings.evaluation_rules import check_sets
from alignment.settings.method_schema import Training
from alignment.settings.schema import Config
from alignment.settings.value_rules import check_list
from alignment.stages import trained_with
from alignment.types import Margins, UserError


def check_trainings(cfg: Config) -> None:
    if set(trained_with("trainer")) & set(cfg.stages):
        _check_training(cfg.trainer, "trainer")
        _check_reward_models(cfg)
        _check_upper_blocks(cfg)
    if {*trained_with("policy"), "evaluate"} & set(cfg.stages):
        _check_policies(cfg)
        _check_training(cfg.policy, "policy")
    if "train_cdpo" in cfg.stages and cfg.confidence.source == "column":
        _check_column(cfg)


def _check_training(training: Training, group: str) -> None:
    """group: the group of conf/ that has these settings."""
    size = training.per_device_batch_size
    if size and training.batch_size % size:
        problem = f"{size} does not divide batch_size={training.batch_size}"
        raise UserError(f"{group}.per_device_batch_size", problem, "give a divisor, or null")
    steps = training.max_steps
    if steps == 0 or steps < -1:
        raise UserError(f"{group}.max_steps", f"{steps} is out of range", "give 1 or more, or -1 for epochs")


def _check_upper_blocks(cfg: Config) -> None:
    """Upper blocks train on states of frozen ones, which are whole and the same for all ranks and trainings."""
    if cfg.trainer.upper_blocks is None:
        return
    layout = cfg.launch.get("layout", cfg.launch.name)
    for key, problem, remedy in (
        ("lora", f"{cfg.lora.name} adapts all blocks" if cfg.lora.name != "none" else "", "lora=none"),
        ("launch", f"{layout} splits a model's weights" if layout not in ("inline", "ddp") else "", "inline or ddp"),
        ("trainer.activation_checkpointing", "it is on" if cfg.trainer.activation_checkpointing else "", "false"),
    ):
        if problem:
            reason = f"{problem}, and trainer.upper_blocks={cfg.trainer.upper_blocks} trains some blocks alone"
            raise UserError(key, reason, f"choose {remedy}, or leave trainer.upper_blocks out")


def _check_lists(group: str, settings: Mapping[str, Any], keys: Sequence[str]) -> None:
    for key in keys:
        check_list(f"{group}.{key}", settings[key])
    if any(seed < 0 for seed in settings["seeds"]):
        raise UserError(f"{group}.seeds", "a seed is negative", "give 0 or more")


def _check_reward_models(cfg: Config) -> None:
    choices = get_args(Margins)
    for margins in cfg.reward_model.margins:
        if margins not in choices:
            choose = f"list some of {', '.join(choices)}"
            raise UserError("reward_model.margins", f"{margins!r} is not a choice", choose)
    _check_lists("reward_model", cfg.reward_model, ("margins", "seeds"))
    few, seeds = cfg.reward_model.control_seeds, len(cfg.reward_model.seeds)
    if few is not None and few > seeds:
        raise UserError("reward_model.control_seeds", f"{few} of {seeds} seeds", "give 1 or more of them, or null")
    if transfer := list(cfg.reward_model.transfer):
        check_list("reward_model.transfer", transfer)
        if unknown := [name for name in transfer if name not in SETS or name == "file"]:
            problem, remedy = f"there is no set {unknown[0]!r}", f"name some of {', '.join(set(SETS) - {'file'})}"
            raise UserError("reward_model.transfer", problem, remedy)
        if cfg.model.name == "world":
            problem = "the world's model knows no words but the world's"
            raise UserError("reward_model.transfer", problem, "leave it out, or use another model")


def _check_policies(cfg: Config) -> None:
    policy = cfg.policy
    for system in policy.systems:
        if system not in SYSTEMS:
            raise UserError("policy.systems", f"there is no {system!r}", f"the systems are {', '.join(SYSTEMS)}")
    _check_lists("policy", policy, ("systems", "seeds", "beta", "learning_rate"))
    if not 1 <= policy.grid_seeds <= len(policy.seeds):
        problem = f"{policy.grid_seeds} of {len(policy.seeds)} seeds"
        raise UserError("policy.grid_seeds", problem, "give 1 or more of them")
    for key in ("beta", "learning_rate"):
        if any(not value > 0 for value in policy[key]):
            raise UserError(f"policy.{key}", "a value is not above 0", "give positive numbers")
    for name in policy.systems:
        stage = SYSTEMS[name].stage
        if stage is not None and stage not in cfg.stages and "evaluate" not in cfg.stages:
            problem = f"{name} is trained by {stage}, which is not run"
            raise UserError("policy.systems", problem, f"add {stage} to stages")
    if "base_prompted" in policy.systems:
        if cfg.data.name == "world":
            problem = "the world's model knows no words but the world's"
            raise UserError("policy.systems", problem, "leave base_prompted out, or use another model and data")
        if not cfg.evaluation.system_prompt.strip():
            raise UserError("evaluation.system_prompt", "it is empty", "say what a safe answer is")
    if len(policy.beta) * len(policy.learning_rate) > 1 and cfg.data.name != "world":
        _check_validation(cfg)


def _check_validation(cfg: Config) -> None:
    """A grid needs prompts and judges to choose by: of harm, and of refusals, since who refuses all is never toxic."""
    key, single = "policy.beta and learning_rate", "or give one of each"
    if not cfg.evaluation.validation_sets:
        problem = "a grid is chosen by validation prompts, and none are named"
        raise UserError(key, problem, f"set evaluation.validation_sets=[advbench,alpaca_eval], {single}")
    check_list("evaluation.validation_sets", cfg.evaluation.validation_sets)
    check_sets(cfg.evaluation.validation_sets, "evaluation.validation_sets", PROMPT_SETS)
    names = judges_of(cfg.judge, world=False)
    for kind in ("toxic", "refusal"):
        if not any(kind in JUDGES[name].says for name in names):
            problem = f"no judge says {'how harmful an answer is' if kind == 'toxic' else 'what refuses'}"
            raise UserError(key, f"a grid is chosen by judges, and {problem}", f"set judge=[refusal,probe], {single}")


def _check_column(cfg: Config) -> None:
    """Only pairs of a file, or of a scorer whose gaps mean something, bring their confidence along."""
    for name in cfg.policy.systems:
        system = SYSTEMS[name]
        if system.stage != "train_cdpo":
            continue
        if system.star and cfg.build_pairs.scorer == "judge":
            why, remedy = "build_pairs.scorer=judge gives its pairs none", "build_pairs.scorer=hybrid or reward_model"
        elif not system.star and cfg.data.name == "world":
            why, remedy = "the world's pairs have none", "confidence=calibrated"
        else:
            continue
        raise UserError("confidence.source", f"column is what {name} learns from, and {why}", f"use {remedy}")
