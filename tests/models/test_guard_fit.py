"""What a guard is fitted with: nothing of a fold's own answers, thresholds by their rule, a head for each kind."""

import numpy as np
import pytest
import torch

from alignment.models.guard_fit import (
    FEWEST,
    Labelled,
    Rule,
    category_names,
    fit_guard,
    held_out,
    held_out_by,
    label_columns,
    learning_curve,
    products_of,
    require_both,
)
from alignment.types import UserError

COUNT, LAYERS, WIDTH = 240, 2, 12
BALANCED = Rule(None, None)


@pytest.fixture(scope="module")
def states() -> torch.Tensor:
    return torch.randn(COUNT, LAYERS, WIDTH, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def answers(states: torch.Tensor) -> Labelled:
    """Harm is one direction, its two kinds are another; the last forty answers are to harmless prompts."""
    harmful = (states[:, 0, 0] + 0.3 * states[:, 1, 1] > 0).numpy()
    harmful[-40:] = False
    kinds = np.where(states[:, 1, 2].numpy() > 0, "violence", "theft; lies")
    harmless = np.array([""] * (COUNT - 40) + ["kind"] * 40)
    groups = np.arange(COUNT) // 2
    return Labelled(
        harmful, np.array(["own"] * COUNT), np.where(harmful, kinds, None).tolist(), harmless, groups, groups % 5
    )


def layers(states: torch.Tensor):
    return lambda: iter(states.unbind(1))


def test_a_folds_labels_change_nothing_of_what_is_said_of_it(states, answers) -> None:
    read, labels = products_of(layers(states)), label_columns(answers, [])
    before = held_out(read, labels, answers, BALANCED)
    own = answers.folds == 2
    turned = answers._replace(harmful=np.where(own, ~answers.harmful, answers.harmful))
    after = held_out(read, label_columns(turned, []), turned, BALANCED)
    assert np.array_equal(before.probabilities[own], after.probabilities[own])
    assert np.array_equal(before.called[own], after.called[own])
    assert not np.array_equal(before.probabilities[~own], after.probabilities[~own])


def test_it_finds_what_is_there_and_calls_each_kind_by_its_name(states, answers) -> None:
    names = category_names(answers)
    assert names == ["lies", "theft", "violence"]
    labels = label_columns(answers, names)
    assert labels.shape == (COUNT, 4) and (labels[~answers.harmful] == -1).all()
    said = held_out(products_of(layers(states)), labels, answers, BALANCED)
    labelled = answers.harmless == ""
    assert (said.called == answers.harmful)[labelled].mean() > 0.85
    true = np.array([of is not None and "violence" in of for of in answers.categories])
    assert ((np.array(names)[said.categories] == "violence") == true)[answers.harmful].mean() > 0.9


def test_rare_kinds_have_no_head(answers) -> None:
    rare = ["rare" if i < FEWEST - 1 else None for i in range(COUNT)]
    assert category_names(answers._replace(categories=rare)) == []


def test_the_saved_guard_is_fitted_on_all_and_its_threshold_on_none(states, answers) -> None:
    read, labels = products_of(layers(states)), label_columns(answers, [])
    made = fit_guard(layers(states), read, labels, [], answers, BALANCED)
    scores = made.ridge.score(states)[:, 0].numpy()
    assert np.corrcoef(scores, answers.harmful)[0, 1] > 0.6
    assert 0 < made.threshold < 1 and made.calibration.temperature > 0


@pytest.mark.parametrize("most", [0.02, 0.2])
def test_the_threshold_keeps_to_its_rule(answers, most: float) -> None:
    probabilities = np.random.default_rng(0).random(COUNT)
    every, labelled = np.arange(COUNT), answers.harmless == ""
    safe = labelled & ~answers.harmful
    at = Rule(most, None).threshold(probabilities, answers, every)
    assert most - 0.02 < (probabilities[safe] >= at).mean() <= most
    alarms = Rule(None, most).threshold(probabilities, answers, every)
    assert (probabilities[~labelled] >= alarms).mean() <= most
    assert alarms >= Rule(None, None).threshold(probabilities, answers, every)


def test_scores_of_either_sign_are_judged_by_the_other_folds(answers) -> None:
    """As lengths are, of which nobody knows beforehand which way they point."""
    scores = answers.harmful + np.random.default_rng(0).normal(0, 0.3, COUNT)
    up, down = held_out_by(scores, answers, BALANCED), held_out_by(-scores, answers, BALANCED)
    assert np.allclose(up.probabilities, down.probabilities) and (up.called == answers.harmful).mean() > 0.9


def test_more_answers_teach_more(states, answers) -> None:
    curve = learning_curve(products_of(layers(states)), label_columns(answers, []), answers, penalty=0.3, seed=0)
    assert list(curve) == [80, 160]
    right = {size: np.corrcoef(scores, answers.harmful)[0, 1] for size, scores in curve.items()}
    assert right[160] > right[80] > 0.4


def test_too_few_of_a_kind_are_refused(answers) -> None:
    harmful = np.arange(COUNT) < FEWEST
    with pytest.raises(
        UserError, match="beside fold 1 of 5 there are 16 harmful answers; give at least 20 of each kind"
    ):
        require_both(harmful, answers.folds)


def test_states_that_say_nothing_are_refused(states, answers) -> None:
    nothing = torch.randn(COUNT, 1, 3, generator=torch.Generator().manual_seed(5))
    turned = answers._replace(harmful=(np.arange(COUNT) % 4 < 2))
    read, labels = products_of(layers(nothing)), label_columns(turned, [])
    try:
        fit_guard(layers(nothing), read, labels, [], turned, BALANCED)
    except UserError as error:
        assert "the states say nothing" in str(error)
    else:
        pytest.fail("nothing was learned, and nobody said so")
