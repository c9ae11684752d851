"""Which values are allowed, and which settings go together.

A key that has no effect under the other settings is refused, so that nobody believes in an option that does nothing.
Nothing here imports torch: a mistake is answered in a second.
"""

from importlib.util import find_spec
from math import isfinite
from typing import get_args

from omegaconf import OmegaConf

from alignment.evaluation.gates import limits
from alignment.policies.systems import SYSTEMS
from alignment.settings import evaluation_rules
from alignment.settings.judge_rules import GUARD_JUDGES, check_judges
from alignment.settings.launch_rules import check_launch
from alignment.settings.schema import Config
from alignment.stages import STAGES, trained_with
from alignment.types import Margins, UserError
from alignment.world.preferences import NOISE

CHOICES = {
    "run.tracking": ("none", "wandb", "tensorboard", "trackio"),
    "launch.layout": ("ddp", "zero1", "zero2", "zero3", "zero3_offload", "fsdp2"),
    "model.dtype": ("auto", "float32", "bfloat16", "float16"),
    "annotator.contrast.positive": ("refusal", "generated"),
    "annotator.contrast.negative": ("refusal", "generated"),
    "annotator.direction": ("smv", "distance", "cosine", "random"),
    "annotator.pooling": ("endpoint", "last_text", "mean"),
    "annotator.prompt": ("chat", "alpaca"),
    "annotator.scope": ("harmful", "harmless", "all"),
    "data.noise_kind": tuple(NOISE),
    "annotator.binning.method": ("eqfreq", "eqwidth", "kmeans", "quartile", "none"),
    "annotator.binning.negative": ("bin", "clip", "keep", "abs"),
    "trainer.lr_scheduler_type": ("linear", "cosine", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt"),
    "trainer.precision": ("auto", "float32", "bfloat16"),
    "policy.lr_scheduler_type": ("linear", "cosine", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt"),
    "policy.precision": ("auto", "float32", "bfloat16"),
    "reward.gate": (
        "sigmoid_scores",
        "softmax_scores",
        "static_softmax",
        "uniform",
        "last_layer",
        "best_layer",
    ),
    "reward.pooling": ("endpoint", "last_text", "mean"),
    "build_pairs.scorer": ("hybrid", "reward_model", "judge"),
    "build_pairs.reward_model": get_args(Margins),
    "build_pairs.pairing": ("zip4", "best_worst"),
    "confidence.source": ("paper", "released", "calibrated", "column"),
    "confidence.refit": ("margin", "no_margin", "off"),
    "judge.classifier.reads": ("pair", "answer"),
    **{f"judge.{name}.dtype": ("auto", "float32", "bfloat16", "float16") for name in (*GUARD_JUDGES, "classifier")},
}

RANGES = {  # both ends allowed; None: no end
    "launch.processes": (1, None),
    "run.workers": (1, None),
    "launch.timeout_seconds": (5, None),
    "launch.nodes": (1, None),
    "launch.gpus": (0, None),
    "launch.cpus": (1, None),
    "launch.gpu_memory_gb": (1, None),
    "launch.grace_seconds": (1, None),
    "launch.restarts": (0, None),
    "data.pairs": (10, None),
    "data.evaluation": (10, None),
    "data.length": (0, 1),
    "data.double_edged": (0, 1),
    "data.rows": (10, None),
    "annotator.contrast.count": (10, None),
    "annotator.contrast.max_new_tokens": (1, None),
    "annotator.binning.bins": (2, 100),
    "annotator.max_length": (8, None),
    "annotator.batch_tokens": (1, None),
    "trainer.batch_size": (1, None),
    "trainer.per_device_batch_size": (1, None),
    "trainer.learning_rate": (0, 1),
    "trainer.num_train_epochs": (0.001, None),
    "trainer.logging_steps": (1, None),
    "trainer.weight_decay": (0, None),
    "trainer.max_grad_norm": (0, None),
    "trainer.max_length": (8, None),
    "trainer.warmup_steps": (0, None),
    "trainer.save_steps": (1, None),
    "lora.r": (1, None),
    "lora.alpha": (1, None),
    "lora.dropout": (0, 1),
    "reward.margin": (0, 10),
    "reward.pairs": (20, None),
    "reward.max_length": (8, None),
    "reward.batch_tokens": (1, None),
    "sampling.n": (1, 1000),
    "sampling.temperature": (0.01, 100),
    "sampling.top_k": (0, None),
    "sampling.top_p": (0.001, 1),
    "sampling.repetition_penalty": (0.1, 10),
    "sampling.max_new_tokens": (1, None),
    "sampling.batch_tokens": (1, None),
    "build_pairs.prompts": (1, None),
    "scorecard.mmlu.questions": (0, None),
    "scorecard.mmlu.shots": (0, 5),
    **{f"scorecard.gate.max_{name}": (0, 1) for name in ("toxic_rate", "over_refusal", "unparsed")},
    **{f"scorecard.gate.min_{name}": (0, 1) for name in ("helpful_rate", "mmlu", "ranked_right")},
    **{f"scorecard.gate.max_{name}_increase": (-1, 1) for name in ("toxic", "over_refusal")},
    "scorecard.gate.min_mmlu_change": (-1, 1),
    "confidence.alpha": (0.001, None),
    "confidence.refit_margin": (0, None),
    "confidence.refit_learning_rate": (1e-9, None),
    "confidence.refit_weight_decay": (0, None),
    "packing.max_tokens": (1, None),
    "evaluation.prompts": (2, None),
    "evaluation.validation": (2, None),
    "judge.calibration_rows": (10, None),
    "judge.position_pairs": (0, None),
    "judge.minimum_agreement": (0, 1),
    **{f"judge.{name}.batch_tokens": (1, None) for name in (*GUARD_JUDGES, "classifier")},
    **{f"judge.{name}.threshold": (0, 1) for name in (*GUARD_JUDGES, "classifier")},
    "judge.api.max_tokens": (1, None),
    "judge.api.price_in": (0, None),
    "judge.api.price_out": (0, None),
    "judge.api.budget": (0, None),
    "judge.api.requests_per_minute": (0.001, None),
    "judge.api.concurrency": (1, 1000),
    "judge.api.timeout_seconds": (0.1, None),
    "judge.api.tries": (1, 100),
    "policy.batch_size": (1, None),
    "policy.per_device_batch_size": (1, None),
    "policy.num_train_epochs": (0.001, None),
    "policy.logging_steps": (1, None),
    "policy.save_steps": (1, None),
    "policy.weight_decay": (0, None),
    "policy.max_grad_norm": (0, None),
    "policy.max_length": (8, None),
    "policy.warmup_steps": (0, None),
}


def check(cfg: Config) -> None:
    """Refuses values out of range and settings that don't go together; the first mistake found is raised."""
    _check_values(cfg)
    _check_tracking(cfg)
    _check_quantized(cfg)
    _check_stages(cfg)
    _check_thinking(cfg)
    check_launch(cfg)
    if {"induce", "annotate"} & set(cfg.stages):
        _check_annotator(cfg)
    if set(trained_with("trainer")) & set(cfg.stages):
        _check_trainer(cfg)
    if {*trained_with("policy"), "evaluate"} & set(cfg.stages):
        _check_policy(cfg)
    if "train_cdpo" in cfg.stages and cfg.confidence.source == "column":
        _check_column(cfg)
    _check_samples(cfg)
    check_judges(cfg)
    if "evaluate" in cfg.stages:
        evaluation_rules.check_scorecard(cfg)
    elif limits(cfg.scorecard.gate) and list(cfg.stages) != ["report"]:
        raise UserError("scorecard.gate", "nothing is evaluated here", "leave it out, or run a recipe with evaluate")


def _check_values(cfg: Config) -> None:
    if not cfg.run.dir.strip():
        raise UserError("run.dir", "it is empty", "name a folder")
    for key, choices in CHOICES.items():
        value = OmegaConf.select(cfg, key)
        if value is not None and value not in choices:
            raise UserError(key, f"{value!r} is not a choice", f"choose one of {', '.join(choices)}")
    ranges = {**RANGES, "data.heldout": (0.01, 0.5)}
    if cfg.data.name == "world":
        ranges |= {"data.heldout": (10, None), "data.noise": (0, NOISE[cfg.data.noise_kind].most)}
    for key, (low, high) in ranges.items():
        value = OmegaConf.select(cfg, key)
        if value is not None and not ((low is None or value >= low) and (high is None or value <= high)):
            wanted = f"at least {low}" if high is None else f"between {low:g} and {high:.4g}"
            raise UserError(key, f"{value} is out of range", f"give a number {wanted}")


def _check_tracking(cfg: Config) -> None:
    if cfg.run.tracking != "none" and find_spec(cfg.run.tracking) is None:
        name = cfg.run.tracking
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
    if cfg.model.get("thinking") and policies:
        raise UserError(
            "model.thinking", f"{policies[0]} learns from answers without thoughts, and would unlearn them",
            "leave it off here; sampling and evaluation alone may think",
        )  # fmt: skip


def _check_annotator(cfg: Config) -> None:
    annotator, contrast, binning = cfg.annotator, cfg.annotator.contrast, cfg.annotator.binning
    if annotator.layer not in ("auto", "last") and not (type(annotator.layer) is int and annotator.layer >= 1):
        raise UserError("annotator.layer", f"{annotator.layer!r} is not a layer", "give auto, last, or a number from 1")
    if annotator.direction == "random" and annotator.layer == "auto":
        _no_effect(
            "annotator.layer", "auto picks the layer by the induced pairs, which a random direction ignores", "a layer"
        )
    if annotator.direction in ("distance", "cosine"):
        if annotator.layer == "auto":
            _no_effect(
                "annotator.layer",
                f"auto picks the layer for an SMV, and direction={annotator.direction} has none",
                "a layer",
            )
        if binning.negative != "bin":
            _no_effect(
                "annotator.binning.negative", f"margins of direction={annotator.direction} are never negative", "bin"
            )
    if not (isfinite(binning.low) and isfinite(binning.high)):
        raise UserError("annotator.binning", "low or high is not finite", "give numbers")
    if not binning.low < binning.high:
        raise UserError(
            "annotator.binning.high", f"{binning.high:g} is not above low={binning.low:g}", "give a larger high"
        )
    if binning.negative == "keep" and binning.low < 0:
        raise UserError(
            "annotator.binning.low", f"{binning.low:g} turns signs round under negative=keep", "give 0 or more"
        )
    if annotator.prompt == "chat" and (annotator.joiner_induced or annotator.joiner_pairs):
        _no_effect(
            "annotator.joiner_induced and joiner_pairs",
            "the chat template joins prompt and answer",
            "annotator.prompt=alpaca",
        )
    if not contrast.refusal.strip():
        raise UserError("annotator.contrast.refusal", "it is empty", "give the text of a refusal")
    if contrast.file is None and contrast.positive == contrast.negative:
        raise UserError(
            "annotator.contrast", "positive and negative are the same", "make one refusal, the other generated"
        )


def _check_trainer(cfg: Config) -> None:
    trainer = cfg.trainer
    if trainer.per_device_batch_size and trainer.batch_size % trainer.per_device_batch_size:
        raise UserError(
            "trainer.per_device_batch_size",
            f"{trainer.per_device_batch_size} does not divide batch_size={trainer.batch_size}",
            "give a divisor, or null",
        )
    if trainer.max_steps == 0 or trainer.max_steps < -1:
        raise UserError("trainer.max_steps", f"{trainer.max_steps} is out of range", "give 1 or more, or -1 for epochs")
    if trainer.save_steps % trainer.logging_steps:
        raise UserError(
            "trainer.save_steps",
            f"{trainer.save_steps} is no multiple of logging_steps={trainer.logging_steps}, so a resumed run would log "
            "other means",
            "give a multiple",
        )
    if any(seed < 0 for seed in cfg.reward_model.seeds):
        raise UserError("reward_model.seeds", "a seed is negative", "give 0 or more")
    for margins in cfg.reward_model.margins:
        if margins not in get_args(Margins):
            choices = ", ".join(get_args(Margins))
            raise UserError("reward_model.margins", f"{margins!r} is not a choice", f"list some of {choices}")
    for key in ("margins", "seeds"):
        values = cfg.reward_model[key]
        if not values or len(set(values)) < len(values):
            raise UserError(f"reward_model.{key}", "the list is empty or names something twice", "name each once")


def _check_policy(cfg: Config) -> None:
    policy = cfg.policy
    for system in policy.systems:
        if system not in SYSTEMS:
            raise UserError("policy.systems", f"there is no {system!r}", f"the systems are {', '.join(SYSTEMS)}")
    for key in ("systems", "seeds", "beta", "learning_rate"):
        if not policy[key] or len(set(policy[key])) < len(policy[key]):
            raise UserError(f"policy.{key}", "the list is empty or names something twice", "name each once")
    if any(seed < 0 for seed in policy.seeds):
        raise UserError("policy.seeds", "a seed is negative", "give 0 or more")
    if not 1 <= policy.grid_seeds <= len(policy.seeds):
        raise UserError(
            "policy.grid_seeds", f"{policy.grid_seeds} of {len(policy.seeds)} seeds", "give 1 or more of them"
        )
    for key in ("beta", "learning_rate"):
        if any(not value > 0 for value in policy[key]):
            raise UserError(f"policy.{key}", "a value is not above 0", "give positive numbers")
    if policy.per_device_batch_size and policy.batch_size % policy.per_device_batch_size:
        raise UserError(
            "policy.per_device_batch_size",
            f"{policy.per_device_batch_size} does not divide batch_size={policy.batch_size}",
            "give a divisor, or null",
        )
    if policy.max_steps == 0 or policy.max_steps < -1:
        raise UserError("policy.max_steps", f"{policy.max_steps} is out of range", "give 1 or more, or -1 for epochs")
    if policy.save_steps % policy.logging_steps:
        raise UserError(
            "policy.save_steps", f"{policy.save_steps} is no multiple of logging_steps={policy.logging_steps}",
            "give a multiple",
        )  # fmt: skip
    trained = [name for name in policy.systems if SYSTEMS[name].stage]
    for name in trained:
        stage = SYSTEMS[name].stage
        if stage not in cfg.stages and "evaluate" not in cfg.stages:
            raise UserError(
                "policy.systems", f"{name} is trained by {stage}, which is not run", f"add {stage} to stages"
            )
    if len(policy.beta) * len(policy.learning_rate) > 1 and cfg.data.name != "world":
        raise UserError(
            "policy.beta and learning_rate", "a grid needs a judge of answers, and only the world has one yet",
            "give one of each",
        )  # fmt: skip


def _check_column(cfg: Config) -> None:
    """Pairs bring their confidence along only if they come from a file, or from a scorer whose gaps mean something."""
    for name in cfg.policy.systems:
        system = SYSTEMS[name]
        if system.stage != "train_cdpo":
            continue
        if system.star and cfg.build_pairs.scorer == "judge":
            why, other = "build_pairs.scorer=judge gives its pairs none", "build_pairs.scorer=hybrid or reward_model"
        elif not system.star and cfg.data.name == "world":
            why, other = "the world's pairs have none", "confidence=calibrated"
        else:
            continue
        raise UserError("confidence.source", f"column is what {name} learns from, and {why}", f"use {other}")


def _check_samples(cfg: Config) -> None:
    best, known = cfg.best_of_n, CHOICES["build_pairs.scorer"]
    for key in ("counts", "scorers"):
        if not best[key] or len(set(best[key])) < len(best[key]):
            raise UserError(f"best_of_n.{key}", "the list is empty or names something twice", "name each once")
    if min(best.counts) < 1:
        raise UserError("best_of_n.counts", f"{min(best.counts)} is out of range", "give numbers of at least 1")
    for scorer in best.scorers:
        if scorer not in known:
            raise UserError("best_of_n.scorers", f"{scorer!r} is not a choice", f"choose from {', '.join(known)}")
    if cfg.data.name != "world":
        if "best_of_n" in cfg.stages:
            raise UserError("stages", "best_of_n needs a judge, and only the world has one yet", "use data=world")
        if cfg.build_pairs.scorer == "judge" and "build_pairs" in cfg.stages:
            raise UserError("build_pairs.scorer", "only the world has a judge yet", "use hybrid or reward_model")
    ranked = "build_pairs" in cfg.stages and cfg.build_pairs.scorer == "reward_model"
    ranked |= "best_of_n" in cfg.stages and "reward_model" in best.scorers
    if ranked and cfg.build_pairs.reward_model not in cfg.reward_model.margins:
        raise UserError(
            "build_pairs.reward_model", f"{cfg.build_pairs.reward_model} is not among reward_model.margins",
            f"choose one of {', '.join(cfg.reward_model.margins)}",
        )  # fmt: skip
    if "build_pairs" in cfg.stages and cfg.sampling.n < 2:
        raise UserError("sampling.n", f"{cfg.sampling.n} sample makes no pair", "give 2 or more")


# Settings that others make meaningless: (when, the keys, why). Only what a command line sets is refused.
IDLE = (
    *evaluation_rules.IDLE,
    (
        lambda cfg: not {"induce", "build_pairs", "evaluate", "best_of_n"} & set(cfg.stages),
        ["model.thinking"],
        "nothing is sampled here",
    ),
    (
        lambda cfg: cfg.annotator.contrast.file is not None,
        [f"annotator.contrast.{key}" for key in ("questions", "count", "positive", "negative", "refusal")],
        "the contrastive set comes from annotator.contrast.file",
    ),
    (
        lambda cfg: cfg.annotator.binning.method in ("quartile", "none"),
        ["annotator.binning.bins"],
        "method=quartile has six bins of its own, and method=none has none",
    ),
    (
        lambda cfg: cfg.policy.max_steps > 0,
        ["policy.num_train_epochs"],
        "policy.max_steps says when training ends",
    ),
    (
        lambda cfg: cfg.confidence.source == "column",
        [
            f"confidence.{key}"
            for key in ("alpha", "refit", "refit_margin", "refit_learning_rate", "refit_weight_decay")
        ],
        "confidence.source=column uses no reward",
    ),
    (
        lambda cfg: cfg.confidence.source == "calibrated",
        ["confidence.alpha"],
        "the reward brings its calibrated slope",
    ),
    (
        lambda cfg: cfg.confidence.refit == "off",
        [f"confidence.{key}" for key in ("refit_margin", "refit_learning_rate", "refit_weight_decay")],
        "confidence.refit=off",
    ),
    (
        lambda cfg: cfg.confidence.refit == "no_margin",
        ["confidence.refit_margin"],
        "confidence.refit=no_margin",
    ),
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
        ["judge.calibration_rows", "judge.position_pairs", "judge.minimum_agreement", "judge.folder"],
        "judge.calibration names no labelled answers",
    ),
    (
        lambda cfg: "judge" not in cfg.stages,
        ["judge.input", "judge.output"],
        "stage judge is not run",
    ),
    (
        lambda cfg: cfg.trainer.max_steps > 0,
        ["trainer.num_train_epochs"],
        "trainer.max_steps says when training ends",
    ),
)


def check_idle(cfg: Config, overrides: list[str]) -> None:
    """Refuses an override that the other settings leave without effect."""
    given = [override.lstrip("+~").partition("=")[0] for override in overrides]
    for applies, keys, why in IDLE:
        for key in given:
            if key in keys and applies(cfg):
                raise UserError(key, f"it would have no effect: {why}", "leave one of the two out")


def _no_effect(key: str, why: str, right: str) -> None:
    raise UserError(key, f"it would have no effect: {why}", f"use {right}")
