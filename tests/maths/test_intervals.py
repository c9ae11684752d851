"""Intervals of rates by hand, against scipy, and by how often they hold the truth."""

import math

import numpy as np
import pytest
from scipy import stats

from alignment.maths.statistics import (
    difference_over_seeds,
    prompt_interval,
    rate_interval,
    rate_over_seeds,
    wilson_interval,
)

ENDS = (0.0, 1.0)


def random() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize(("hits", "count"), [(0, 30), (1, 7), (13, 40), (40, 40), (500, 1000)])
def test_wilson_is_where_a_score_test_just_refuses(hits, count):
    interval = wilson_interval(hits, count)
    assert interval.mean == hits / count
    for end in interval[1:]:
        if 0 < end < 1:
            assert abs(hits / count - end) / math.sqrt(end * (1 - end) / count) == pytest.approx(1.959964, abs=1e-5)
    assert (interval.low == 0) is (hits == 0) and (interval.high == 1) is (hits == count)
    scipys = stats.binomtest(hits, count).proportion_ci(method="wilson")
    assert interval[1:] == pytest.approx((scipys.low, scipys.high), abs=1e-12)


def test_wilson_by_hand():
    """(p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n), of 6 in 9 with z = 1.959964."""
    z = 1.959963984540054
    middle, half = 2 / 3 + z * z / 18, z * math.sqrt(2 / 81 + z * z / 324)
    scale = 1 + z * z / 9
    assert wilson_interval(6, 9) == pytest.approx((2 / 3, (middle - half) / scale, (middle + half) / scale), abs=1e-12)


def test_one_value_has_no_interval():
    assert wilson_interval(1, 1) == (1.0, None, None) == rate_interval(np.ones(1), np.zeros(1, int), random())
    assert rate_over_seeds([0.25], 100) == (0.25, None, None)
    assert prompt_interval(np.ones(8), np.zeros(8, int), random(), ENDS) == (1.0, None, None), (
        "eight answers to one prompt"
    )


def test_a_rate_of_one_answer_a_prompt_is_wilsons_and_of_several_a_bootstrap():
    hits = np.array([1.0, 0.0, 0.5, 1.0])
    assert rate_interval(hits, np.array([4, 9, 1, 2]), random()) == wilson_interval(2.5, 4)
    prompts = np.array([1, 1, 2, 2])
    assert rate_interval(hits, prompts, random()) == prompt_interval(hits, prompts, random(), ENDS)
    assert prompt_interval(hits, prompts, random(), ENDS) == (0.625, 0.5, 0.75)


def test_prompts_that_all_agree_say_what_wilson_says_of_as_many():
    for value in (0.0, 1.0):
        found = prompt_interval(np.full(40, value), np.repeat(np.arange(20), 2), random(), ENDS)
        assert found == pytest.approx(wilson_interval(20 * value, 20))
    half = prompt_interval(np.tile([0.0, 1.0], 20), np.repeat(np.arange(20), 2), random(), ENDS)
    unseen = wilson_interval(0, 20).high
    assert half == pytest.approx((0.5, 0.5 * (1 - unseen), 0.5 * (1 + unseen)))


def test_over_seeds_it_is_students_on_the_logit():
    """By the delta method: of 0.8, 0.9 and 0.7 the mean has the logit log 4, and its error is s / sqrt(3) / 0.16."""
    mean, low, high = rate_over_seeds([0.8, 0.9, 0.7], 100)
    assert mean == pytest.approx(0.8)
    half = stats.t.ppf(0.975, 2) * 0.1 / math.sqrt(3) / 0.16
    assert [math.log(end / (1 - end)) for end in (low, high)] == pytest.approx([math.log(4) - half, math.log(4) + half])


@pytest.mark.parametrize(
    "rates", [[0.0] * 4 + [0.02], [0.0] + [1.0] * 4, [0.5, 0.5, 0.49], [0.0, 1.0], [0.98, 1.0, 1.0]]
)
def test_over_seeds_it_holds_the_mean_and_passes_no_end(rates):
    mean, low, high = rate_over_seeds(rates, 50)
    assert 0 < low < mean < high < 1


@pytest.mark.parametrize("gains", [[0.02, 0.18], [0.0, 0.0, 1.0], [-0.99, -1.0], [0.5, -0.5, 0.4]])
def test_a_difference_over_seeds_holds_its_mean_and_passes_no_end(gains):
    mean, low, high = difference_over_seeds(gains)
    assert mean == pytest.approx(np.mean(gains)) and -1 < low < mean < high < 1


def test_a_difference_over_seeds_is_students_on_fishers_scale():
    _, low, high = difference_over_seeds([0.02, 0.18])
    half = stats.t.ppf(0.975, 1) * 0.08 / (1 - 0.01)
    assert [math.atanh(end) for end in (low, high)] == pytest.approx([math.atanh(0.1) - half, math.atanh(0.1) + half])
    few = [0.011, 0.021, 0.016, 0.024, 0.009]
    plain = stats.ttest_1samp(few, 0.0).confidence_interval(0.95)
    assert difference_over_seeds(few)[1:] == pytest.approx((plain.low, plain.high), abs=1e-4)
    assert difference_over_seeds([0.1]) == (0.1, None, None) == difference_over_seeds([0.1, 0.1])


def test_seeds_that_all_agree_leave_the_answers_of_one_to_go_by():
    assert rate_over_seeds([0.0] * 5, 50) == pytest.approx(wilson_interval(0, 50))
    assert rate_over_seeds([1.0] * 5, 50) == pytest.approx(wilson_interval(50, 50))
    assert rate_over_seeds([0.8, 0.8], 20) == pytest.approx(wilson_interval(16, 20)), "between the ends too"
    assert rate_over_seeds([0.0] * 5, None) == (0.0, None, None)


def test_many_prompts_have_the_normal_interval_of_their_shares():
    shares = np.random.default_rng(0).beta(5, 5, size=5000)
    interval = prompt_interval(shares, np.arange(5000), random(), ENDS)
    half = 1.96 * shares.std() / np.sqrt(5000)
    assert interval[1:] == pytest.approx((shares.mean() - half, shares.mean() + half), abs=5e-4)
