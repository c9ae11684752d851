"""The settings of confidence DPO: DPOConfig's, and ours. Settings that would have no effect are refused."""

from dataclasses import dataclass, field
from typing import Any, get_args

from trl import DPOConfig

from alignment.trainers.own_data import refuse_changed
from alignment.trainers.pair_config import PairConfig
from alignment.trainers.unread_confidence import unread
from alignment.types import ConfidenceSource, Gate, LiveConfidence, Objective, Pooling, Refit, UserError

# Fields of DPOConfig that our loss doesn't know: they must stay at their defaults.
REFUSED = {
    "loss_type": "the loss is confidence DPO's",
    "loss_weights": "there is one loss",
    "ld_alpha": "log-probabilities are summed over the whole answer",
    "f_divergence_type": "the divergence is the reverse KL",
    "f_alpha_divergence_coef": "the divergence is the reverse KL",
    "label_smoothing": "confidence takes its place; confidence='fixed' and fixed_confidence=1-smoothing is the same",
    "use_weighting": "pairs are weighted by their confidence alone",
    "discopop_tau": "the loss is confidence DPO's",
    "router_aux_loss_coef": "the loss has no term for routers; without_router_loss trains a mixture of experts without",
    "padding_free": "TRL ignores it; `packing` does more",
    "truncation_mode": "a pair that is too long is cut at its end",
    "sync_ref_model": "confidence says how far to go from a fixed reference",
    "ref_model_mixup_alpha": "the reference stays as it is",
    "ref_model_sync_steps": "the reference stays as it is",
    "pad_token": "TRL no longer reads it; set the tokenizer's",
    "use_liger_kernel": "it replaces the forward that scores the answers",
}


