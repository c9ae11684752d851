"""Pairs as the authors' code makes them, and the best of n against all its subsets, one by one."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignment.maths.selection import best_of, pair_up

scores_of_eight = st.lists(st.floats(-5, 5, allow_nan=False), min_size=8, max_size=8).map(np.array)


def test_eight_samples_make_the_four_pairs_of_the_release():
    """Ranks 5..8 against 1..4, in ascending order."""
    scores = np.array([0.3, -1.0, 2.0, 0.1, 5.0, -3.0, 1.0, 0.2])
    ranked = [int(i) for i in np.argsort(scores)]
    assert pair_up(scores, "zip4") == list(zip(ranked[4:], ranked[:4], strict=True))
    assert pair_up(scores, "zip4") == [(0, 5), (6, 1), (2, 3), (4, 7)]
    assert pair_up(scores, "best_worst") == [(4, 5)]


@given(scores_of_eight)
def test_chosen_never_scores_below_rejected_and_no_sample_is_used_twice(scores):
    """Invariant 8: eight different scores are exactly four pairs."""
    pairs = pair_up(scores, "zip4")
    used = [i for pair in pairs for i in pair]
    assert len(set(used)) == len(used)
    assert all(scores[chosen] > scores[rejected] for chosen, rejected in pairs)
    if pairs:
        assert min(scores[chosen] for chosen, _ in pairs) >= max(scores[rejected] for _, rejected in pairs)
    if len(set(scores)) == 8:
        assert len(pairs) == 4


@pytest.mark.parametrize("pairing", ["zip4", "best_worst"])
def test_ties_are_no_pairs_and_are_broken_by_number(pairing):
    assert pair_up(np.zeros(8), pairing) == []
    found = pair_up(np.array([1.0, 0.0, 1.0, 0.0]), pairing)
    assert found == ([(0, 1), (2, 3)] if pairing == "zip4" else [(2, 1)])
    assert len(pair_up(np.array([0.0] * 5 + [1.0] * 3), "zip4")) == 3


def test_of_an_odd_number_the_middle_one_is_left_out():
    assert pair_up(np.array([3.0, 1.0, 2.0]), "zip4") == [(0, 1)]
    assert pair_up(np.array([3.0]), "zip4") == []
    assert pair_up(np.array([3.0]), "best_worst") == []


@given(st.lists(st.tuples(st.integers(-2, 2), st.floats(0, 1)), min_size=1, max_size=5), st.integers(1, 5))
def test_the_best_of_n_is_the_mean_over_all_orders(samples, n):
    """The slow way: draw n without replacement in every order there is; among equals the first one drawn is taken."""
    n = min(n, len(samples))
    scores, values = (np.array(column, dtype=float) for column in zip(*samples, strict=True))
    orders = itertools.permutations(range(len(samples)))
    slow = [values[max(order[:n], key=lambda i: scores[i])] for order in orders]
    assert best_of(scores, values, n) == pytest.approx(np.mean(slow))


def test_the_best_of_n_is_the_mean_over_all_subsets():
    scores, values = np.random.default_rng(0).normal(size=(2, 9))
    for n in range(1, 10):
        slow = [values[max(subset, key=lambda i: scores[i])] for subset in itertools.combinations(range(9), n)]
        assert best_of(scores, values, n) == pytest.approx(np.mean(slow))


def test_the_best_of_one_is_the_mean_and_the_best_of_all_the_best():
    scores, values = np.array([0.5, -np.inf, 2.0, 1.0]), np.array([1.0, 0.0, 0.25, 1.0])
    assert best_of(scores, values, 1) == pytest.approx(values.mean())
    assert best_of(scores, values, 4) == 0.25
    assert best_of(-scores, values, 4) == 0.0
    assert best_of(np.full(32, -np.inf), np.arange(32.0), 8) == pytest.approx(15.5)
