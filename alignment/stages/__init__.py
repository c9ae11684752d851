"""The stages, in pipeline order, and all that is known of each before it runs. Each lives in the module of its name.

A stage module has one public function, run(job): it reads files of the run, computes, writes files into `job.out`
(inputs/job.py), and returns how many rows it read, wrote and quarantined. The runner publishes, skips and times stages
(runner.py).
"""

from collections.abc import Callable
from pathlib import Path

from omegaconf import DictConfig

from alignment.inputs.stage_kinds import Infers, Stage, Trains
from alignment.inputs.validated import is_chosen_by_judges
from alignment.judges.choice import chosen, judges_by
from alignment.policies.systems import SYSTEMS, evaluated, trained_by
from alignment.runs.run_files import RunDir


def trained_with(settings: str) -> tuple[str, ...]:
    """The stages that train under this group of settings."""
    return tuple(name for name, stage in STAGES.items() if stage.trains and stage.trains.settings == settings)


def takes_states(cfg: DictConfig) -> list[str]:
    """The stages of the run that take states from read_states."""
    return [name for name in cfg.stages if STAGES[name].model and "read_states" in STAGES[name].reads_with(cfg)]


def too_few_take_states(cfg: DictConfig) -> str | None:
    """Why states.keep=auto keeps none, whatever their size: to read those of all pairs would take longer."""
    takers = takes_states(cfg)
    if takers == ["fit_reward"]:
        return "fit_reward alone would take them, and needs no more than its first pairs"
    return None if takers else "no stage of this run would take them"


def with_states(cfg: DictConfig, fit: bool) -> set[str]:
    """read_states, if the run has it or has published it, and its states fit: of whole texts, in the chat template."""
    there = "read_states" in cfg.stages or RunDir(Path(cfg.run.dir)).states_record.exists()
    return {"read_states"} if fit and there else set()


def _scored_with(*scorers: str) -> set[str]:
    """The stages whose files these scorers are; the judge has none."""
    made_by = {"hybrid": "fit_reward", "reward_model": "train_rm"}
    return {made_by[scorer] for scorer in scorers if scorer in made_by}


def _learned_from(stage: str) -> Callable[[DictConfig], set[str]]:
    """The stages that a training reads: the one of ranked samples, if one of its systems learns from them (a star), and
    the one of the reward, if that gives the confidences."""

    def only(cfg: DictConfig) -> set[str]:
        systems = [SYSTEMS[name] for name in trained_by(stage, cfg.policy.systems)]
        samples = {"build_pairs"} if any(system.star for system in systems) else set()
        live = any(system.confidence == "live" for system in systems) and cfg.confidence.source != "column"
        return samples | ({"fit_reward"} if live else set()) | (_judged_by(cfg) if is_chosen_by_judges(cfg) else set())

    return only


def own_guards(cfg: DictConfig) -> list[str]:
    """The judges that this run's own stage fit_guard makes."""
    return judges_by(cfg.judge, chosen(cfg.judge), RunDir(Path(cfg.run.dir)).stage("fit_guard").resolve())


def _judged_by(cfg: DictConfig) -> set[str]:
    """The stage of the guard, where that judges."""
    return {"fit_guard"} if own_guards(cfg) else set()


def _evaluated(cfg: DictConfig) -> set[str]:
    """The stages that trained what is evaluated, or whose reward picks the answers of `rs_star`."""
    systems = evaluated(cfg)
    trained = {SYSTEMS[name].stage for name in systems if name in SYSTEMS} - {None}
    return trained | ({"fit_reward"} if "rs_star" in systems else set()) | _judged_by(cfg)


# How the model is read. How long its answers may be is for those that sample: sampling.max_new_tokens.
MODEL = tuple(f"model.{key}" for key in ("name", "path", "gguf_file", "dtype", "chat_template", "thinking"))
EVALUATED = ("evaluation.prompts", "evaluation.validation")  # what is evaluated, or chosen by, is not trained on
REWARD = tuple(f"reward.{key}" for key in ("gate", "pooling", "margin", "max_length", "batch_tokens"))
CONTRAST = ("data.name", "data.seed", "annotator.contrast", "annotator.prompt")
ANSWERS = tuple(
    f"guard.{key}" for key in ("answers", "harmless", "transfer", "fit", "count", "max_length", "batch_tokens")
)
ASKED = tuple(f"evaluation.{key}" for key in ("prompts", "sets", "folder"))
CARD = ("before", "after", "reward_model", "rankings", "mmlu", "lm_eval", "usefulness", "pairwise")
SCORECARD = tuple(f"scorecard.{key}" for key in CARD)
POLICY_CONFIG = (*MODEL, "data", "policy", "lora", "packing")
VALIDATED = (*EVALUATED, "sampling")  # the world's policies answer its prompts, which choose the point of a grid
JUDGED = (
    *VALIDATED,
    "evaluation.validation_sets",
    "evaluation.sets",
    "evaluation.folder",
    "judge",
)  # elsewhere, judges

