"""The benchmark of usefulness: kinds of answers that differ in one thing, and how they are compared."""

import json

import pytest

from alignment.evaluation.answer_limits import MOST_LOG_PERPLEXITY, MOST_REPETITION, ON_TOPIC
from alignment.evaluation.usefulness import VALIDITY, is_useful
from alignment.sampling.generate import Sample
from benchmarks import useful_answers
from benchmarks.useful_answers import compared, first_quarter, moved
from tests.conftest import REPOSITORY


def row(number: int, **parts) -> dict:
    whole = {"on_topic": 9.0, "log_perplexity": 1.0, "repetition": 0.0, "words": 9, "refused": False, **parts}
    return {"id": str(number), **whole, "useful": is_useful(whole)}


def test_a_moved_answer_stands_behind_another_prompt():
    answers = [(f"p{i}", f"prompt {i}", Sample(f"answer {i}", True)) for i in range(40)]
    found = moved(answers)
    assert [one[:2] for one in found] == [one[:2] for one in answers]
    assert all(int(one[2].text.split()[1]) != i for i, one in enumerate(found))
    assert sorted(one[2].text for one in found) == sorted(one[2].text for one in answers)


def test_a_cut_answer_ends_after_a_quarter_of_its_words():
    answers = [("p", "prompt", Sample("a b c d e f g h", False)), ("q", "prompt", Sample("a", True))]
    assert [sample for *_, sample in first_quarter(answers)] == [Sample("a b", True), Sample("a", True)]


def test_two_kinds_of_answers_are_told_apart_by_what_they_differ_in():
    good, bad = [row(i) for i in range(20)], [row(i, on_topic=-1.0 - i) for i in range(20)]
    found = compared(good, bad)
    assert found["auroc"]["on_topic"]["mean"] == found["auroc"]["useful"]["mean"] == 1
    assert found["auroc"]["words"]["mean"] == found["auroc"]["refused"]["mean"] == 0.5
    assert found["useful"] == {"positive": 1, "negative": 0} and found["n"] == [20, 20]
    half = compared(good, bad[:10] + good[10:])
    low, high = half["auroc"]["on_topic"]["ci95"]
    assert half["auroc"]["on_topic"]["mean"] == pytest.approx(0.75) and low < 0.75 < high


def test_the_documented_figures_are_those_of_the_report():
    report = json.loads((REPOSITORY / "docs/reports/useful_answers.json").read_text())
    page = (REPOSITORY / "docs/usefulness.md").read_text()
    assert set(report) == {f"{one} over {other}" for one, other in useful_answers.COMPARED}
    for name, result in report.items():
        for part in useful_answers.SIGNS:
            assert cell(result["auroc"][part]) in page, (name, part)
    for name in ("alpaca_7b over alpaca_7b moved", "xstest over xstest refusals", "own over hot", "alpaca_7b over own"):
        said = f"{cell(report[name]['auroc']['useful'])} (n {sum(report[name]['n'])}"
        assert said in VALIDITY, name
    limits = f"`on_topic` above {ON_TOPIC:g}, `log_perplexity` below {MOST_LOG_PERPLEXITY:g}"
    assert f"{limits}, `repetition` at most {MOST_REPETITION:g}" in page


def cell(figure: dict) -> str:
    low, high = figure["ci95"]
    return f"{figure['mean']:.2f}" if low is None else f"{figure['mean']:.2f} [{low:.2f}, {high:.2f}]"
