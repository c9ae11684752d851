"""When a policy is called broken, by hand."""

import pytest

from alignment.evaluation.soundness import soundness
from alignment.reports.broken_policies import broken_lines, broken_markdown, soundness_table
from alignment.reports.tables import as_text

LOOP = "so it is what it is what it is what it is"  # 12 words, 9 runs of four of which 5 were there before
FINE = "first open the valve and then close the door"


def answers(system: str, texts: list[str], seed: int = 0) -> list[dict]:
    """Those that end with a dash were cut off."""
    return [
        {"system": system, "seed": seed, "answer": text, "words": len(text.split()), "unfinished": text[-1:] == "-"}
        for text in texts
    ]


def trained(system: str, ratios: list[float | None], seed: int = 0) -> dict:
    history = [{"loss": 0.5}, *({"loss": 0.5, "chosen_log_ratio": ratio} for ratio in ratios)]
    return {"system": system, "seed": seed, "history": history}


def broken(rows: list[dict]) -> list[list[str]]:
    return [[one["reason"] for one in row["broken"]] for row in rows]


def test_shares_are_counted_and_held_against_the_first_system():
    """Of ten answers of the base one repeats itself: up to 3 in ten are allowed, and up to 2 empty ones."""
    base = answers("base", [LOOP] + [FINE] * 9)
    few = answers("few", [LOOP] * 3 + [" "] * 2 + [FINE] * 5)
    many = answers("many", [LOOP] * 4 + [FINE] * 3 + [""] * 3)
    rows = soundness([*many, *base, *few], [], [], ["base", "few", "many"])
    assert [row["system"] for row in rows] == ["base", "few", "many"]
    assert broken(rows) == [[], [], ["empty", "repeating"]]
    assert rows[2]["repeating"] == 0.4 and rows[2]["empty"] == 0.3 and rows[0]["odd"] is None
    assert rows[2]["broken"][1] == {"reason": "repeating", "value": 0.4, "limit": pytest.approx(0.3)}
    assert rows[0]["repetition"] == pytest.approx(5 / 9 / 10) and rows[0]["words"] == pytest.approx((12 + 9 * 9) / 10)


def test_answers_that_never_end_break_a_policy():
    """Of ten answers of the base two were cut off: up to four are allowed."""
    cut = {name: answers(name, ["and -"] * n + [FINE] * (10 - n)) for name, n in (("base", 2), ("few", 4), ("many", 5))}
    rows = soundness([row for own in cut.values() for row in own], [], [], list(cut))
    assert broken(rows) == [[], [], ["unfinished"]] and rows[2]["unfinished"] == 0.5


def test_answers_that_the_untouched_model_finds_odd_break_a_policy():
    """5 nats a token or more; what it can't read counts nowhere."""
    every = [*answers("before", [FINE] * 4), *answers("after", [FINE] * 4)]
    nats = {"before": [1.0, 2.0, 5.0, 1.0], "after": [5.0, 6.0, 1.0, None]}
    useful = [{"system": name, "seed": 0, "log_perplexity": one} for name, own in nats.items() for one in own]
    before, after = soundness(every, useful, [], ["before", "after"])
    assert before["odd"] == 0.25 and after["odd"] == pytest.approx(2 / 3)
    assert broken([before, after]) == [[], ["odd"]]


def test_a_training_that_took_the_chosen_answers_away_broke_its_policy():
    """By the last five logs: the sixth from the end was worse."""
    every = [*answers("base", [FINE]), *answers("dpo", [FINE], 0), *answers("dpo", [FINE], 1)]
    histories = [trained("dpo", [-9.0, -1.0, -0.9, -0.9, -0.9, -0.9], 0), trained("dpo", [None, -1.5, -0.6], 1)]
    rows = soundness(every, [], histories, ["base", "dpo"])
    assert [row["chosen_log_ratio"] for row in rows] == [None, pytest.approx(-0.92), pytest.approx(-1.05)]
    assert broken(rows) == [[], [], ["displaced"]]
    assert soundness(every, [], [trained("dpo", [])], ["base", "dpo"])[1]["chosen_log_ratio"] is None


def test_reports_name_the_broken_policy_and_why():
    every = [*answers("base", [FINE] * 2), *answers("dpo", [LOOP, ""], 0), *answers("dpo", [FINE] * 2, 1)]
    rows = soundness(every, [], [trained("dpo", [-2.0], 0)], ["base", "dpo"])
    line = (
        "BROKEN: dpo, seed 0: 50% of its answers are empty (more than 20%); 50% of its answers repeat themselves (more "
        "than 20%); the answers it was to learn lost 2.0 nats a token (more than 1.0)"
    )
    assert broken_lines(rows) == [line]
    assert broken_markdown(rows)[0] == f"**{line}.**"
    table = " ".join(as_text([soundness_table(rows)]).split())
    assert (
        "dpo 4 7.5 13.9 25.0 0.0 25.0 -2.00" in table and "BROKEN: dpo, seed 0: 50% of its answers are empty" in table
    )
