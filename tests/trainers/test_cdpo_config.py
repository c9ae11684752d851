"""No option of the trainer is silently ignored."""

from dataclasses import fields

import pytest
from trl import DPOConfig

from alignment.trainers.cdpo_config import REFUSED, ConfidenceDPOConfig
from alignment.types import UserError

# Fields of DPOConfig that TRL's own code reads as before, and those that ours reads.
INHERITED = (
    "model_init_kwargs", "trust_remote_code", "disable_dropout", "dataset_num_proc", "max_length",
    "precompute_ref_log_probs", "precompute_ref_batch_size", "activation_offloading",
)  # fmt: skip
READ = ("beta", "pad_to_multiple_of")


def config(**settings) -> ConfidenceDPOConfig:
    return ConfidenceDPOConfig("out", use_cpu=True, report_to="none", bf16=False, **settings)


def own_fields() -> set[str]:
    """What DPOConfig has beside transformers' TrainingArguments and TRL's defaults for it."""
    inherited = {one.name for one in fields(DPOConfig.__mro__[1])}
    return {one.name for one in fields(DPOConfig)} - inherited


def test_every_field_of_dpoconfig_is_read_refused_or_listed_as_inherited():
    assert own_fields() <= set(REFUSED) | set(INHERITED) | set(READ)
    assert set(INHERITED) | set(READ) <= own_fields()
    assert not set(REFUSED) & (set(INHERITED) | set(READ))
    known = {one.name for one in fields(DPOConfig)}
    assert set(REFUSED) <= known


OFF_DEFAULT = {
    "loss_type": "ipo", "loss_weights": [2.0], "ld_alpha": 0.5, "f_divergence_type": "js_divergence",
    "f_alpha_divergence_coef": 0.7, "label_smoothing": 0.1, "use_weighting": True, "discopop_tau": 0.1,
    "router_aux_loss_coef": 0.1, "padding_free": True, "truncation_mode": "keep_end", "sync_ref_model": True,
    "ref_model_mixup_alpha": 0.5, "ref_model_sync_steps": 64, "pad_token": "x", "use_liger_kernel": True,
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_field_the_loss_does_not_read_is_refused_off_its_default(name):
    with pytest.raises(UserError, match=f"^{name}: it would have no effect"):
        config(**{name: OFF_DEFAULT[name]})


@pytest.mark.parametrize(
    "settings, problem",
    [
        ({"confidence": "sure"}, "confidence: 'sure' is not a choice"),
        ({"confidence": "fixed"}, "fixed_confidence: None is not in"),
        ({"confidence": "fixed", "fixed_confidence": 1.5}, "fixed_confidence: 1.5 is not in"),
        ({"fixed_confidence": 0.9}, "fixed_confidence: it would have no effect: confidence='calibrated'"),
        ({"confidence": "column", "refit": "off"}, "refit: it would have no effect: confidence='column'"),
        ({"confidence": "column", "gate": "uniform"}, "gate: it would have no effect"),
        ({"confidence": "calibrated", "alpha": 5.0}, "alpha: it would have no effect"),
        ({"confidence": "fixed", "fixed_confidence": 1.0, "alpha": 5.0}, "alpha: it would have no effect"),
        ({"refit": "off", "refit_learning_rate": 0.1}, "refit_learning_rate: it would have no effect"),
        ({"refit": "no_margin", "refit_margin": 2.0}, "refit_margin: it would have no effect"),
        ({"refit": "sometimes"}, "refit: 'sometimes' is not a choice"),
        ({"beta": 0.0}, "beta: 0.0 is not above 0"),
        ({"alpha": -1.0}, "alpha: -1.0 is not above 0"),
        ({"reward_pairs": 3}, "reward_pairs: 3 pairs are too few"),
        ({"refit_learning_rate": float("nan")}, "refit_learning_rate: nan is not above 0"),
        ({"refit_margin": -1.0}, "refit_margin: -1.0 is not 0 or above"),
        ({"gate": "nonsense"}, "gate: 'nonsense' is not a choice"),
        ({"enable_jit_checkpoint": True}, "enable_jit_checkpoint: it saves in the middle of a step"),
        ({"precompute_ref_batch_size": 4}, "precompute_ref_batch_size: it would have no effect"),
    ],
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(settings, problem):
    with pytest.raises(UserError, match=problem):
        config(**settings)


def test_the_defaults_are_the_papers_but_for_the_slope():
    made = config()
    assert made.confidence == "calibrated"
    assert (made.alpha, made.refit, made.refit_margin, made.refit_learning_rate) == (7.5, "margin", 1.0, 0.01)
    assert made.refit_weight_decay == 0.01 and made.reward_pairs == 1000
