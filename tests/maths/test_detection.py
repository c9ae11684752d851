"""AUROC and the rate of true positives beside scikit-learn's, with ties and with weights."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from alignment.maths.detection import auroc, true_positive_rate


@pytest.mark.parametrize("digits", [0, 1, 8])
def test_as_scikit_learn_has_them_with_ties_and_weights(digits):
    random = np.random.default_rng(0)
    positive = random.random(400) < 0.4
    scores = np.round(random.normal(size=400) + positive, digits)
    weights = np.concatenate([np.ones((1, 400)), random.multinomial(400, np.full(400, 1 / 400), 5)])
    areas, rates = auroc(scores, positive, weights), true_positive_rate(scores, positive, weights, 0.05)
    for weight, area, rate in zip(weights, areas, rates, strict=True):
        assert area == pytest.approx(roc_auc_score(positive, scores, sample_weight=weight))
        false, true, _ = roc_curve(positive, scores, sample_weight=weight, drop_intermediate=False)
        assert rate == pytest.approx(true[false <= 0.05 + 1e-9].max())


def test_the_threshold_lets_one_of_a_hundred_through():
    scores = np.arange(200.0)
    positive = np.arange(200) % 2 == 1  # of the negative ones 198 is the highest: two at 196 or more
    assert true_positive_rate(scores, positive, np.ones((1, 200)))[0] == pytest.approx(2 / 100)
    assert auroc(scores, positive, np.ones((1, 200)))[0] == pytest.approx(0.505)


def test_a_draw_without_one_of_the_kinds_says_nothing():
    weights = np.array([[1.0, 0.0, 1.0, 0.0]])
    assert np.isnan(auroc(np.arange(4.0), np.array([True, False, True, False]), weights)).all()
