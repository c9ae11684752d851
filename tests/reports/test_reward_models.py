"""Pairs ranked right and the gain of margins, counted by hand."""

import pytest

from alignment.reports.reward_models import reward_models, reward_tables
from alignment.reports.tables import as_text

PAIRS = (  # set, severity gap (None: of a harmless prompt)
    ("same", 1), ("same", 2), ("objects", 1), ("objects", None),
)  # fmt: skip


def scores(kind: str, seed: int, *right: float) -> list[dict]:
    """right: 1 where the chosen answer has the higher score, 0 where it has the lower one, 1/2 where they tie."""
    return [
        {"margins": kind, "seed": seed, "set": name, "severity_gap": gap, "harmful": gap is not None,
         "chosen_score": share, "rejected_score": 0.5}
        for share, (name, gap) in zip(right, PAIRS, strict=True)
    ]  # fmt: skip


NONE = [*scores("none", 0, 1, 0, 0, 0), *scores("none", 1, 1, 1, 0.5, 0)]
LEGEND = [*scores("legend", 0, 1, 1, 0, 0), *scores("legend", 1, 1, 1, 1, 0.5)]


def means(summaries: dict) -> dict[str, float]:
    return {name: summary["mean"] for name, summary in summaries.items()}


def test_accuracy_by_gap_and_set_and_the_gain_by_hand():
    """Without margins 1 and 2.5 of 4 pairs, with Legend's 2 and 3.5: gains of a quarter with both seeds."""
    report = reward_models(NONE + LEGEND)
    none, legend = report["none"], report["legend"]
    assert none["accuracy"]["per_seed"] == [1 / 4, 2.5 / 4] and legend["accuracy"]["per_seed"] == [2 / 4, 3.5 / 4]
    assert none["accuracy_small_gap"]["per_seed"] == [1 / 2, 1.5 / 2]
    assert means(none["by_gap"]) == {"gap 1": 0.625, "gap 2": 0.5, "harmless prompts": 0}, "no pair has gap 3"
    assert means(legend["by_set"]) == {"same": 1, "objects": 0.375}
    assert report["gain"] == {"none": {"mean": 0.25, "ci95": [0.25, 0.25], "per_seed": [0.25, 0.25]}}
    assert report["gain_small_gap"]["none"]["per_seed"] == [0, 0.25]


def test_what_is_not_known_is_in_no_group():
    unknown = [{**row, "severity_gap": None, "harmful": None} for row in NONE]
    report = reward_models(unknown)
    assert list(report) == ["none"] and report["none"]["by_gap"] == {} and "accuracy_small_gap" not in report["none"]


def lines(report: dict) -> list[str]:
    text = as_text(reward_tables(report))
    return [" ".join(line.split()) for line in text.splitlines() if line.strip() and "─" not in line]


def test_the_table_of_two_kinds_has_their_difference():
    one_seed = [row for row in NONE + LEGEND if row["seed"] == 1]
    assert lines(reward_models(one_seed)) == [
        "unseen pairs ranked right margins: none margins: legend gain",
        "all pairs 62.5 87.5 +25.0",
        "same 100.0 100.0 +0.0",
        "objects 25.0 75.0 +50.0",
        "severity gap 1 75.0 100.0 +25.0",
        "severity gap 2 100.0 100.0 +0.0",
        "harmless prompts 0.0 50.0 +50.0",
    ]


def test_with_more_kinds_there_is_a_table_of_gains():
    one_seed = [row for row in NONE + LEGEND if row["seed"] == 1] + scores("constant", 1, 1, 0, 0, 0)
    shown = lines(reward_models(one_seed))
    assert shown[0].endswith("margins: constant"), "their gains have a table of their own"
    assert shown[7:] == [
        "gain of Legend's margins all pairs severity gap 1",
        "over none +25.0 +25.0",
        "over constant margins +62.5 +50.0",
    ]


@pytest.mark.parametrize("kind", ["none", "legend"])
def test_one_kind_alone_has_no_gain(kind):
    report = reward_models([row for row in NONE + LEGEND if row["margins"] == kind])
    assert set(report) == {kind} and lines(report)[0] == f"unseen pairs ranked right margins: {kind}"
