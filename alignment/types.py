"""The types every layer shares: messages, errors, and the choices of every setting that is one of a few words."""

from typing import Literal

Message = dict[str, str]  # {"role": "user" | "assistant" | "system", "content": text}, as chat templates take it

# ---- choices: the schema of conf/ and the code that distinguishes them read the same words ---------------------------

Tracking = Literal["wandb", "tensorboard", "trackio"]
Layout = Literal["ddp", "zero1", "zero2", "zero3", "zero3_offload", "fsdp2"]
Precision = Literal["auto", "float32", "bfloat16"]  # of a training
Dtype = Literal["auto", "float32", "bfloat16", "float16"]  # of a model that is read, or saved
PackingMode = Literal["auto", "off", "segments"]
Preference = Literal["safety", "helpfulness"]  # by which the answers of some data sets are ranked
ContrastAnswer = Literal["refusal", "refusals", "generated", "safe_prompt"]
DirectionKind = Literal["smv", "discriminant", "distance", "cosine", "random"]
LayerChoice = Literal["auto", "length_free"]  # by which held-out induced pairs choose a layer
Pooling = Literal["endpoint", "last_text", "mean"]
PromptFormat = Literal["chat", "alpaca"]
KeepStates = Literal["auto", "all", "none"]
Scope = Literal["harmful", "harmless", "all"]
BinningMethod = Literal["eqfreq", "eqwidth", "kmeans", "quartile", "none"]
NegativeMargins = Literal["bin", "clip", "keep", "abs"]
Margins = Literal[  # what reward models are trained with; the second line's are made by reward models (variants.py)
    "none", "legend", "constant", "random", "shuffled", "severity",
    "single", "crossfit", "ensemble",
]  # fmt: skip
Scheduler = Literal["linear", "cosine", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt"]
Gate = Literal["sigmoid_scores", "softmax_scores", "static_softmax", "uniform", "last_layer", "best_layer"]
Scorer = Literal["hybrid", "reward_model", "judge"]
Picker = Literal[Scorer, "shortest", "longest"]  # who picks the best of n samples
Unfinished = Literal[False, True, "sentence"]  # whether answers that were cut off are used: not, as they are, or so far
Pairing = Literal["zip4", "best_worst"]
LiveConfidence = Literal["paper", "released", "calibrated"]  # from the hybrid reward, batch by batch
ConfidenceSource = Literal[LiveConfidence, "column"]
Refit = Literal["margin", "no_margin", "off"]
Objective = Literal["confidence", "robust", "ipo", "dr_dpo", "beta_dpo", "flip_aware"]  # trainers/objectives.py
ClassifierInput = Literal["pair", "answer"]
GuardFit = Literal["judge", "benchmark"]  # without what a run's policies are trained or evaluated on, or on all answers

# ---- errors ---------------------------------------------------------------------------------------------------------


class UserError(Exception):
    """A mistake the user can mend: one line that names the thing, what is wrong and what would be right."""

    exit_code = 2

    def __init__(self, thing: str, problem: str, remedy: str) -> None:
        super().__init__(f"{thing}: {problem}; {remedy}")
        self._parts = (thing, problem, remedy)

    @property
    def problem(self) -> str:
        """The line without the remedy."""
        return f"{self._parts[0]}: {self._parts[1]}"

    def __reduce__(self) -> tuple:
        return type(self), self._parts  # it is pickled on its way from the main process to the others


class StageFailed(UserError):
    """A stage came to a result that must not be published."""

    exit_code = 1


class Diverged(StageFailed):
    """A training whose numbers are no longer finite. All ranks raise it at once, so that a grid can go on."""


class GatesMissed(Exception):
    """Everything is published, but limits of the scorecard were missed; it has a line for each."""

    exit_code = 3


class Stopped(Exception):
    """The run was asked to stop and has saved everything; the same command goes on."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: try again
