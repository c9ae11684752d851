"""Bars in a file are lines; lines that are the same for all of a run are said once."""

import io
import sys

import pytest

from alignment.runs import bars
from alignment.runs.once import _Once


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def drawn(monkeypatch, stream: io.StringIO, seconds: float, **more) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(bars, "SECONDS", seconds)
    for _ in bars.bar(range(3), "answers of cdpo_star, seed 0", 3, "batch", **more):
        pass
    return stream.getvalue()


def test_a_file_gets_lines_without_carriage_returns_that_name_what_they_are_of(monkeypatch):
    text = drawn(monkeypatch, io.StringIO(), 0)
    assert "\r" not in text and "\x1b" not in text and not any(not line.strip() for line in text.splitlines())
    assert text.splitlines()[-1].startswith("answers of cdpo_star, seed 0: 100%, 3/3 batch, 00:0")


def test_what_is_quick_has_no_line_and_a_terminal_has_a_bar(monkeypatch):
    assert drawn(monkeypatch, io.StringIO(), 30) == "" == drawn(monkeypatch, io.StringIO(), 0, disable=True)
    assert "\ranswers of cdpo_star, seed 0:" in drawn(monkeypatch, Terminal(), 30)


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_parts_of_a_training_count_and_so_does_what_was_done_before(monkeypatch, stream):
    shown = stream()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setattr(bars, "SECONDS", 0)
    with bars.bar(None, "policies", 4, "policy", fractions=True, done=1) as bar:
        bar.update(1.5)
        bar.refresh()
    assert "2.5/4" in shown.getvalue()


def test_a_run_says_a_line_once_and_a_trainer_alone_says_all():
    once = _Once()
    assert once.first("rows") and once.first("rows"), "no run has begun"
    once.begin()
    assert [once.first(line) for line in ("rows", "rows", "z", "rows")] == [True, False, True, False]
    with once.in_a_run():
        assert once.first("rows") and not once.first("rows"), "of the next run"
    assert once.first("rows"), "it has ended"
