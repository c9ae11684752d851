"""Margins that reward models make: whose gaps they are, of which pairs, and how large."""

from types import SimpleNamespace

import numpy as np
import pytest

from alignment.maths.margins import compared_margins
from alignment.reward_models.learned_margins import margins_of, read_gaps, require_severities, write_gaps
from alignment.reward_models.variants import Trainings, Variant, all_teachers, teachers_of
from alignment.runs.run_files import RunDir
from alignment.types import UserError


def pair(number: int, margin: float = 1.0, severities: tuple = (0, 2)) -> dict:
    prompt = [{"role": "user", "content": f"prompt {number // 2}"}]
    return {
        "id": str(number), "prompt": prompt, "margin": margin,
        "chosen_severity": severities[0], "rejected_severity": severities[1],
    }  # fmt: skip


@pytest.fixture
def trainings(tmp_path) -> Trainings:
    cfg = SimpleNamespace(reward_model=SimpleNamespace(ensemble=2), data=SimpleNamespace(seed=0))
    job = SimpleNamespace(cfg=cfg, run=RunDir(tmp_path), out=tmp_path / "work" / "out")
    pairs = [pair(0, -2.0), pair(1, 2.0, (1, 1)), pair(2, 0.0), pair(3, 4.0, (3, 0))]
    return Trainings(job, pairs, {})


def taught(trainings: Trainings, kind: str, *gaps: list[float]) -> np.ndarray:
    variant = Variant(kind, 3)
    trainings = Trainings(
        trainings.job, trainings.pairs, {}, teachers=teachers_of(variant, 2), gaps=[np.array(one) for one in gaps]
    )
    return margins_of(trainings, variant)


def test_gaps_are_as_large_as_legends_on_average_and_keep_their_order():
    """Legend's sizes are 2, 2, 4: 8 in all; gaps of 1, -1 and 2 become twice as large. Out of scope there is none."""
    margins, gaps = np.array([-2.0, 2.0, 0.0, 4.0]), np.array([1.0, -1.0, 7.0, 2.0])
    np.testing.assert_allclose(compared_margins("single", margins, 0, gaps), [2.0, -2.0, 0.0, 4.0])
    unknown = np.array([1.0, np.nan, 7.0, 3.0])
    np.testing.assert_allclose(compared_margins("single", margins, 0, unknown), [2.0, 0.0, 0.0, 6.0])
    assert not compared_margins("ensemble", margins, 0, np.zeros(4)).any()


def test_each_kind_takes_the_gaps_of_its_teachers(trainings):
    np.testing.assert_allclose(taught(trainings, "single", [1, -1, 7, 2]), [2, -2, 0, 4])
    np.testing.assert_allclose(taught(trainings, "ensemble", [1, -1, 7, 2], [3, -1, 7, 0]), [4, -2, 0, 2])
    # both pairs of a prompt are in a half, and take the gap of the model that learned from the other
    halves = trainings.halves
    assert halves[0] == halves[1] != halves[2] == halves[3]
    first, second = [1.0, 1.0, 1.0, 1.0], [3.0, 3.0, 3.0, 3.0]
    of_halves = np.where(np.array(halves) == 0, 1.0, 3.0) * [1, 1, 0, 1]
    np.testing.assert_allclose(taught(trainings, "crossfit", first, second), of_halves * 8 / of_halves.sum())
    np.testing.assert_allclose(taught(trainings, "severity"), np.array([2, 0, 0, -3]) * 8 / 5)


def test_a_half_learns_from_the_other_pairs(trainings):
    first, second = (Variant("none", 0, half) for half in (0, 1))
    assert sorted([*trainings.learns_from(first), *trainings.learns_from(second)]) == [0, 1, 2, 3]
    assert all(trainings.halves[i] != 0 for i in trainings.learns_from(first))
    assert trainings.learns_from(Variant("legend", 0)) == [0, 1, 2, 3]
    names = {str(trainings.name(one)) for one in (first, second, Variant("none", 0))}
    assert names == {"none/seed-0", "none/seed-0-half-1", "none/seed-0-half-2"}


def test_teachers_are_trained_once():
    variants = [Variant(kind, seed) for seed in (0, 1) for kind in ("none", "single", "crossfit", "ensemble")]
    found = all_teachers(variants, 3)
    halves = [Variant("none", seed, half) for seed in (0, 1) for half in (0, 1)]
    assert len(found) == len(set(found)) and set(found) == {*halves, *(Variant("none", seed) for seed in range(3))}
    assert all_teachers([Variant("legend", 0), Variant("severity", 1)], 3) == []


def test_pairs_that_are_too_long_have_no_gap(trainings):
    folder = trainings.done(Variant("none", 0))
    folder.mkdir(parents=True)
    write_gaps(
        folder, 3, [1], [{"chosen_score": 2.0, "rejected_score": 0.5}, {"chosen_score": 0.0, "rejected_score": 1}]
    )
    np.testing.assert_array_equal(read_gaps(trainings, Variant("none", 0)), [1.5, np.nan, -1.0])


def test_severities_must_be_known():
    require_severities([Variant("legend", 0)], [pair(0, severities=(None, 1))])
    with pytest.raises(UserError, match=r"reward_model\.margins: severity, and nobody graded pair 7"):
        require_severities([Variant("severity", 0)], [pair(0), pair(7, severities=(None, 1))])
