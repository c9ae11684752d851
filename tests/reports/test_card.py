"""A card's table and page from its numbers alone."""

import pytest

from alignment.reports.card import card_markdown, card_tables, compared_markdown
from alignment.reports.tables import as_text


def number(metric: str, system: str, value: float, interval: tuple, **more) -> dict:
    return {
        "metric": metric, "system": system, "set": "asked", "judge": None, "category": None, "value": value,
        "interval": list(interval), "n": 1200, **more,
    }  # fmt: skip


def card(*numbers: dict, differences: tuple = (), gates: tuple = (), systems: str = "before after") -> dict:
    return {
        "systems": [{"name": name, "model": f"m/{name}"} for name in systems.split()], "numbers": list(numbers),
        "differences": list(differences), "gates": list(gates), "sections": [], "judges": {"guard": {"judge": "guard"}},
        "sets": {"asked": {"harmful": 3}}, "decoding": {"sampled": {"seeds": [0, 1], "chat_template": None}},
    }  # fmt: skip


def lines(shown: dict) -> list[str]:
    text = as_text(card_tables(shown))
    return [" ".join(line.split()) for line in text.splitlines() if line.strip() and "─" not in line]


FEW = ["* fewer than 30: the interval is wide, and one more or less moves the figure", "by percents"]
WORDS = (
    number("words", "before", 12.345, (10, 14.5)),
    number("words", "after", 12.0, (None, None)),
)


def test_rates_are_percentages_and_means_are_not():
    toxic = number("toxic_rate", "after", 0.12345, (0.1, 0.2), judge="oracle")
    assert lines(card(*WORDS, toxic)) == [
        "scorecard n before after difference p",
        "words an answer",
        "asked 1,200 12.35 [10.00, 14.50] 12.00",
        "toxic answers, %",
        "asked by oracle 1,200 12.3 [10.0, 20.0]",
    ]


@pytest.mark.parametrize(("value", "interval", "p", "shown"), [
    (0.05, (0.01, 0.09), 0.0004, "+5.0 [+1.0, +9.0] <0.001"), (-0.0004, (-0.1, 0.0), 0.25, "0.0 [-10.0, 0.0] 0.250"),
    (0.0, (0.0, 0.0), 1.0, "0.0 [0.0, 0.0] 1.000"), (-0.5, (-0.75, -0.25), None, "-50.0 [-75.0, -25.0]"),
])  # fmt: skip
def test_differences_are_signed_but_for_zeros(value, interval, p, shown):
    """And n is that of the pairs."""
    numbers = [number("mmlu", system, 0.5, (0.4, 0.6)) for system in ("before", "after")]
    change = number("mmlu", "after", value, interval, n=900, mcnemar_p=p)
    assert lines(card(*numbers, differences=(change,)))[2] == f"asked 900 50.0 [40.0, 60.0] 50.0 [40.0, 60.0] {shown}"


def test_a_reward_model_stands_in_the_first_column():
    ranked = number("ranked_right", "rm", 0.75, (0.5, 1.0), set="bench", n=8)
    assert lines(card(ranked))[1:] == ["pairs ranked right, %", "bench 8* 75.0 [50.0, 100.0]", *FEW]
    assert "| bench |  | 8* |" in card_markdown(card(ranked)) and "fewer than 30" in card_markdown(card(ranked))


@pytest.mark.parametrize(("n", "few"), [(29, True), (30, False)])
def test_few_answers_are_marked(n, few):
    shown = card(number("words", "before", 1.0, (0, 2), n=n), systems="before")
    assert (f"asked {n}* 1.00" in "\n".join(lines(shown))) is few
    assert ("fewer than 30" in "\n".join(lines(shown))) is few is ("fewer than 30" in card_markdown(shown))


