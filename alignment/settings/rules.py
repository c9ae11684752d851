"""Which settings go together; the schema says which values each may have.

A key that has no effect under the other settings is refused, so that nobody believes in an option that does nothing.
This module imports no torch: a mistake is answered in a second.
"""

from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from typing import get_args

from alignment.evaluation.gates import limits
from alignment.settings import evaluation_rules
from alignment.settings.judge_rules import check_guard, check_judges
from alignment.settings.launch_rules import check_launch
from alignment.settings.schema import Config
from alignment.settings.training_rules import check_trainings
from alignment.settings.value_rules import check_list, check_range, check_values
from alignment.stages import STAGES, own_guards, trained_with
from alignment.trainers.unread_confidence import unread
from alignment.types import LayerChoice, Picker, Tracking, Unfinished, UserError
from alignment.world.preferences import NOISE


def check(cfg: Config) -> None:
    """Refuses values out of range and settings that don't go together; the first mistake found is raised."""
    check_values(cfg)
    if not cfg.run.dir.strip():
        raise UserError("run.dir", "it is empty", "name a folder")
    if Path(cfg.run.dir).is_file():
        raise UserError("run.dir", f"{cfg.run.dir} is a file", "name a folder")
    if cfg.data.name == "world":
        check_range("data.noise", cfg.data.noise, 0, NOISE[cfg.data.noise_kind].most)
    _check_tracking(cfg)
    _check_quantized(cfg)
    _check_stages(cfg)
    _check_thinking(cfg)
    check_launch(cfg)
    if {"induce", "annotate"} & set(cfg.stages):
        _check_annotator(cfg)
    check_trainings(cfg)
    _check_reward_pairs(cfg)
    _check_samples(cfg)
    check_judges(cfg)
    _check_own_guards(cfg)
    if {"read_answers", "fit_guard"} & set(cfg.stages):
        check_guard(cfg.guard)
    if "compare_runs" in cfg.stages and not cfg.compare.runs:
        raise UserError("compare.runs", "a value is required", "compare.runs=[runs/a,runs/b], or the folder of a sweep")
    if "evaluate" in cfg.stages:
        evaluation_rules.check_scorecard(cfg)
    elif limits(cfg.scorecard.gate) and list(cfg.stages) != ["report"] and "compare_runs" not in cfg.stages:
        raise UserError("scorecard.gate", "nothing is evaluated here", "leave it out, or run a recipe with evaluate")


def _check_own_guards(cfg: Config) -> None:
    """Refuses a guard of the run's own that no stage makes, and one that may not judge."""
    judging = {"evaluate", "best_of_n", "judge"} & set(cfg.stages)
    if not judging or not (own := own_guards(cfg)):
        return
    if "fit_guard" not in cfg.stages and not Path(cfg.judge[own[0]].path).is_dir():
        remedy = "name the folder of a guard that +recipe=guard fitted, or add read_answers and fit_guard to stages"
        raise UserError(f"judge.{own[0]}.path", "a value is required", remedy)
    if "fit_guard" in cfg.stages and cfg.guard.fit == "benchmark":
        problem = "a guard of all labelled answers is to be compared, and judges no policies"
        raise UserError("guard.fit", problem, "give judge, or another judge")


def _check_tracking(cfg: Config) -> None:
    for name in cfg.run.tracking:
        if name not in (known := get_args(Tracking)):
            raise UserError("run.tracking", f"{name!r} is not a choice", f"list some of {', '.join(known)}, or give []")
        if find_spec(name) is None:
            raise UserError("run.tracking", f"{name} is not installed", f"pip install {name}")


def _check_quantized(cfg: Config) -> None:
    if cfg.lora.name != "quantized":
        return
    if find_spec("bitsandbytes") is None:
        raise UserError("lora", "quantized needs bitsandbytes, which is not installed", "pip install 'repalign[qlora]'")
    split = cfg.launch.get("layout", cfg.launch.name)
    if split in ("zero3", "zero3_offload", "fsdp2"):
        raise UserError("lora", f"weights in 4 bits can't be split by {split}", "choose launch ddp, zero1 or zero2")


def _check_stages(cfg: Config) -> None:
    for stage in cfg.stages:
        if stage not in STAGES:
            raise UserError("stages", f"there is no stage {stage!r}", f"the stages are {', '.join(STAGES)}")
    if not cfg.stages:
        raise UserError("stages", "the list is empty", "name the stages to run")
    in_order = [stage for stage in STAGES if stage in cfg.stages]
    if list(cfg.stages) != in_order:
        raise UserError("stages", "they are out of order, or one is named twice", f"write [{','.join(in_order)}]")


