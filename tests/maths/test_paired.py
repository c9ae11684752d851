"""Paired figures against arithmetic by hand, and against slow obvious versions."""

import itertools
import math

import numpy as np
import pytest

from alignment.maths.paired import mcnemar, paired_difference


def numbers(*values: float) -> np.ndarray:
    return np.array(values, dtype=float)


def difference(before: list, after: list, prompts: list | None = None, seed: int = 0):
    place = np.arange(len(before)) if prompts is None else np.array(prompts)
    return paired_difference(numbers(*before), numbers(*after), place, np.random.default_rng(seed))


def test_mcnemar_by_hand():
    """1 against 5: 2 (1 + 6) / 64; 0 against 4: 2 / 16; 3 against 3: no more than 1."""
    assert mcnemar(1, 5) == mcnemar(5, 1) == pytest.approx(14 / 64)
    assert mcnemar(0, 4) == pytest.approx(2 / 16)
    assert mcnemar(3, 3) == mcnemar(0, 0) == mcnemar(0, 1) == 1.0


@pytest.mark.parametrize(("only_before", "only_after"), itertools.product(range(7), repeat=2))
def test_mcnemar_counts_every_outcome_of_fair_coins(only_before, only_after):
    changed = only_before + only_after
    middle = changed / 2
    as_far = sum(
        math.comb(changed, heads) for heads in range(changed + 1) if abs(heads - middle) >= abs(only_before - middle)
    )
    assert mcnemar(only_before, only_after) == pytest.approx(as_far / 2**changed)


def test_a_difference_is_the_mean_of_differences():
    assert difference([1, 1, 0, 0], [0, 1, 0, 0]).mean == -0.25
    assert difference([1, 1, 0], [0, 1, 1], [5, 5, 9]).mean == 0.0


def test_answers_that_are_the_same_differ_by_exactly_nothing_and_others_may():
    """Of fifty prompts none changed: by Wilson, up to 7.1 percent of others may, all of them one way or the other."""
    values = list(np.random.default_rng(1).random(50))
    assert difference(values, values) == pytest.approx((0.0, -0.0713476, 0.0713476), abs=1e-6)
    assert difference([0] * 50, [1] * 50) == pytest.approx((1.0, 1 - 2 * 0.0713476, 1.0), abs=1e-6)
    assert paired_difference(np.ones(9), np.ones(9), np.arange(9), np.random.default_rng(0), rate=False)[1:] == (
        None, None,
    )  # fmt: skip
    assert difference([0.0], [1.0]) == (1.0, None, None), "one prompt says nothing of others"


def test_the_interval_is_that_of_all_resamples():
    """Four prompts: all 256 ways to draw four of them with replacement, each as likely, and their quantiles."""
    before, after = [1, 0, 1, 1], [0, 0, 0, 1]
    change = numbers(*after) - numbers(*before)
    every = [np.mean(change[list(drawn)]) for drawn in itertools.product(range(4), repeat=4)]
    found = difference(before, after)
    assert found[1:] == pytest.approx(np.quantile(every, [0.025, 0.975]), abs=0.01)


def test_the_interval_covers_the_truth_nineteen_times_in_twenty():
    generator, inside = np.random.default_rng(0), 0
    for _ in range(200):
        before, after = generator.random(80) < 0.5, generator.random(80) < 0.3
        low, high = paired_difference(before * 1.0, after * 1.0, np.arange(80), generator)[1:]
        inside += low <= -0.2 <= high
    assert 180 <= inside <= 199


def test_answers_to_one_prompt_are_drawn_together():
    """Eight answers that are one answer eight times say no more than one: answers drawn alone would be surer."""
    generator = np.random.default_rng(0)
    before, after = (generator.random((2, 60)) < [[0.6], [0.3]]).astype(float)
    once = difference(list(before), list(after))
    repeated = difference(list(np.repeat(before, 8)), list(np.repeat(after, 8)), list(np.repeat(np.arange(60), 8)))
    as_if_alone = difference(list(np.repeat(before, 8)), list(np.repeat(after, 8)))
    assert repeated == once
    assert as_if_alone.high - as_if_alone.low < 0.5 * (once.high - once.low)


def test_prompts_of_several_sizes_weigh_by_their_answers():
    """One prompt's three answers all change, another's single one doesn't: 3 of 4, and resamples give 0, 3/4 or 1."""
    found = difference([0, 0, 0, 0], [1, 1, 1, 0], [0, 0, 0, 1])
    assert found == (0.75, 0.0, 1.0)


def test_many_prompts_are_resampled_in_parts(monkeypatch):
    before, after = np.zeros(40), (np.arange(40) % 3 == 0) * 1.0
    whole = paired_difference(before, after, np.arange(40), np.random.default_rng(0))
    monkeypatch.setattr("alignment.maths.statistics.AT_ONCE", 40 * 7)
    assert paired_difference(before, after, np.arange(40), np.random.default_rng(0)) == whole
