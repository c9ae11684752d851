"""Planted scores: what is counted, that answers count once, and that differences are over the same drawn prompts."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from alignment.evaluation.scorer_quality import SIMPLE, ScoredPairs, scorer_quality


def planted(pairs: int = 120, seed: int = 0) -> ScoredPairs:
    """Three pairs a prompt, of which two share the chosen answer; the gate is better than the others."""
    random = np.random.default_rng(seed)
    prompts = np.arange(pairs) // 3
    answers = np.arange(2 * pairs).reshape(2, pairs).T.copy()
    answers[1::3, 0] = answers[0::3, 0]
    of_answer = {name: random.normal(size=2 * pairs) for name in ("sigmoid_scores", *SIMPLE)}
    for name, values in of_answer.items():
        values[:pairs] += 1.5 if name == "sigmoid_scores" else 0.7 if name == "words" else 0.3
    scores = {name: values[answers.T] for name, values in of_answer.items()}
    return ScoredPairs(scores, np.stack([scores["words"], scores["length"]], axis=2), prompts, answers)


def test_shares_are_those_of_single_answers_and_pairs():
    pairs = planted()
    report = scorer_quality(pairs, "sigmoid_scores", 0)
    assert (report["pairs"], report["prompts"], report["best_baseline"]) == (120, 40, "words")
    assert report["answers"] == {"chosen": 80, "rejected": 120, "on_both_sides": 0}
    flat, first = np.unique(pairs.answers.T.ravel(), return_index=True)
    for name, found in report["scorers"].items():
        gaps = pairs.scores[name][0] - pairs.scores[name][1]
        assert found["pair_accuracy"]["mean"] == pytest.approx((gaps > 0).mean())
        assert found["auroc"]["mean"] == pytest.approx(roc_auc_score(flat < 120, pairs.scores[name].ravel()[first]))
        for measure in ("pair_accuracy", "auroc", "tpr_at_1_percent_fpr"):
            low, high = found[measure]["ci95"]
            assert low <= found[measure]["mean"] <= high and high - low < 0.6
    assert [row["layer"] for row in report["layers"]] == [1, 2]
    assert report["layers"][0]["pair_accuracy"] == report["scorers"]["words"]["pair_accuracy"]


def test_an_answer_on_both_sides_is_left_out_and_counted():
    pairs = planted()
    pairs.answers[2, 0] = pairs.answers[1, 1]  # rejected in one pair and chosen in another of its prompt
    for scores in pairs.scores.values():
        scores[0, 2] = scores[1, 1]
    assert scorer_quality(pairs, "sigmoid_scores", 0)["answers"] == {"chosen": 79, "rejected": 119, "on_both_sides": 1}


def test_differences_are_over_the_same_drawn_prompts():
    """A scorer and the same one moved by a constant differ by nothing, in any draw."""
    pairs = planted()
    pairs.scores["joint_ridge"] = pairs.scores["sigmoid_scores"] + 3
    found = scorer_quality(pairs, "sigmoid_scores", 0)
    same, words = found["scorers"]["joint_ridge"], found["scorers"]["words"]
    assert same["minus_gate"]["auroc"] == {"mean": 0.0, "ci95": [None, None]}
    assert "minus_gate" not in found["scorers"]["sigmoid_scores"] and found["best_baseline"] == "joint_ridge"
    accuracy, difference = words["pair_accuracy"], words["minus_gate"]["pair_accuracy"]
    assert difference["mean"] == pytest.approx(accuracy["mean"] - same["pair_accuracy"]["mean"])
    assert difference["ci95"][1] < 0 and words["minus_gate"]["auroc"]["ci95"][1] < 0
    assert found == scorer_quality(pairs, "sigmoid_scores", 0)
