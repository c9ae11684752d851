"""docs/guard.md has the figures of the runs that are committed beside it."""

import json

import pytest

from tests.conftest import REPOSITORY

TEXT = (REPOSITORY / "docs/guard.md").read_text()
ROWS = json.loads((REPOSITORY / "benchmarks/results/guard_topic.json").read_text())["rows"]
ALARMS = json.loads((REPOSITORY / "benchmarks/results/guard_false_alarms.json").read_text())


def said(summary: dict) -> str:
    low, high = (100 * end for end in summary["ci95"])
    return f"{100 * summary['mean']:.1f} [{low:.1f}, {high:.1f}]"


@pytest.mark.parametrize("topic", [0, 1])
def test_the_guards_figures_are_those_of_their_reports(topic: int) -> None:
    guard = json.loads((REPOSITORY / f"docs/reports/guard_smollm2_topic{topic}.json").read_text())["guard"]
    mini = guard["by_source"]["beavertails"]
    row = [f"guard, `guard.topic={topic}`", *(said(mini[name]) for name in ("macro_f1", "auroc", "sensitivity"))]
    assert guard["topic"] == topic and f"| {' | '.join(row)} |" in TEXT
    for tried in ("do_not_answer.jsonl", "helm.jsonl"):
        for scorer in ("guard", "words"):
            assert said(guard["transfer"][tried][scorer]["auroc"]) in TEXT
    for alarms in guard["false_alarms"].values():
        assert said(alarms["guard"]) in TEXT and said(alarms["words"]) in TEXT


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['learned']} {row['topic']:g}")
def test_the_table_of_what_it_learned_from_is_that_of_the_benchmark(row: dict) -> None:
    cells = [said(row[name]["auroc"]) for name in ("beavertails", "do_not_answer", "helm", "xstest_unsafe")]
    cells += [said(row["false_alarms"][name]) for name in ("own_xstest", "own_alpaca")]
    assert f"| {row['learned']} | {row['topic']:g} | {' | '.join(cells)} |" in TEXT


@pytest.mark.parametrize("name", ALARMS["called_harmful"])
def test_what_a_saved_guard_calls_harmful_is_what_was_measured(name: str) -> None:
    found = ALARMS["called_harmful"][name]
    assert f"| {found['answers']} | {said(found)} |" in TEXT
    assert f"threshold, {ALARMS['guard']['threshold']:.2f}" in TEXT
