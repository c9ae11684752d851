"""Agreement, kappa, length bias and their intervals, against figures worked out by hand or by another library."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, f1_score, roc_auc_score

from alignment.maths.agreement import cohen_kappa, f1, length_bias
from alignment.maths.statistics import bootstrap

TRUE = np.array([0, 0, 0, 1, 1, 2])
SAID = np.array([0, 1, -1, 1, 2, 2])


def test_f1_is_of_everything_but_class_nought():
    """True positives 3, false positives 1, false negatives 0; an unread verdict is no positive."""
    assert f1(SAID, TRUE) == pytest.approx(6 / 7) and f1(np.zeros(3, int), np.zeros(3, int)) is None
    generator = np.random.default_rng(0)
    said, true = generator.integers(0, 2, (2, 200))
    assert f1(said, true) == pytest.approx(f1_score(true, said))


def test_kappa_is_cohens():
    generator = np.random.default_rng(1)
    first = generator.integers(0, 3, 300)
    second = np.where(generator.random(300) < 0.6, first, generator.integers(0, 3, 300))
    assert cohen_kappa(first, second) == pytest.approx(cohen_kappa_score(first, second))
    assert cohen_kappa(first, first) == 1.0
    assert cohen_kappa(np.zeros(4, int), np.zeros(4, int)) is None and cohen_kappa(first[:0], second[:0]) is None


def test_length_bias_looks_within_a_true_class():
    """Truth goes with length here, and a judge that is right has no bias; one that goes by length alone has."""
    lengths = np.array([1.0, 2.0, 3.0, 4.0, 10.0, 20.0, 30.0, 40.0])
    true = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    assert length_bias(lengths, true, true) is None
    assert length_bias(lengths, np.array([0, 0, 1, 1, 0, 0, 1, 1]), true) == 1.0
    assert length_bias(lengths, np.array([1, 1, 0, 0, 1, 1, 0, 0]), true) == 0.0
    assert length_bias(lengths, np.array([1, 0, 0, 1, 1, 0, 0, 1]), true) == 0.5
    said = np.array([0, 1, 0, 1, -1, 0, 1, 0])
    wins = 4 * roc_auc_score([0, 1, 0, 1], lengths[:4]) + 2 * roc_auc_score([0, 1, 0], lengths[5:])
    assert length_bias(lengths, said, true) == pytest.approx(wins / 6)
    assert length_bias(np.ones(8), said, true) == 0.5


def test_the_bootstrap_draws_whole_clusters():
    """Twenty answers to each of ten prompts that agree entirely are ten pieces of evidence, not two hundred."""
    generator = np.random.default_rng(2)
    values = np.repeat(generator.random(10), 20)
    clusters = generator.permutation(10).repeat(20)
    statistic = lambda chosen: {"mean": float(values[chosen].mean())}  # noqa: E731
    wide = bootstrap(statistic, clusters, np.random.default_rng(3))["mean"]
    narrow = bootstrap(statistic, np.arange(200), np.random.default_rng(3))["mean"]
    assert wide.mean == narrow.mean == pytest.approx(values.mean())
    assert wide.low < wide.mean < wide.high and 3 < (wide.high - wide.low) / (narrow.high - narrow.low) < 6
    spread = np.std(values[::20]) / np.sqrt(10)
    assert wide.high - wide.low == pytest.approx(2 * 1.96 * spread, rel=0.2)


def test_every_drawn_row_belongs_to_a_drawn_cluster_of_uneven_size():
    clusters = np.array([5, 3, 3, 5, 9, 5])
    sums = []

    def counted(chosen: np.ndarray) -> dict[str, float | None]:
        counts = np.bincount(clusters[chosen], minlength=10)
        sums.append((counts[5] % 3, counts[3] % 2, counts[9] + counts[3] // 2 + counts[5] // 3))
        return {"rows": float(len(chosen))}

    bootstrap(counted, clusters, np.random.default_rng(4), draws=50)
    assert {one[:2] for one in sums} == {(0, 0)} and {one[2] for one in sums} == {3}


def test_a_statistic_that_isnt_defined_has_no_interval():
    defined = lambda chosen: {"none": None, "some": 1.0 if 0 in chosen else None}  # noqa: E731
    found = bootstrap(defined, np.arange(4), np.random.default_rng(5))
    assert found["none"] is None and found["some"] == (1.0, None, None), "it never was anything else"
