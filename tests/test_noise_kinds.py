"""Confidence DPO by the kind of wrong labels: compared with the strongest fixed confidence, paired by seed."""

import numpy as np
import pytest
from scipy import stats

from benchmarks.noise_kinds import FIXED, SYSTEMS, best_fixed, differences, draw


def rates() -> dict:
    toxic = {"dpo": [0.4, 0.5, 0.6], "cdpo": [0.3, 0.3, 0.5]} | {
        name: [value] * 3 for name, value in zip(FIXED, (0.35, 0.2, 0.5), strict=True)
    }
    return {
        system: {"toxic_rate": toxic[system], "helpful_rate": [0.5] * 3, "over_refusal": [0.0] * 3}
        for system in SYSTEMS
    }


def test_the_best_fixed_confidence_is_the_one_with_the_fewest_toxic_answers():
    assert best_fixed(rates()) == "fixed_80"


def test_differences_are_paired_by_seed():
    found = differences({"random": rates()})["random"]
    mean, low, high = found["cdpo minus dpo"]["toxic_rate"]
    paired = np.array([-0.1, -0.2, -0.1])
    half = stats.t.ppf(0.975, 2) * paired.std(ddof=1) / np.sqrt(3)
    assert (mean, low, high) == pytest.approx((paired.mean(), paired.mean() - half, paired.mean() + half))
    assert found["cdpo minus fixed_80"]["toxic_rate"][0] == pytest.approx(1.1 / 3 - 0.2)


def test_the_picture_is_drawn(tmp_path):
    draw({"random": rates(), "close": rates()}, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 10_000