STAGES: dict[str, Stage] = {
    "inspect": Stage(
        "what is in the preference pairs",
        config=(*MODEL, "data"),
        inputs=("data",),  # of the model it takes the tokenizer alone
    ),
    "read_states": Stage(
        "the states of all answers, read once",
        config=(*MODEL, "data", "states", "packing", "reward.pooling", "reward.max_length", "reward.batch_tokens"),
        inputs=("model", "data"),
        model=Infers("read_states", "reward.batch_tokens"),
    ),
    "induce": Stage(
        "answers to contrastive questions, as the direction needs them",
        config=(*MODEL, *CONTRAST, "annotator.batch_tokens", "evaluation.sets"),
        inputs=("model", "questions", "evaluation prompts"),
        model=Infers("induce", "annotator.batch_tokens", samples=True),
    ),
    "annotate": Stage(
        "direction, margins of all pairs, and how good they are",
        config=("seed", *MODEL, "data", "annotator", "packing"),
        reads=("read_states", "induce"),
        inputs=("model", "data"),
        model=Infers("annotate", "annotator.batch_tokens"),
        only=lambda cfg: (
            {"induce"}
            | with_states(cfg, cfg.annotator.pooling == cfg.reward.pooling and cfg.annotator.prompt == "chat")
        ),
    ),
    "train_rm": Stage(
        "reward models with and without margins",
        config=("seed", *MODEL, "data", "reward_model", "trainer", "lora", "packing"),
        reads=("annotate",),
        inputs=("model", "data", "transfer"),
        model=Trains("trainer"),
    ),
    "cross_validate": Stage(
        "the reward on all pairs by folds, beside simpler scorers",
        config=("seed", *MODEL, "data", *REWARD, "reward.folds", "packing"),
        reads=("read_states",),
        inputs=("model", "data"),
        model=Infers("fit_reward", "reward.batch_tokens"),
        only=lambda cfg: with_states(cfg, True),
    ),
    "fit_reward": Stage(
        "a reward on the policy's own activations",
        config=("seed", *MODEL, "data", *REWARD, "reward.path", "reward.pairs", "packing"),
        reads=("read_states",),
        inputs=("model", "data", "reward pairs"),
        model=Infers("fit_reward", "reward.batch_tokens"),
        only=lambda cfg: with_states(cfg, True),
    ),
    "read_answers": Stage(
        "the states of labelled answers, read once",
        config=("seed", *MODEL, "data", *ANSWERS, "evaluation.sets", "judge.folder", "packing"),
        world=EVALUATED,  # what its policies are asked, and chosen by, is left out
        reads=("induce",),
        inputs=("model", "data", "asked", "labelled answers"),
        model=Infers("read_answers", "guard.batch_tokens"),
        only=lambda cfg: {"induce"} if cfg.annotator.contrast.labelled and "induce" in cfg.stages else set(),
    ),
    "fit_guard": Stage(
        "a guard on the model's activations, and one on words alone",
        config=("seed", "guard.layers", "guard.topic", "guard.threshold", "guard.false_alarms", "guard.folds"),
        reads=("read_answers",),
        alone=True,
    ),
    "build_pairs": Stage(
        "samples of the policy, ranked and paired",
        config=("seed", *MODEL, "data", "sampling", "build_pairs", "packing"),
        world=EVALUATED,
        reads=("train_rm", "fit_reward"),
        inputs=("model", "data"),
        model=Infers("build_pairs", "sampling.batch_tokens", samples=True),
        only=lambda cfg: _scored_with(cfg.build_pairs.scorer),
    ),
    "train_sft": Stage(
        "policies fine-tuned on the chosen answers",
        config=POLICY_CONFIG,
        world=VALIDATED,
        judged=JUDGED,
        reads=("fit_guard",),
        inputs=("model", "data", "validation"),
        model=Trains("policy", chosen_only=True),
        only=_learned_from("train_sft"),
    ),
    "train_dpo": Stage(
        "policies by DPO, and by DPO with a fixed confidence",
        config=POLICY_CONFIG,
        world=VALIDATED,
        judged=JUDGED,
        reads=("fit_guard", "build_pairs"),
        inputs=("model", "data", "validation"),
        model=Trains("policy", reference=True),
        only=_learned_from("train_dpo"),
    ),
    "train_cdpo": Stage(
        "policies by confidence DPO",
        config=(*POLICY_CONFIG, "confidence"),
        world=VALIDATED,
        judged=JUDGED,
        reads=("fit_reward", "fit_guard", "build_pairs"),
        inputs=("model", "data", "validation"),
        model=Trains("policy", reference=True, live_reward=True),
        only=_learned_from("train_cdpo"),
    ),
    "evaluate": Stage(
        "answers of every policy, and how safe and useful they are",
        config=(
            "seed",
            *MODEL,
            "data",
            "policy.systems",
            "evaluation.system_prompt",
            "policy.seeds",
            *ASKED,
            "sampling",
            "packing",
            "judge",
            *SCORECARD,
        ),
        reads=("fit_reward", "fit_guard", "train_sft", "train_dpo", "train_cdpo"),
        inputs=("model", "data", "after", "scorer", "asked", "judges", "labels"),
        model=Infers("evaluate", "sampling.batch_tokens", samples=True),
        only=_evaluated,
    ),
    "best_of_n": Stage(
        "how safe and useful the best of n samples is",
        config=(
            "seed",
            *MODEL,
            "data",
            "sampling",
            "packing",
            "best_of_n",
            *ASKED,
            "judge",
            "build_pairs.reward_model",
            "build_pairs.unfinished",
        ),
        reads=("train_rm", "fit_reward", "fit_guard"),
        inputs=("model", "data", "asked", "judges", "labels"),
        model=Infers("best_of_n", "sampling.batch_tokens", samples=True),
        only=lambda cfg: _scored_with(*cfg.best_of_n.scorers) | _judged_by(cfg),
    ),
    "judge": Stage(
        "a verdict on every answer of a file",
        config=("seed", "judge", "packing"),
        reads=("fit_guard",),
        inputs=("judges", "answers", "labels"),
        only=_judged_by,
    ),
}
STAGES["compare_runs"] = Stage(
    "several finished runs beside each other", config=("compare.runs",), inputs=("compared runs",), alone=True
)
STAGES["report"] = Stage("tables and figures", config=("recipe", "scorecard.gate"), reads=tuple(STAGES), alone=True)