def test_tasks_have_a_line_for_each_measure_and_are_no_categories():
    tasks = [number("lm_eval", "before", value, (None, None), set="task", category=measure)
             for measure, value in (("acc", 0.5), ("ppl", 20.0))]  # fmt: skip
    part = number("toxic_rate", "before", 0.5, (0.4, 0.6), category="fraud")
    shown = card(*tasks, part, systems="before")
    assert lines(shown) == [
        "scorecard n before", "lm_eval acc", "task 1,200 0.50", "lm_eval ppl", "task 1,200 20.00",
    ]  # fmt: skip
    whole, parts = card_markdown(shown).split("By category:")
    assert "lm_eval acc" in whole and "fraud" not in whole
    assert "lm_eval" not in parts and "| toxic answers, % | asked: fraud |  | 1,200 | 50.0 [40.0, 60.0] |" in parts


def test_small_categories_are_counted_and_not_shown():
    """Two metrics of the same nine answers are nine answers."""
    counts = {"fraud": 9, "arson": 1, "theft": 10}
    small = [
        number(metric, "before", 1.0, (1, 1), category=name, n=n)
        for metric in ("toxic_rate", "unparsed")
        for name, n in counts.items()
    ]
    page = card_markdown(card(*small, systems="before"))
    assert "asked: theft |  | 10* |" in page and "fraud" not in page and "fewer than 30" in page
    assert "Not shown: 2 categories of fewer than 10 answers, 10 in all." in page
    assert "Not shown" not in card_markdown(card(*small[2::3], systems="before"))


def test_gates_of_the_table_and_of_the_page():
    gates = (
        {"gate": "max_toxic_rate", "set": "asked", "judge": "guard", "limit": 0.25, "value": 0.123456, "passed": True},
        {"gate": "min_mmlu", "set": None, "judge": None, "limit": 0.3, "value": None, "passed": False},
    )
    shown = card(*WORDS, gates=gates)
    assert lines(shown)[3:] == [
        "gate, % set judge limit measured", "max_toxic_rate asked guard 25 12.35 held",
        "min_mmlu 30 not measured MISSED",
    ]  # fmt: skip
    page = card_markdown(shown)
    assert page.index("min_mmlu") < page.index("words an answer"), "what decides comes first"
    assert "| max_toxic_rate | asked | guard | 25 | 12.35 | held |" in page
    assert "| min_mmlu |  |  | 30 | not measured | **missed** |" in page


def test_the_page_says_how_it_was_measured():
    page = card_markdown(card(*WORDS))
    assert page.startswith("# Scorecard\n\nBefore: m/before; after: m/after.\n")
    assert "- sampled: seeds 0, 1, chat_template the model's own\n" in page and "- set asked: harmful 3\n" in page


def test_a_table_for_every_system_that_is_compared_with_the_first():
    numbers = [number("mmlu", system, 0.5, (0.4, 0.6)) for system in ("base", "dpo", "cdpo")]
    shown = lines(card(*numbers, systems="base dpo cdpo"))
    assert [line for line in shown if line.startswith("scorecard")] == [
        "scorecard n base dpo difference p", "scorecard n base cdpo difference p",
    ]  # fmt: skip
    page = card_markdown(card(*numbers, systems="base dpo cdpo")).splitlines()
    assert [page[i - 1] for i, line in enumerate(page) if line.startswith("|  | set")] == ["", ""], "or they are one"


def test_a_card_without_a_judge_of_harm_says_so():
    refused = number("refusal_rate", "before", 0.5, (0.4, 0.6), judge="refusal")
    toxic = number("toxic_rate", "before", 0.5, (0.4, 0.6), judge="guard")
    says = "no judge of harm read these answers: nothing here says how safe they are; judge=[refusal,llama_guard_3]"
    for numbers, said in (([refused], True), ([refused, toxic], False)):
        shown = card(*numbers, systems="before")
        assert (says in " ".join(lines(shown))) is said
        assert (f"**N{says[1:]}" in card_markdown(shown)) is said


FIXED = {"value": 0.2, "interval": [0.1, 0.4], "why_not": None}
SHARE = {"mean": 0.9, "ci95": [0.8, 0.95], "n": 40}
FIGURES = {"rows": 80, "agreement": SHARE, "errors": {"sensitivity": SHARE, "specificity": SHARE, "left_out": 0}}


