"""Answers that were cut off: where their last whole sentence ends, and what a pilot of them decides."""

import pytest

from alignment.sampling.candidates import Question
from alignment.sampling.cut_off import (
    PILOT,
    answer_after_pilot,
    as_used,
    cut_share,
    sample_after_pilot,
    whole_sentences,
)
from alignment.sampling.generate import Sample
from alignment.types import UserError

LIMIT = "model.answer_tokens=8"


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("Mix it. Bake it. Then ser", "Mix it. Bake it."),
        ('He said "no." Then', 'He said "no."'),
        ("Is it? Yes! And", "Is it? Yes!"),
        ("Steps:\n1. Mix.\n2. Ba", "Steps:\n1. Mix."),
        ("Take tools, e.g. a pick", ""),
        ("Ask Dr. No", ""),
        ("Sorry, I can't. Try something else fir", "Sorry, I can't."),
        ("It is 3.14 or 3.", ""),
        ("In 2020. The", "In 2020."),
        ("Wait... the", "Wait..."),
        ("好的。我", "好的。"),
        ("**Never.** But", "**Never.**"),
        ("see example.com for", ""),
        ("All of it.", "All of it."),
        ("", ""),
    ],
)
def test_a_text_ends_with_its_last_whole_sentence(text, whole):
    assert whole_sentences(text) == whole


def test_only_what_was_cut_off_is_cut_and_only_when_asked():
    samples = [[Sample("Yes. No", False, "thoughts"), Sample("Yes. No", True), Sample("no end", False)]]
    assert as_used(samples, False) == as_used(samples, True) == samples
    assert as_used(samples, "sentence") == [[Sample("Yes.", True, "thoughts"), *samples[0][1:]]]
    assert cut_share(samples) == 2 / 3


def asked(count: int) -> list[Question]:
    return [Question(f"q{i}", [], [i]) for i in range(count)]


class Model:
    """Answers each question twice; only to the last `whole` questions of what it is asked do its answers end."""

    def __init__(self, whole: int) -> None:
        self.whole, self.folders = whole, {}

    def __call__(self, questions, folder: str) -> list[list[Sample]]:
        self.folders[folder] = [question.id for question in questions]
        cut = len(questions) - self.whole
        return [[Sample(f"{one.id}. {k}", i >= cut) for k in range(2)] for i, one in enumerate(questions)]


def test_few_prompts_have_no_pilot():
    model = Model(0)
    assert len(sample_after_pilot(model, asked(2 * PILOT), LIMIT, False, print)) == 2 * PILOT
    assert list(model.folders) == ["samples"]


def test_a_pilot_is_a_part_of_the_samples_and_says_what_it_found(capsys):
    model = Model(8)
    samples = sample_after_pilot(model, asked(100), LIMIT, False, print)
    assert [own[0].text.partition(".")[0] for own in samples] == [f"q{i}" for i in range(100)]
    assert len(model.folders["pilot"]) == PILOT and len(model.folders["samples"]) == 100 - PILOT
    assert not set(model.folders["pilot"]) & set(model.folders["samples"])
    assert model.folders["pilot"][::5] == ["q0", "q31", "q62", "q93"]
    said = capsys.readouterr().out
    assert (
        "50.0% [25, 75] of their answers are cut off (model.answer_tokens=8), two can be used of 8 prompts; raise"
        in said
    )
    assert "raise model.answer_tokens, or set build_pairs.unfinished=sentence" in said


def test_too_few_whole_answers_end_it_before_the_rest_is_sampled():
    model = Model(7)
    with pytest.raises(
        UserError, match=r"56.2% \[31, 81\] of their answers are cut off .* of 7 prompts; raise model.answer_to"
    ):
        sample_after_pilot(model, asked(100), LIMIT, False, print)
    assert list(model.folders) == ["pilot"]
    for unfinished in (True, "sentence"):
        assert len(sample_after_pilot(Model(7), asked(100), LIMIT, unfinished, print)) == 100


def test_answers_that_all_end_are_no_reason(capsys):
    def empty(questions, folder):
        return [[Sample("", True)] * 2 for _ in questions]

    assert len(sample_after_pilot(empty, asked(100), LIMIT, False, print)) == 100
    assert "unfinished" not in capsys.readouterr().out


def test_answers_to_be_judged_are_told_of_while_most_are_still_to_be_sampled(capsys):
    """One answer each: Wilson's interval of 8 in 16. Few that are cut off are no word worth."""
    for whole, says in ((8, True), (12, False)):
        model = Model(whole)
        found = answer_after_pilot(model, asked(100), "sampling.max_new_tokens=8", print, "answers of dpo")
        assert [own[0].text.partition(".")[0] for own in found] == [f"q{i}" for i in range(100)]
        assert list(model.folders) == ["pilot", "samples"] and len(model.folders["samples"]) == 100 - PILOT
        said = capsys.readouterr().out
        line = "answers of dpo: 16 prompts tried first: 50.0% [25, 75] of their answers are cut off"
        assert (line in said) is says and ("and judged as they are; raise sampling.max_new_tokens\n" in said) is says