def _check_thinking(cfg: Config) -> None:
    policies = [stage for stage in cfg.stages if stage in trained_with("policy")]
    if cfg.model.thinking and policies:
        problem = f"{policies[0]} learns from answers without thoughts, and would unlearn them"
        raise UserError("model.thinking", problem, "leave it off here; sampling and evaluation alone may think")


def _check_annotator(cfg: Config) -> None:
    annotator, contrast, binning = cfg.annotator, cfg.annotator.contrast, cfg.annotator.binning
    chosen = annotator.layer in get_args(LayerChoice)
    if not chosen and annotator.layer != "last" and not (type(annotator.layer) is int and annotator.layer >= 1):
        choices = f"give {', '.join(get_args(LayerChoice))}, last, or a number from 1"
        raise UserError("annotator.layer", f"{annotator.layer!r} is not a layer", choices)
    if annotator.labels is not None and annotator.direction not in ("smv", "discriminant"):
        why = f"labels choose among directions of induced pairs, and direction={annotator.direction} is none"
        _no_effect("annotator.labels", why, "direction=smv or discriminant")
    if annotator.direction == "random" and chosen:
        why = f"{annotator.layer} picks the layer by the induced pairs, which a random direction ignores"
        _no_effect("annotator.layer", why, "a layer")
    if annotator.direction in ("distance", "cosine"):
        if chosen:
            why = f"{annotator.layer} picks it for a vector, and direction={annotator.direction} has none"
            _no_effect("annotator.layer", why, "a layer")
        if binning.negative != "bin":
            why = f"margins of direction={annotator.direction} are never negative"
            _no_effect("annotator.binning.negative", why, "bin")
    if not (isfinite(binning.low) and isfinite(binning.high)):
        raise UserError("annotator.binning", "low or high is not finite", "give numbers")
    if not binning.low < binning.high:
        problem = f"{binning.high:g} is not above low={binning.low:g}"
        raise UserError("annotator.binning.high", problem, "give a larger high")
    if binning.negative == "keep" and binning.low < 0:
        problem = f"{binning.low:g} turns signs round under negative=keep"
        raise UserError("annotator.binning.low", problem, "give 0 or more")
    if annotator.prompt == "chat" and (annotator.joiner_induced or annotator.joiner_pairs):
        why = "the chat template joins prompt and answer"
        _no_effect("annotator.joiner_induced and joiner_pairs", why, "annotator.prompt=alpaca")
    if not contrast.refusal.strip():
        raise UserError("annotator.contrast.refusal", "it is empty", "give the text of a refusal")
    if contrast.file is not None and contrast.labelled is not None:
        raise UserError("annotator.contrast.labelled", "contrast.file is set, too", "leave one of the two out")
    if contrast.file is None and contrast.labelled is None:
        sides = (contrast.positive, contrast.negative)
        if sides[0] == sides[1]:
            problem = "positive and negative are the same"
            raise UserError("annotator.contrast", problem, "make one refusal, the other generated")
        if set(sides) == {"refusal", "refusals"}:
            raise UserError(
                "annotator.contrast", "both sides are refusals", "make one of them generated or safe_prompt"
            )
        if "safe_prompt" in sides and not contrast.system_prompt.strip():
            raise UserError("annotator.contrast.system_prompt", "it is empty", "say what a safe answer is")


def _check_reward_pairs(cfg: Config) -> None:
    """A reward's own pairs are read as a file of the user's is."""
    if cfg.reward.path is not None and cfg.data.name != "file":
        remedy = "give data=file data.path=..., both files in the same columns, or leave it out"
        raise UserError("reward.path", f"it is a file, and the policy's pairs are data={cfg.data.name}", remedy)


def _check_samples(cfg: Config) -> None:
    best, choices = cfg.best_of_n, get_args(Picker)
    check_list("best_of_n.counts", best.counts)
    check_list("best_of_n.scorers", best.scorers)
    if min(best.counts) < 1:
        raise UserError("best_of_n.counts", f"{min(best.counts)} is out of range", "give numbers of at least 1")
    for scorer in best.scorers:
        if scorer not in choices:
            raise UserError("best_of_n.scorers", f"{scorer!r} is not a choice", f"choose from {', '.join(choices)}")
    if cfg.data.name != "world":
        if "best_of_n" in cfg.stages:
            evaluation_rules.check_best_of_n(cfg)
        if cfg.build_pairs.scorer == "judge" and "build_pairs" in cfg.stages:
            raise UserError("build_pairs.scorer", "only the world has a judge yet", "use hybrid or reward_model")
    if (unfinished := cfg.build_pairs.unfinished) not in get_args(Unfinished):
        raise UserError("build_pairs.unfinished", f"{unfinished!r} is not a choice", "give true, false or sentence")
    if unfinished == "sentence" and "best_of_n" in cfg.stages:
        problem = "best_of_n measures answers as they are"
        raise UserError("build_pairs.unfinished", problem, "give true or false, or leave best_of_n out")
    ranked = "build_pairs" in cfg.stages and cfg.build_pairs.scorer == "reward_model"
    ranked |= "best_of_n" in cfg.stages and "reward_model" in best.scorers
    if ranked and cfg.build_pairs.reward_model not in cfg.reward_model.margins:
        problem = f"{cfg.build_pairs.reward_model} is not among reward_model.margins"
        raise UserError("build_pairs.reward_model", problem, f"choose one of {', '.join(cfg.reward_model.margins)}")
    if "build_pairs" in cfg.stages and cfg.sampling.n < 2:
        raise UserError("sampling.n", f"{cfg.sampling.n} sample makes no pair", "give 2 or more")