@dataclass
class ConfidenceDPOConfig(PairConfig, DPOConfig):
    """DPOConfig with the confidence of a pair and the re-fit of the hybrid reward.

    R_c and R_r are the hybrid reward of the chosen and of the rejected answer, gamma the confidence in a pair's label.

    confidence: where gamma comes from.
        "calibrated"  sigma(alpha (R_c - R_r)), pair by pair (eq. 8), with the alpha that makes gamma a probability on
                      held-out pairs; with a `calibration_dataset` alpha follows the reward (recalibration.py). The
                      default: on validation it wins (docs/confidence_dpo.md).
        "paper"       the same with the paper's alpha; where gaps pass 1 it is 0 or 1
        "released"    the authors' code: one value for a micro-batch, from squashed means, never below 0.5. Depends on
                      how pairs fall into micro-batches, and says so at start.
        "column"      the data set's column `confidence`, in [0, 1]
        "fixed"       `fixed_confidence` for every pair; 1.0 is vanilla DPO
    alpha: of "paper" and "released", 7.5 (the paper's appendix A.3); "calibrated" has its own.
    fixed_confidence: with confidence="fixed"; the authors' baseline is 0.9.
    gate, pooling: of the hybrid reward that is fitted when none is given; None takes HybridReward.fit's defaults. A
        given reward brings its own.
    reward_pairs: how many training pairs a reward is fitted on when none is given: 1,000, as the authors'.
    refit: one step of AdamW on the reward after each optimiser step, on the pairs of that step.
        "margin"      on -log sigma(R_c - R_r - refit_margin), as the released code. The default.
        "no_margin"   the same without margin (the paper's section 3.4)
        "off"         the reward stays as it was fitted
    refit_margin: mu = 1 (the paper's appendix A.3).
    refit_learning_rate, refit_weight_decay: AdamW's, 0.01 and 0.01 (released code, which has Adam; see live_reward.py).
    objective: what is minimised; "confidence" is confidence DPO. The others (objectives.py) are what it is compared
        with; they take labels as they are (confidence="fixed", fixed_confidence=1.0).
    flipped: of objective="robust", the share of the labels that is believed to be wrong, below one half.
    packing, packing_max_tokens, without_router_loss: see PairConfig.
    """

    confidence: str = field(default="calibrated", metadata={"help": "Where the confidence of a pair comes from."})
    alpha: float = field(default=7.5, metadata={"help": "Slope of the confidence in the reward gap (eq. 8)."})
    fixed_confidence: float | None = field(default=None, metadata={"help": "The confidence of every pair."})
    gate: str | None = field(default=None, metadata={"help": "Gate of the hybrid reward fitted at start."})
    pooling: str | None = field(default=None, metadata={"help": "Where an answer's states are read."})
    reward_pairs: int = field(default=1000, metadata={"help": "Training pairs a reward is fitted on at start."})
    refit: str = field(default="margin", metadata={"help": "How the reward follows the policy."})
    refit_margin: float = field(default=1.0, metadata={"help": "Margin of the re-fit's loss (eq. 7)."})
    refit_learning_rate: float = field(default=0.01, metadata={"help": "AdamW's, for the reward."})
    refit_weight_decay: float = field(default=0.01, metadata={"help": "AdamW's, for the reward."})
    objective: str = field(default="confidence", metadata={"help": "What is minimised over pairs."})
    flipped: float | None = field(default=None, metadata={"help": "Share of wrong labels, of objective=robust."})

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_changed(self, REFUSED)
        _require_choice("confidence", self.confidence, (*get_args(ConfidenceSource), "fixed"))
        _require_choice("refit", self.refit, get_args(Refit))
        _require_choice("objective", self.objective, get_args(Objective))
        _require_choice("gate", self.gate, (None, *get_args(Gate)))
        _require_choice("pooling", self.pooling, (None, *get_args(Pooling)))
        for name, example in (("beta", 0.1), ("alpha", 7.5), ("refit_learning_rate", 0.01)):
            if not getattr(self, name) > 0:
                raise UserError(name, f"{getattr(self, name)} is not above 0", f"give a positive number, as {example}")
        for name in ("refit_margin", "refit_weight_decay"):
            if not getattr(self, name) >= 0:
                raise UserError(name, f"{getattr(self, name)} is not 0 or above", "give such a number")
        if self.reward_pairs < 20:
            raise UserError("reward_pairs", f"{self.reward_pairs} pairs are too few for a reward", "give 20 or more")
        if self.objective != "confidence" and (self.confidence, self.fixed_confidence) != ("fixed", 1.0):
            problem = f"{self.objective!r} takes labels as they are"
            raise UserError("objective", problem, "give confidence='fixed' and fixed_confidence=1.0")
        if self.objective == "robust" and (self.flipped is None or not 0 <= self.flipped < 0.5):
            raise UserError("flipped", f"{self.flipped} is not in [0, 0.5)", "give the share of wrong labels, as 0.1")
        if self.objective != "robust":
            refuse_changed(self, {"flipped": f"objective={self.objective!r} believes in no share of its own"})
        if self.confidence == "fixed" and (self.fixed_confidence is None or not 0 <= self.fixed_confidence <= 1):
            raise UserError("fixed_confidence", f"{self.fixed_confidence} is not in [0, 1]", "give 1.0 for DPO, or 0.9")
        if self.live and self.enable_jit_checkpoint:
            problem = "it saves in the middle of a step, and without the reward"
            raise UserError("enable_jit_checkpoint", problem, "leave it at False")
        refuse_changed(self, unread(self.confidence, self.refit))
        if self.confidence != "fixed":
            refuse_changed(self, {"fixed_confidence": f"confidence={self.confidence!r} has its own values"})
        if not self.precompute_ref_log_probs:
            refuse_changed(self, {"precompute_ref_batch_size": "precompute_ref_log_probs is off"})

    @property
    def live(self) -> bool:
        """Does the confidence come from the hybrid reward?"""
        return self.confidence in get_args(LiveConfidence)


def _require_choice(name: str, value: Any, choices: tuple) -> None:
    if value not in choices:
        known = ", ".join(str(choice) for choice in choices)
        raise UserError(name, f"{value!r} is not a choice", f"choose one of {known}")
