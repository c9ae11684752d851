"""Pairs ranked right and the gain of margins, counted by hand."""

import pytest

from alignment.reports.reward_models import by_group, reward_models, reward_tables
from alignment.reports.tables import as_text

PAIRS = (  # set, severity gap (None: of a harmless prompt)
    ("same", 1), ("same", 2), ("objects", 1), ("objects", None),
)  # fmt: skip


def scores(kind: str, seed: int, *right: float) -> list[dict]:
    """right: 1 where the chosen answer has the higher score, 0 where it has the lower one, 1/2 where they tie."""
    return [
        {"margins": kind, "seed": seed, "set": name, "severity_gap": gap, "harmful": gap is not None,
         "prompt_hash": i, "chosen_score": share, "rejected_score": 0.5}
        for i, (share, (name, gap)) in enumerate(zip(right, PAIRS, strict=True))
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
    gain = report["gain"]["none"]
    assert gain["all pairs"] == {"mean": 0.25, "ci95": [None, None], "n": 4, "per_seed": [0.25, 0.25]}
    assert gain["severity gap 1"]["per_seed"] == [0, 0.25] and gain["severity gap 1"]["n"] == 2


def test_what_is_not_known_is_in_no_group():
    unknown = [{**row, "severity_gap": None, "harmful": None} for row in NONE]
    report = reward_models(unknown)
    assert list(report) == ["none"] and report["none"]["by_gap"] == {} and "accuracy_small_gap" not in report["none"]


def lines(report: dict) -> list[str]:
    text = as_text(reward_tables(report))
    return [" ".join(line.split()) for line in text.splitlines() if line.strip() and "─" not in line]


def test_the_table_of_two_kinds_has_their_difference():
    one_seed = [row for row in NONE + LEGEND if row["seed"] == 1]
    shown = lines(reward_models(one_seed))
    assert " ".join(shown[7:]).startswith("95% intervals over pairs, of one seed; * fewer than 30")
    assert shown[:7] == [
        "unseen pairs ranked right, % pairs margins: none margins: legend gain",
        "all pairs 4* 62.5 [21.9, 90.8] 87.5 [39.6, 98.7] +25.0 [0.0, 50.0]",
        "same 2* 100.0 [34.2, 100.0] 100.0 [34.2, 100.0] 0.0 [-65.8, 65.8]",
        "objects 2* 25.0 [2.7, 80.2] 75.0 [19.8, 97.3] +50.0 [-48.6, 82.9]",
        "severity gap 1 2* 75.0 [19.8, 97.3] 100.0 [34.2, 100.0] +25.0 [0.0, 50.0]",
        "severity gap 2 1* 100.0 100.0 0.0",
        "harmless prompts 1* 0.0 50.0 +50.0",
    ]


def test_a_set_that_is_all_pairs_is_shown_once():
    """Own data has one set, its held-out pairs."""
    own = [
        {**row, "set": "heldout", "severity_gap": None, "harmful": None} for row in NONE + LEGEND if row["seed"] == 1
    ]
    shown = lines(reward_models(own))
    assert shown[1].startswith("all pairs 4*") and "heldout" not in "".join(shown)


def test_the_easiest_set_comes_first():
    """A report.json is sorted by name."""
    of_legend = reward_models(LEGEND)["legend"]
    of_legend["by_set"] = dict(sorted(of_legend["by_set"].items()))
    assert list(by_group(of_legend))[:3] == ["all pairs", "same", "objects"]


def test_pairs_of_one_prompt_are_drawn_together():
    alike = [{**row, "prompt_hash": 7} for row in NONE if row["seed"] == 1]
    assert reward_models(alike)["none"]["accuracy"]["ci95"] == [None, None], "four pairs of one prompt"


def test_with_more_kinds_there_is_a_table_of_gains():
    one_seed = [row for row in NONE + LEGEND if row["seed"] == 1] + scores("constant", 1, 1, 0, 0, 0)
    shown = lines(reward_models(one_seed))
    assert shown[0].endswith("margins: constant"), "their gains have a table of their own"
    assert shown[9:12] == [
        "gain of Legend's margins, points all pairs severity gap 1",
        "over none +25.0 [0.0, 50.0] +25.0 [0.0, 50.0]",
        "over constant margins +62.5 [25.0, 100.0] +50.0 [0.0, 100.0]",
    ]
    assert shown[12] == "over none, points all pairs severity gap 1" and shown[14].startswith("margins: constant -37.5")
    assert shown[15:] == [
        "over constant margins, points all pairs severity gap 1",
        "margins: legend +62.5 [25.0, 100.0] +50.0 [0.0, 100.0]",
    ]


@pytest.mark.parametrize("kind", ["none", "legend"])
def test_one_kind_alone_has_no_gain(kind):
    report = reward_models([row for row in NONE + LEGEND if row["margins"] == kind])
    assert set(report) == {kind} and lines(report)[0] == f"unseen pairs ranked right, % pairs margins: {kind}"


def of_set(name: str, rows: list[dict]) -> list[dict]:
    return [{**row, "set": name, "severity_gap": None, "harmful": None, "prompt_hash": i} for i, row in enumerate(rows)]


def test_pairs_of_other_sets_are_apart_and_compared_by_the_seeds_that_both_have():
    """Held-out pairs 1/4 against 2/4; of the other set 2/4 against 1/4. Random margins have seed 0 alone."""
    rows: list[dict] = []
    for kind, seed, home, other in (
        ("none", 0, (1.0, 0.0, 0.0, 0.0), (1.0, 1.0, 0.0, 0.0)),
        ("none", 1, (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 1.0)),
        ("legend", 0, (1.0, 1.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0)),
        ("legend", 1, (0.0, 1.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0)),
        ("random", 0, (1.0, 1.0, 1.0, 0.0), (0.0, 0.0, 0.0, 0.0)),
    ):  # fmt: skip
        rows += of_set("heldout", scores(kind, seed, *home)) + of_set("hh_harmless", scores(kind, seed, *other))
    report = reward_models(rows)
    assert report["none"]["accuracy"]["per_seed"] == [0.25, 0.25] and report["none"]["accuracy"]["n"] == 4
    assert report["none"]["transfer"]["hh_harmless"]["per_seed"] == [0.5, 0.5] and report["none"]["by_set"] == {}
    over = report["over"]["none"]
    assert means(over["legend"]) == {"all pairs": 0.25, "transfer to hh_harmless": -0.25}
    assert over["random"]["all pairs"]["per_seed"] == [0.5], "by one seed"
    assert report["gain"]["random"]["transfer to hh_harmless"]["per_seed"] == [0.25]
    assert list(by_group(report["legend"])) == ["all pairs", "transfer to hh_harmless"]
    shown = lines(report)
    assert any(line.startswith("transfer to hh_harmless 4* 50.0") for line in shown)
    assert any(line.startswith("over none, points all pairs transfer to hh_harmless") for line in shown)