def _sides(cfg: Config) -> tuple[str, str]:
    return cfg.annotator.contrast.positive, cfg.annotator.contrast.negative


INDUCED = ("questions", "positive", "negative", "refusal", "refusals", "system_prompt")  # keys of what is induced

# When which keys have no effect, and why. Only keys that the command line sets are refused.
IDLE = (
    *evaluation_rules.IDLE,
    (
        lambda cfg: not any(STAGES[stage].samples for stage in cfg.stages),
        ["model.thinking"],
        "nothing is sampled here",
    ),
    (lambda cfg: cfg.model.name == "world", ["model.path", "model.gguf_file"], "model=world is in the package"),
    (lambda cfg: cfg.model.name == "smollm2", ["model.path", "model.gguf_file"], "model=smollm2 is one pinned file"),
    (
        lambda cfg: cfg.data.get("heldout_path") is not None,
        ["data.heldout"],
        "data.heldout_path says which pairs are held out",
    ),
    (
        lambda cfg: cfg.annotator.contrast.file is not None,
        [f"annotator.contrast.{key}" for key in (*INDUCED, "count")],
        "the contrastive set comes from annotator.contrast.file",
    ),
    (
        lambda cfg: cfg.annotator.contrast.labelled is not None,
        [f"annotator.contrast.{key}" for key in (*INDUCED, "max_new_tokens")],
        "the contrastive set is of labelled answers (annotator.contrast.labelled)",
    ),
    (
        lambda cfg: "refusals" not in _sides(cfg),
        ["annotator.contrast.refusals"],
        "neither side of annotator.contrast is refusals",
    ),
    (
        lambda cfg: "safe_prompt" not in _sides(cfg),
        ["annotator.contrast.system_prompt"],
        "neither side of annotator.contrast is safe_prompt",
    ),
    (
        lambda cfg: cfg.annotator.binning.method in ("quartile", "none"),
        ["annotator.binning.bins"],
        "method=quartile has six bins of its own, and method=none has none",
    ),
    (lambda cfg: cfg.trainer.max_steps > 0, ["trainer.num_train_epochs"], "trainer.max_steps says when training ends"),
    (lambda cfg: cfg.policy.max_steps > 0, ["policy.num_train_epochs"], "policy.max_steps says when training ends"),
    (
        lambda cfg: cfg.build_pairs.scorer != "reward_model" and "best_of_n" not in cfg.stages,
        ["build_pairs.reward_model"],
        "build_pairs.scorer is not reward_model",
    ),
    (
        lambda cfg: "best_of_n" in cfg.stages and not {"build_pairs", "evaluate"} & set(cfg.stages),
        ["sampling.n"],
        "best_of_n.counts says how many are sampled",
    ),
    (
        lambda cfg: cfg.judge.calibration is None,
        ["judge.calibration_rows", "judge.position_pairs", "judge.minimum_agreement"],
        "judge.calibration names no labelled answers",
    ),
    (
        lambda cfg: cfg.judge.calibration is None and "read_answers" not in cfg.stages,
        ["judge.folder"],
        "no labelled answers are read",
    ),
    (lambda cfg: "judge" not in cfg.stages, ["judge.input", "judge.output"], "stage judge is not run"),
    (lambda cfg: "compare_runs" not in cfg.stages, ["compare.runs"], "stage compare_runs is not run"),
)


def key_of(override: str) -> str:
    return override.lstrip("+~").partition("=")[0].partition("@")[0]


def check_idle(cfg: Config, overrides: list[str]) -> None:
    """Refuses an override that the other settings leave without effect."""
    overridden = [key_of(override) for override in overrides]
    idle = {f"confidence.{name}": why for name, why in unread(cfg.confidence.source, cfg.confidence.refit).items()}
    idle |= {key: why for applies, keys, why in IDLE for key in keys if key in overridden and applies(cfg)}
    for key in overridden:
        if key in idle:
            raise UserError(key, f"it would have no effect: {idle[key]}", "leave one of the two out")


def _no_effect(key: str, why: str, remedy: str) -> None:
    raise UserError(key, f"it would have no effect: {why}", f"use {remedy}")
