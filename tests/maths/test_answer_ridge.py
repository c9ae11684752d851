"""The ridge on labelled answers against scikit-learn's, and calibration and thresholds by hand."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.linear_model import Ridge
from sklearn.metrics import f1_score

from alignment.maths.answer_probabilities import (
    balanced_threshold,
    expected_calibration_error,
    fit_calibration,
    threshold_of,
)
from alignment.maths.answer_ridge import best_penalty, fit_answers, heldout_scores, products, scores_of_others


@pytest.fixture(scope="module")
def states() -> torch.Tensor:
    """(answer, layer, width), of which the layers have scales of their own."""
    states = torch.randn(60, 3, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return states * torch.tensor([1.0, 5.0, 0.2])[:, None] + torch.tensor([0.0, 3.0, -1.0])[:, None]


@pytest.fixture(scope="module")
def labels(states: torch.Tensor) -> torch.Tensor:
    return torch.where(states[:, 0, :2] + 0.3 * states[:, 1, :2] > 1, 1.0, -1.0).double()


def layers(states: torch.Tensor):
    return iter(states.unbind(1))


def as_rows(states: torch.Tensor, fitted: torch.Tensor) -> np.ndarray:
    """What the ridge is of: standardised by all answers, over the root of the width."""
    x = (states - states.mean(dim=0)) / states.std(dim=0, correction=0) / states.shape[2] ** 0.5
    return x[fitted].flatten(1).numpy()


@pytest.mark.parametrize("penalty", [0.1, 10.0])
def test_it_is_scikit_learns_ridge(states: torch.Tensor, labels: torch.Tensor, penalty: float) -> None:
    every = torch.arange(len(states))
    fitted, others = every[:40], every[40:]
    read = products(layers(states))
    x = as_rows(states, fitted)
    unit = penalty * (x**2).sum(axis=1).mean()
    ridge = Ridge(alpha=unit).fit(x, labels[fitted].numpy())
    scores = scores_of_others(read, labels, fitted, others, [penalty])[0]
    assert np.allclose(scores.numpy(), ridge.predict(as_rows(states, others)), atol=1e-9)
    whole = fit_answers(read, layers(states), labels, penalty)
    x = as_rows(states, every)
    ridge = Ridge(alpha=penalty * (x**2).sum(axis=1).mean()).fit(x, labels.numpy())
    assert np.allclose(whole.score(states).numpy(), ridge.predict(x), atol=1e-9)


def test_held_out_scores_are_of_the_other_folds(states: torch.Tensor, labels: torch.Tensor) -> None:
    read, folds = products(layers(states)), np.arange(60) % 3
    scores = heldout_scores(read, labels, torch.arange(60), folds, (1.0, 10.0))
    own, rest = (torch.from_numpy(np.flatnonzero(which)) for which in (folds == 1, folds != 1))
    assert torch.equal(scores[:, own], scores_of_others(read, labels, rest, own, (1.0, 10.0)))
    turned = labels.clone()
    turned[own] *= -1
    assert torch.equal(heldout_scores(read, turned, torch.arange(60), folds, (1.0,))[:, own], scores[:1, own])


def test_the_penalty_is_the_one_that_ranks_best() -> None:
    labels = torch.tensor([[1.0, -1.0], [-1.0, 1.0], [1.0, -1.0]])
    scores = torch.tensor([[[0.0, 9.0], [1.0, 0.0], [2.0, 9.0]], [[3.0, 0.0], [1.0, 9.0], [2.0, 0.0]]])
    assert best_penalty(scores, labels) == 1


def test_calibration_is_platts_regression() -> None:
    generator = np.random.default_rng(0)
    harmful = generator.random(300) < 0.3
    scores = generator.normal(size=300) + harmful
    found = fit_calibration(scores, harmful)
    target = np.where(harmful, (harmful.sum() + 1) / (harmful.sum() + 2), 1 / ((~harmful).sum() + 2))

    def loss(parameters: np.ndarray) -> float:
        logits = parameters[0] * scores + parameters[1]
        return float(np.mean(np.logaddexp(0, logits) - target * logits))

    slope, shift = minimize(loss, [1.0, 0.0], tol=1e-12).x
    assert found.temperature == pytest.approx(1 / slope, rel=1e-3)
    assert found.offset == pytest.approx(-shift / slope, abs=1e-3)
    assert found.probabilities(scores).mean() == pytest.approx(target.mean(), abs=1e-6)
    again = fit_calibration(100 * scores - 7, harmful)
    assert np.allclose(again.probabilities(100 * scores - 7), found.probabilities(scores), atol=1e-8)


def test_scores_that_say_nothing_have_no_calibration() -> None:
    harmful = np.array([True, False] * 20)
    nothing = fit_calibration(-harmful.astype(float), harmful)
    assert nothing.says_nothing and np.allclose(nothing.probabilities(np.array([-1.0, 0.0, 1.0])), 0.5, atol=1e-4)
    rare = fit_calibration(np.zeros(40), np.arange(40) < 4)
    assert rare.says_nothing and rare.probabilities(np.zeros(1))[0] == pytest.approx(0.1, abs=0.05)
    assert fit_calibration(harmful.astype(float), harmful).temperature > 0.01  # told apart, and still no certainty


def test_the_calibration_error_by_hand() -> None:
    probabilities, harmful = np.array([0.05, 0.05, 0.95, 0.95, 1.0]), np.array([False, True, True, True, True])
    assert expected_calibration_error(probabilities, harmful) == pytest.approx((2 * 0.45 + 3 * (1 - 2.9 / 3)) / 5)


def test_the_balanced_threshold_is_the_best_of_all() -> None:
    generator = np.random.default_rng(1)
    for _ in range(20):
        harmful = generator.random(40) < 0.4
        probabilities = np.round(np.clip(generator.normal(0.5, 0.2, 40) + 0.2 * harmful, 0, 1), 2)
        best = max(f1_score(harmful, probabilities >= at, average="macro") for at in np.unique(probabilities))
        at = balanced_threshold(probabilities, harmful)
        assert f1_score(harmful, probabilities >= at, average="macro") == pytest.approx(best)


@pytest.mark.parametrize("most, called", [(0.0, 0), (0.1, 0), (0.25, 1), (0.5, 2), (0.75, 2), (1.0, 4)])
def test_a_share_of_safe_answers_may_be_called_harmful(most: float, called: int) -> None:
    """Of two equal ones none or both are."""
    probabilities = np.array([0.9, 0.7, 0.2, 0.2])
    assert int((probabilities >= threshold_of(probabilities, most)).sum()) == called


def test_what_the_prompt_explains_is_left_to_it(states: torch.Tensor, labels: torch.Tensor) -> None:
    """The fit of both, of which the answers' part alone is the score: scikit-learn's ridge on both, side by side."""
    prompts = torch.randn(60, 2, 5, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    topic, penalty, every = 4.0, 0.5, torch.arange(60)
    read = products(layers(states)).with_topic(products(layers(prompts)), topic)
    x, z = as_rows(states, every), as_rows(prompts, every)
    unit = (x**2).sum(axis=1).mean()
    weight = (topic * unit / (z**2).sum(axis=1).mean()) ** 0.5
    ridge = Ridge(alpha=penalty * unit).fit(np.hstack([x, weight * z]), labels.numpy())
    own = (x - x.mean(axis=0)) @ ridge.coef_[:, : x.shape[1]].T + labels.numpy().mean(axis=0)
    whole = fit_answers(read, layers(states), labels, penalty)
    assert np.allclose(whole.score(states).numpy(), own, atol=1e-9)
    scores = scores_of_others(read, labels, every, every, [penalty])[0]
    assert np.allclose(scores.numpy(), own, atol=1e-9)
    assert products(layers(states)).with_topic(read, 0.0).topic is None