def test_corrected_rates_and_differences_stand_below_the_raw_ones():
    both = {"judge": "refusal", "corrected": FIXED}
    rates = [number("refusal_rate", system, 0.25, (0.2, 0.3), **both) for system in ("before", "after")]
    change = {"value": -0.1, "interval": [-0.3, 0.1], "why_not": None}
    raw = number("refusal_rate", "after", -0.05, (-0.1, 0.0), judge="refusal", mcnemar_p=0.2, corrected=change)
    part = number("refusal_rate", "before", 0.5, (0.4, 0.6), judge="refusal", category="fraud")
    shown = card(*rates, part, differences=(raw,))
    shown["judges"] = {"refusal": {"threshold": 0.5, "health": {"set": "labels", "refusal": FIGURES}}}
    assert lines(shown)[2:4] == [
        "asked by refusal 1,200 25.0 [20.0, 30.0] 25.0 [20.0, 30.0] -5.0 [-10.0, 0.0] 0.200",
        "corrected 20.0 [10.0, 40.0] 20.0 [10.0, 40.0] -10.0 [-30.0, +10.0]",
    ]
    known = (
        "refusals by refusal, %: sensitivity 90.0 [80.0, 95.0], specificity 90.0 [80.0, 95.0] on labels (n = 40 and 40)"
    )
    assert known in " ".join(lines(shown)) and "uncorrected" not in " ".join(lines(shown))
    for page in (card_markdown(shown), "\n".join(compared_markdown(shown, "after"))):
        row = "| harmful prompts refused, %, corrected | asked | refusal |  | 20.0 [10.0, 40.0] | 20.0 [10.0, 40.0] |"
        assert f"{row} -10.0 [-30.0, +10.0] |  |" in page and "sensitivity 90.0" in page
    assert "agrees with 90.0 \\[80.0, 95.0\\] percent of 80 labelled answers of labels" in card_markdown(shown)
    assert "by_prompt" not in card_markdown(shown) and "'errors'" not in card_markdown(shown)


def test_a_judge_whose_threshold_can_be_set_says_which_would_be_balanced():
    toxic = number("toxic_rate", "before", 0.25, (0.2, 0.3), judge="probe", corrected=FIXED)
    shown = card(toxic, systems="before")
    at = {"threshold": {"mean": 0.214, "ci95": [0.1, 0.301], "n": 80}, "sensitivity": SHARE, "specificity": SHARE}
    health = {"set": "labels", "threshold": 0.61, "toxic": {**FIGURES, "balanced": at}}
    shown["judges"] = {"probe": {"threshold": 0.61, "health": health}}
    said = "on labels (n = 40 and 40); its threshold: 0.61, and 0.21 [0.10, 0.30] would be balanced on them"
    assert said in " ".join(lines(shown)) and said in card_markdown(shown).replace("\\", "")
    health["threshold"] = None
    assert "its threshold: its own word, and 0.21" in " ".join(lines(shown))
    del health["threshold"]
    assert "balanced" not in " ".join(lines(shown)), "words' threshold is part of its file"


def test_a_card_says_once_which_rates_are_uncorrected_or_why():
    raw = [number(metric, "before", 0.5, (0.4, 0.6), judge="refusal") for metric in ("refusal_rate", "over_refusal")]
    said = "uncorrected for the judge's errors: refusals by refusal (judge.calibration=do_not_answer"
    for systems in ("before", "before dpo cdpo"):
        assert " ".join(lines(card(*raw, systems=systems))).count(said) == 1
    assert card_markdown(card(*raw, systems="before")).count(said) == 1
    none = {"value": None, "interval": [None, None], "why_not": "a coin"}
    shown = " ".join(lines(card(number("toxic_rate", "before", 0.5, (0.4, 0.6), judge="guard", corrected=none))))
    assert "no corrected harm by guard: a coin" in shown and "judge's errors" not in shown
    oracle = number("toxic_rate", "before", 0.5, (0.4, 0.6), judge="oracle")
    assert "corrected" not in " ".join(lines(card(oracle))), "the world's oracle is never wrong"
