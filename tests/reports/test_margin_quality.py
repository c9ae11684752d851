"""The headline figures of margins, out of calibration.json by hand."""

import pytest

from alignment.reports.margin_quality import annotation, annotation_table
from alignment.reports.tables import as_text

AGREEMENT = {
    "pairs": 30, "spearman": 0.25, "spearman_ci95": [0.125, 0.5], "spearman_binned": 0.2, "spearman_size": 0.4,
}  # fmt: skip


def calibration(**heldout) -> dict:
    known = {"severity": None, "helpfulness": None, "given": None, "ranked_right": None, "distribution": None}
    return {
        "layer": 7,
        "heldout": {"in_scope": 40, "length_correlation": None, "truncated": 3, **known, **heldout},
        "train": {"truncated": 4},
    }


def lines(report: dict) -> list[str]:
    return [" ".join(line.split()) for line in as_text([annotation_table(report)]).splitlines() if line.strip()][2:]


def test_the_headlines_are_those_of_the_gap_that_is_known():
    report = annotation(calibration(severity=AGREEMENT, distribution={"negative_share": 0.3}, length_correlation=0.05))
    assert report == {
        "layer": 7, "pairs": 40, "spearman_severity": 0.25, "spearman_helpfulness": None, "spearman_given": None,
        "spearman_binned": 0.2, "spearman_size": 0.4, "spearman_ci95": [0.125, 0.5], "ranked_right": None,
        "negative_share": 0.3, "length_correlation": 0.05, "truncated": 7,
    }  # fmt: skip
    assert lines(report) == [
        "layer 7",
        "Spearman with the true severity gap 0.250",
        "its interval over prompts [0.125, 0.500]",
        "the same of the binned margins 0.200",
        "share below zero 0.300",
        "Spearman with the length difference 0.050",
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
def test_an_interval_stands_below_the_correlation_that_it_is_of(kind, label):
    shown = lines(annotation(calibration(**{kind: AGREEMENT})))
    assert shown[1].startswith(f"Spearman with {label}") and shown[2] == "its interval over prompts [0.125, 0.500]"
    assert not any("interval" in line for line in lines(annotation(calibration(given={"spearman": 0.2}))))


def test_pairs_without_known_gaps_are_ranked_at_most():
    report = annotation(calibration(ranked_right={"mean": 0.75, "ci95": [0.5, 1.0]}))
    assert report["spearman_size"] is None and report["negative_share"] is None
    assert lines(report) == [
        "layer 7", "answers cut at annotator.max_length, all pairs 7", "pairs ranked as labelled 0.750 [0.500, 1.000]",
    ]  # fmt: skip
