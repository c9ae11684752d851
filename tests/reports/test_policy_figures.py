"""Curves over training, when a training has logged no number."""

import numpy as np

from alignment.policies.systems import SYSTEMS
from alignment.reports.pictures.policy_figures import COLOURS, OF_HYBRID, _curves, _kind, draw_rewards


def training(*gaps: float | None) -> dict:
    history = [
        {"step": 10 * (i + 1), "dpo_gap": gap, "dpo_accuracy": 0.5, "grad_norm": 1.0} for i, gap in enumerate(gaps)
    ]
    return {"system": "dpo", "pairs": 40, "history": [*history, {"step": 99, "loss": 0.1}]}


def test_a_step_without_a_number_is_left_out_for_all_seeds():
    steps, gaps, accuracies = _curves([training(1.0, None, 3.0, 4.0), training(3.0, 5.0, 5.0)])["dpo"]
    assert steps.tolist() == [10, 30]
    assert gaps.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert np.all(accuracies == 50)


def test_without_any_number_there_is_no_curve(tmp_path):
    draw_rewards([training(None, None), training(1.0, 2.0)], tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


def test_every_system_has_a_colour_and_other_objectives_no_curve():
    kinds = {system: _kind(system) for system, one in SYSTEMS.items() if one.stage in ("train_dpo", "train_cdpo")}
    assert kinds["fixed_90_star"] == "fixed" and kinds["cdpo_star"] == "cdpo" and kinds["dpo"] == "dpo"
    assert {kinds[name] for name in ("robust_90", "ipo", "dr_dpo", "beta_dpo", "flip_aware")} == {"other"}
    assert _kind(f"{OF_HYBRID}cdpo") == "hybrid" and set(kinds.values()) | {"hybrid"} == set(COLOURS)
    assert list(_curves([training(1.0, 2.0), {**training(1.0, 2.0), "system": "ipo"}])) == ["dpo"]
