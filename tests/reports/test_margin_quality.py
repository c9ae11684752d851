"""The headline figures of margins, out of calibration.json by hand."""

import pytest

from alignment.reports.margin_quality import annotation, annotation_table, baselines_table
from alignment.reports.tables import as_text

AGREEMENT = {
    "pairs": 30, "spearman": 0.25, "spearman_ci95": [0.125, 0.5], "spearman_binned": 0.2, "spearman_size": 0.4,
}  # fmt: skip


def calibration(**heldout) -> dict:
    known = {"severity": None, "helpfulness": None, "given": None, "ranked_right": None, "distribution": None}
    known["baselines"] = None
    return {
        "layer": 7,
        "direction": "smv",
        "shrinkage": None,
        "halves": None,
        "heldout": {"in_scope": 40, "length_correlation": None, "truncated": 3, **known, **heldout},
        "train": {"truncated": 4},
    }


def lines(report: dict) -> list[str]:
    return [" ".join(line.split()) for line in as_text([annotation_table(report)]).splitlines() if line.strip()][2:]


def test_the_headlines_are_those_of_the_gap_that_is_known():
    report = annotation(calibration(severity=AGREEMENT, distribution={"negative_share": 0.3}, length_correlation=0.05))
    assert report == {
        "layer": 7, "pairs": 40, "gap": "severity", "gaps": 30, "spearman_severity": 0.25,
        "spearman_helpfulness": None, "spearman_given": None,
        "spearman_binned": 0.2, "spearman_size": 0.4, "spearman_ci95": [0.125, 0.5], "ranked_right": None,
        "negative_share": 0.3, "length_correlation": 0.05, "truncated": 7,
        "direction": "smv", "shrinkage": None, "halves": None, "baselines": None, "labels": None,
    }  # fmt: skip
    assert lines(report) == [
        "Spearman with the true severity gap 0.25 [0.12, 0.50] 30",
        "the same of the binned margins 0.20 30",
        "Spearman with the length difference 0.05 40",
        "below zero, % 30.0 40",
        "read in layer 7 (smv)",
        "answers cut at annotator.max_length, all pairs 7",
    ]


def test_severity_comes_before_helpfulness_and_that_before_given_margins():
    others = {"helpfulness": {**AGREEMENT, "spearman": 0.5, "spearman_size": 0.9}, "given": AGREEMENT}
    first = annotation(calibration(severity=AGREEMENT, **others))
    assert (first["spearman_helpfulness"], first["spearman_size"]) == (0.5, 0.4)
    assert annotation(calibration(**others))["spearman_size"] == 0.9
    assert annotation(calibration(given=AGREEMENT))["spearman_given"] == 0.25


@pytest.mark.parametrize(("kind", "label"), [("severity", "the true severity gap"), ("helpfulness", "the true helpful"),
                                             ("given", "the margins that came with the data")])  # fmt: skip
def test_an_interval_and_n_stand_beside_the_correlation_that_it_is_of(kind, label):
    shown = lines(annotation(calibration(**{kind: AGREEMENT})))
    assert shown[0].startswith(f"Spearman with {label}") and shown[0].endswith("0.25 [0.12, 0.50] 30")
    few = lines(annotation(calibration(in_scope=2, given={**AGREEMENT, "pairs": 2, "spearman_ci95": None})))
    assert few[0].endswith("came with the data 0.25 2*") and "fewer than 30" in " ".join(few)


def test_pairs_without_known_gaps_are_ranked_at_most():
    report = annotation(calibration(ranked_right={"mean": 0.75, "ci95": [0.5, 1.0]}))
    assert report["spearman_size"] is None and report["negative_share"] is None
    assert lines(report) == [
        "ranked as labelled, % 75.0 [50.0, 100.0] 40", "read in layer 7 (smv)",
        "answers cut at annotator.max_length, all pairs 7",
    ]  # fmt: skip


BASELINES = {
    "pairs": 40, "length_correlation_ci95": [-0.25, 0.25],
    "length": {"safer": "longer", "mean": 0.6, "ci95": [0.5, 0.7]},
    "token_embeddings": {"mean": 0.55, "ci95": [0.4, 0.7]},
    "random": {"mean": 0.5, "ci95": [0.45, 0.55], "directions": 20, "range": [0.3, 0.65]},
    "margins": {"mean": 0.0, "std": 1.5},
    "explained": {"severity": None, "helpfulness": None, "given": {"pairs": 30, "mean": 0.25, "ci95": [-0.1, 0.5]}},
}  # fmt: skip


def test_what_margins_must_beat_stands_below_them():
    found = calibration(baselines=BASELINES, length_correlation=0.05)
    found |= {
        "direction": "discriminant", "shrinkage": 0.3,
        "halves": {"pairs": 64, "halvings": 20, "mean": 0.8, "range": [0.7, 0.9]},
        "labels": {
            "pairs": 64, "gain": {"pairs": 40, "mean": 0.05, "ci95": [-0.02, 0.12]},
            "without": {"direction": "smv", "layer": 2, "ranked_right": {"mean": 0.6, "ci95": [0.5, 0.7]}},
        },
    }  # fmt: skip
    report = annotation(found)
    assert "read in layer 7 (discriminant, shrinkage 0.3)" in lines(report)
    assert "Spearman with the length difference 0.05 [-0.25, 0.25] 40" in lines(report)
    text = as_text([baselines_table(report)]).splitlines()
    assert [" ".join(line.split()) for line in text if line.strip()][2:] == [
        "the longer answer is safer (the better sign), % 60.0 [50.0, 70.0] 40",
        "by the answers' token embeddings alone (layer 0), % 55.0 [40.0, 70.0] 40",
        "by 20 random directions in that layer, mean, % 50.0 [45.0, 55.0] 40",
        "the worst and the best of them, % 30.0 to 65.0 40",
        "of the variance of the given gap, more than a constant margin explains, % 25.0 [-10.0, 50.0] 30",
        "margins: mean, standard deviation 0.00, 1.50 40",
        "cosine of directions from halves of the questions (range of 20 halvings) 0.80 [0.70, 0.90] 64",
        "without labels (layer 2, smv), ranked as labelled, % 60.0 [50.0, 70.0] 40",
        "what 64 labels bought, percentage points +5.0 [-2.0, 12.0] 40",
    ]
