"""The best of n samples on prompts of any data: by hand, one subset at a time."""

import itertools

import numpy as np
import pytest

from alignment.evaluation.answers import Asked
from alignment.evaluation.picks import harm_scores, picked_by, rates_of_picks, scores_of_picks
from alignment.evaluation.vocabulary import RANDOM
from alignment.judges.verdicts import Verdict
from alignment.sampling.candidates import Scored, length_scores
from alignment.sampling.generate import Sample

ASKED = [Asked("mine", "a", "A?", True), Asked("mine", "b", "B?", False), Asked("heldout", "c", "C?", None)]
SAMPLES = [
    [Sample("one", True), Sample("one two", True), Sample("one two three", True)],
    [Sample("one two three four", True), Sample("one", True), Sample("", True)],
    [Sample("one two", True), Sample("one", False), Sample("one two three", True)],
]
NO, YES = Verdict(None, "none"), Verdict(None, "full")
REFUSALS = {"refusal": [[YES, NO, NO], [NO, YES, NO], [YES, YES, NO]]}
LENGTHS = {name: Scored(length_scores(SAMPLES, sign), []) for name, sign in (("shortest", -1), ("longest", 1))}
ORDER = {name: picked_by(SAMPLES, scored, unfinished=False) for name, scored in LENGTHS.items()}


def found(verdicts=REFUSALS, says=("refusal",), order=ORDER, records=None) -> dict[tuple, dict]:
    said = dict.fromkeys(verdicts, says)
    figures = rates_of_picks(ASKED, SAMPLES, verdicts, said, order, [1, 2, 3], records or {})
    return {tuple(one[key] for key in ("set", "asks", "metric", "scorer", "n")): one for one in figures}


def test_what_prompts_ask_for_is_told_apart_and_each_rate_is_the_mean_over_subsets():
    figures = found()
    value = {key: one["value"] for key, one in figures.items()}
    assert value["mine", "harmful", "refusal_rate", RANDOM, 1] == pytest.approx(1 / 3)
    assert value["mine", "harmful", "refusal_rate", "shortest", 2] == pytest.approx(2 / 3), "two of three pairs have it"
    assert value["mine", "harmful", "refusal_rate", "longest", 3] == 0
    assert value["mine", "harmless", "over_refusal", "shortest", 3] == 1, "an empty answer is picked last"
    assert value["heldout", "unknown", "unknown_refusal_rate", "shortest", 3] == 1, "one that was cut off is not picked"
    assert value["heldout", "unknown", "words", "longest", 3] == 3
    assert figures["mine", "harmful", "refusal_rate", "longest", 3]["change"] == pytest.approx(-1 / 3)
    assert {key[2] for key in value if key[1] == "harmful"} == {"refusal_rate", "unparsed", "words", "unfinished"}


def test_an_answer_nobody_could_judge_is_left_out_and_a_prompt_without_any_verdict_too():
    unread = Verdict(None, None, unparsed=True)
    figures = found({"refusal": [[unread, YES, NO], [unread] * 3, [NO] * 3]})
    one = figures["mine", "harmful", "refusal_rate", "shortest", 2]
    assert (
        one["value"] == pytest.approx(1.0) and one["prompts"] == 1
    )  # of the pairs with a verdict, the shorter refuses
    assert figures["mine", "harmless", "over_refusal", "shortest", 3] == {
        **{"set": "mine", "asks": "harmless", "metric": "over_refusal", "judge": "refusal", "scorer": "shortest"},
        **{"n": 3, "value": None, "interval": [None, None], "change": None, "change_interval": [None, None]},
        "prompts": 0,
    }


def test_scorers_say_what_they_think_of_each_others_picks():
    """Against every subset; lengths are no rater, and a prompt that the rater can't read whole is left out."""
    random = np.random.default_rng(0)
    ratings = [random.normal(size=3) for _ in SAMPLES]
    ratings[1][2] = np.nan
    scored = {"hybrid": Scored(ratings, []), **LENGTHS}
    order = {name: picked_by(SAMPLES, one, unfinished=True) for name, one in scored.items()}
    figures = {(one["scored_by"], one["picked_by"]): one for one in scores_of_picks(order, scored, 2)}
    assert {scorer for scorer, _ in figures} == {"hybrid"} and len(figures) == 4
    pairs = list(itertools.combinations(range(3), 2))
    slow = {
        picker: np.mean([np.mean([ratings[i][max(pair, key=lambda j: order[picker][i][j])] for pair in pairs])
                         for i in (0, 2)])
        for picker in order
    }  # fmt: skip
    for picker, expected in slow.items():
        assert figures["hybrid", picker]["value"] == pytest.approx(expected)
        assert figures["hybrid", picker]["prompts"] == 2
    blind = np.mean([ratings[0].mean(), ratings[2].mean()])
    assert figures["hybrid", RANDOM]["value"] == pytest.approx(blind) and figures["hybrid", RANDOM]["change"] == 0
    assert figures["hybrid", "hybrid"]["change"] == pytest.approx(slow["hybrid"] - blind) and slow["hybrid"] > blind


def test_a_judge_of_harm_picks_by_its_probability_or_else_by_its_word():
    verdicts = [
        Verdict(True, None, score=0.75),
        Verdict(False, None, score=0.25),
        Verdict(True, None),
        Verdict(None, "none"),
    ]
    (scores,) = harm_scores([verdicts])
    np.testing.assert_array_equal(scores, [-0.75, -0.25, -1.0, np.nan])


def test_rates_and_changes_are_corrected_for_the_judges_errors():
    """Eight of ten found, nine of ten cleared: of 2/3 of the verdicts (2/3 - 0.1) / 0.7, of a change 1/0.7 as much."""
    by_prompt = [[80, 1, 1, 0, 0], [20, 1, 0, 0, 0], [90, 0, 0, 1, 1], [10, 0, 0, 1, 0]]
    records = {"refusal": {"health": {"rows": 200, "refusal": {"errors": {"by_prompt": by_prompt, "why_not": None}}}}}
    one = found(records=records)["mine", "harmful", "refusal_rate", "shortest", 2]
    assert one["corrected"]["value"] == pytest.approx((2 / 3 - 0.1) / 0.7) and one["value"] == pytest.approx(2 / 3)
    assert one["corrected"]["change"] == pytest.approx(one["change"] / 0.7)
    rates = {key[2] for key, figure in found(records=records).items() if "corrected" in figure}
    assert rates == {"refusal_rate", "over_refusal", "unknown_refusal_rate"}, "words and unread verdicts need none"
    assert not any("corrected" in figure for figure in found().values())


def test_what_a_judge_picked_itself_is_not_corrected_for_its_errors():
    harm = [[Verdict(flag, None, score=float(flag)) for flag in flags] for flags in ([True, False, True],) * 3]
    table = {"by_prompt": [[90, 1, 1, 0, 0], [10, 1, 0, 0, 0], [100, 0, 0, 1, 1]], "why_not": None}
    records = {"guard": {"health": {"toxic": {"errors": table}}}}
    order = {**ORDER, "judge": picked_by(SAMPLES, Scored(harm_scores(harm), []), unfinished=False)}
    figures = found({"guard": harm}, ("toxic",), order, records)
    picked, other = (
        figures["mine", "harmful", "toxic_rate", scorer, 2]["corrected"] for scorer in ("judge", "longest")
    )
    assert picked["value"] is None is picked["change"] and picked["why_not"].startswith(
        "it picked these answers itself"
    )
    assert other["value"] == pytest.approx(figures["mine", "harmful", "toxic_rate", "longest", 2]["value"] / 0.9)
