"""Rates corrected for a judge's errors: by hand, at the edges, by simulation, and beside the delta method."""

import numpy as np
import pytest

from alignment.maths.paired import paired_difference
from alignment.maths.prevalence import Errors, corrected_difference, corrected_rate, counted_by_prompt
from alignment.maths.statistics import Interval, rate_interval


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def errors_of(positive: int, found: int, negative: int, cleared: int) -> Errors:
    """Of labelled answers to as many prompts."""
    table = [
        [found, 1, 1, 0, 0],
        [positive - found, 1, 0, 0, 0],
        [cleared, 0, 0, 1, 1],
        [negative - cleared, 0, 0, 1, 0],
    ]
    return Errors([row for row in table if row[0]], random(1))


def answers(hits: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    return np.array([1.0] * hits + [0.0] * (count - hits)), np.arange(count)


def test_labelled_answers_are_counted_by_prompts_that_are_alike():
    true = np.array([True, False, True, True, False, True, False])
    said = np.array([True, False, False, True, True, False, False])
    prompts = np.array([4, 4, 9, 2, 2, 7, 8])
    assert counted_by_prompt(said, true, prompts) == [
        [1, 0, 0, 1, 1],  # prompt 8: cleared
        [2, 1, 0, 0, 0],  # prompts 9 and 7: missed
        [1, 1, 1, 1, 0],  # prompt 2: found, and a false alarm
        [1, 1, 1, 1, 1],  # prompt 4: both right
    ]


def test_by_hand():
    """80 of 100 found, 90 of 100 cleared: of 38 percent of verdicts (38 - 10) / 70 = 40 percent of answers."""
    errors = errors_of(100, 80, 100, 90)
    assert (errors.sensitivity.mean, errors.specificity.mean) == (0.8, 0.9) and errors.counts == [100, 100]
    assert errors.youden.mean == pytest.approx(0.7) and errors.informative
    assert errors.sensitivity == rate_interval(*answers(80, 100), random()), "Wilson's, of one answer a prompt"
    found = corrected_rate(*answers(38, 100), errors, random())
    assert found.mean == pytest.approx(0.4) and 0 < found.low < 0.4 < found.high < 1
    before, after = (np.repeat([1.0, 0.0], [hits, 100 - hits]) for hits in (24, 38))
    change = corrected_difference(before, after, np.arange(100), errors, random())
    assert change.mean == pytest.approx(0.14 / 0.7) and 0 < change.low < change.high


def test_the_width_is_that_of_the_delta_method():
    """var = (raw (1 - raw) / n + rate^2 sens (1 - sens) / n1 + (1 - rate)^2 spec (1 - spec) / n0) / J^2."""
    errors = errors_of(300, 240, 500, 450)
    found = corrected_rate(*answers(380, 1000), errors, random())
    variance = (0.38 * 0.62 / 1000 + 0.4**2 * 0.8 * 0.2 / 300 + 0.6**2 * 0.9 * 0.1 / 500) / 0.7**2
    assert (found.high - found.low) / (2 * 1.96) == pytest.approx(variance**0.5, rel=0.06)
    for part in (errors_of(30000, 24000, 50000, 45000), errors_of(30, 24, 50, 45)):
        other = corrected_rate(*answers(380, 1000), part, random())
        wider = part.counts[0] < 300
        assert (other.high - other.low > found.high - found.low) is wider, "few labels are much of the uncertainty"


def test_of_a_judge_that_is_never_wrong_the_rate_is_the_raw_one():
    perfect = errors_of(100_000, 100_000, 100_000, 100_000)
    for hits in (0, 30, 100):
        raw, found = (
            rate_interval(*answers(hits, 100), random()),
            corrected_rate(*answers(hits, 100), perfect, random()),
        )
        assert found.mean == raw.mean and found[1:] == pytest.approx(raw[1:], abs=0.015)
    before, after = answers(30, 100)[0], answers(50, 100)[0]
    raw = paired_difference(before, after, np.arange(100), random())
    found = corrected_difference(before, after, np.arange(100), perfect, random())
    assert found.mean == pytest.approx(raw.mean) and found[1:] == pytest.approx(raw[1:], abs=0.01)
    same = corrected_difference(before, before, np.arange(100), perfect, random())
    assert same.mean == 0 and same[1:] == pytest.approx(
        paired_difference(before, before, np.arange(100), random())[1:], abs=0.004
    )


def test_a_judge_without_a_mistake_on_few_labels_may_make_some():
    found = corrected_rate(*answers(50, 100), errors_of(20, 20, 20, 20), random())
    raw = rate_interval(*answers(50, 100), random())
    assert found.mean == 0.5 and found.low < raw.low - 0.02 and found.high > raw.high + 0.02


def test_what_is_looked_for_and_its_absence_change_places():
    """Of answers without it the rate is the rest, sensitivity and specificity swapped."""
    values, prompts = answers(38, 100)
    one = corrected_rate(values, prompts, errors_of(100, 80, 60, 54), random())
    other = corrected_rate(1 - values, prompts, errors_of(60, 54, 100, 80), random())
    assert one.mean == pytest.approx(1 - other.mean)
    assert [one.low, one.high] == pytest.approx([1 - other.high, 1 - other.low], abs=0.02)


def test_answers_to_one_prompt_are_no_independent_evidence():
    """The same answers eight times over: of the judged and of the labelled ones."""
    values, prompts = answers(38, 100)
    labelled = [[80, 1, 1, 0, 0], [20, 1, 0, 0, 0], [90, 0, 0, 1, 1], [10, 0, 0, 1, 0]]
    once = corrected_rate(values, prompts, Errors(labelled, random(1)), random())
    eight = [[row[0], *(8 * count for count in row[1:])] for row in labelled]
    repeated = corrected_rate(np.repeat(values, 8), np.repeat(prompts, 8), Errors(eight, random(1)), random())
    assert repeated == pytest.approx(once)
    assert Errors(eight, random(1)).sensitivity[1:] == pytest.approx(
        Errors(labelled, random(1)).sensitivity[1:], abs=0.02
    )


@pytest.mark.parametrize(("table", "informative"), [
    ((100, 60, 100, 45), False),  # J = 0.05, within noise
    ((100, 60, 100, 80), True),
    ((100, 20, 100, 20), False),  # worse than a coin
    ((1, 1, 100, 100), False),  # a single answer says nothing of others
    ((0, 0, 100, 100), False),
])  # fmt: skip
def test_a_judge_that_may_know_nothing_is_not_informative(table, informative):
    assert errors_of(*table).informative is informative


def test_too_few_to_be_explained_by_these_errors_is_no_rate():
    """A tenth of the answers without it are false alarms, and none of 300 was called: not this judge's errors here."""
    errors = errors_of(100, 80, 1000, 900)
    assert corrected_rate(*answers(0, 300), errors, random()) is None
    assert corrected_rate(*answers(300, 300), errors, random()) is None
    assert corrected_rate(*answers(0, 10), errors, random()).mean == 0.0, "of ten that may be chance"
    found = corrected_rate(*answers(27, 300), errors, random())
    assert found[:2] == (0.0, 0.0) and found.high > 0, "clipped"


def test_a_single_prompt_has_no_interval():
    assert corrected_rate(np.array([0.5]), np.array([0]), errors_of(100, 80, 100, 90), random()) == Interval(
        pytest.approx(4 / 7), None, None
    )


def test_intervals_hold_the_truth():
    """95 in 100 do, of 60 draws of 150 answers and 80 labels, three to a prompt in half of them."""
    rate, sensitivity, specificity, held = 0.3, 0.85, 0.9, 0
    draw = random(3)
    for _ in range(60):
        truth = draw.random(150) < rate
        said = np.where(truth, draw.random(150) < sensitivity, draw.random(150) > specificity)
        labels = draw.random(80) < 0.5
        judged = np.where(labels, draw.random(80) < sensitivity, draw.random(80) > specificity)
        errors = Errors(counted_by_prompt(judged, labels, np.arange(80) % 60), draw)
        found = corrected_rate(said.astype(float), np.arange(150) % 120, errors, draw)
        held += found.low <= rate <= found.high
    assert held >= 53
