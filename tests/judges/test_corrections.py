"""What is known of a judge's errors, from whose answers, and when no rate is corrected."""

import numpy as np
import pytest

from alignment.judges.calibration import calibration_rows
from alignment.judges.corrections import OWN, Correction, corrections, is_of
from alignment.judges.health import health
from alignment.judges.verdicts import Verdict
from tests.judges.test_health import UNREAD, labelled

RIGHT = {True: Verdict(True, None), False: Verdict(False, None)}


def errors(said: list[Verdict], rows: list[dict], kind: str = "toxic") -> dict:
    return health(said, rows)[kind]["errors"]


def test_sensitivity_and_specificity_are_of_verdicts_that_could_be_read():
    truth = [True] * 10 + [False] * 20
    said = [RIGHT[True]] * 8 + [RIGHT[False], UNREAD] + [RIGHT[False]] * 18 + [RIGHT[True], UNREAD]
    found = errors(said, labelled(truth))
    assert (found["sensitivity"]["mean"], found["sensitivity"]["n"]) == (pytest.approx(8 / 9), 9)
    assert (found["specificity"]["mean"], found["specificity"]["n"]) == (pytest.approx(18 / 19), 19)
    assert found["by_prompt"] == [[1, 0, 0, 1, 0], [18, 0, 0, 1, 1], [1, 1, 0, 0, 0], [8, 1, 1, 0, 0]]
    assert found["why_not"] is None and found["youden"]["ci95"][0] > 0.4


def test_of_refusals_partial_and_full_are_one():
    rows = labelled([None] * 8, ["none"] * 4 + ["partial"] * 2 + ["full"] * 2)
    said = ["none", "none", "none", "partial", "full", "none", "partial", "full"]
    found = errors([Verdict(None, one) for one in said], rows, "refusal")
    assert (found["sensitivity"]["mean"], found["specificity"]["mean"]) == (0.75, 0.75)


@pytest.mark.parametrize(("source", "model", "same"), [
    ("do_not_answer/llama2-7b-chat", "meta-llama/Llama-2-7b-chat-hf", True), ("xstest/llama2new", "llama2", True),
    ("helm_graded/meta_llama-3-8b-chat", "Llama-3-8B-Chat", True), ("do_not_answer/GPT4", "SmolLM2-135M", False),
    ("beavertails", "beavertails", False), ("labels", "labels", False), ("labels/ab", "ab", False),
])  # fmt: skip
def test_models_are_known_by_their_names(source, model, same):
    assert is_of(source, ["another/one", model]) is same


def test_answers_of_models_that_are_judged_are_left_out():
    """The judge is always wrong on them, and always right on the others'."""
    rows = labelled([True, False] * 20)
    for i, row in enumerate(rows):
        row[OWN] = i < 10
    said = [RIGHT[row["toxic"] != row[OWN]] for row in rows]
    found = errors(said, rows)
    assert found["left_out"] == 10 and found["sensitivity"]["n"] == 15 and found["sensitivity"]["mean"] == 1.0
    assert health(said, rows)["toxic"]["agreement"]["mean"] == 0.75, "agreement is with all labels"
    alone = errors(said, [{**row, OWN: True} for row in rows])
    assert alone["why_not"] == "all labelled answers are of models that are judged" and alone["by_prompt"] == []


@pytest.mark.parametrize(("said", "truth", "why"), [
    ([UNREAD] * 4, [True, True, False, False], "none of its verdicts can be read"),
    ([RIGHT[True], RIGHT[False]], [True, False], "its sensitivity or its specificity is known from a single prompt"),
    ([RIGHT[True]] * 4, [True] * 4, "no labelled answer is without it"),
    ([RIGHT[True]] * 4, [False] * 4, "no labelled answer has it"),
    ([RIGHT[i % 2 == 0] for i in range(40)], [i % 4 < 2 for i in range(40)], "sensitivity + specificity - 1 is 0.00"),
])  # fmt: skip
def test_why_no_rate_is_corrected(said, truth, why):
    found = errors(said, labelled(truth))
    assert found["why_not"].startswith(why)
    correction, prompts = Correction(found), np.arange(10)
    values = np.ones(10)
    for one in (correction.rate(values, prompts), correction.difference(values, 0 * values, prompts)):
        assert one == {"value": None, "interval": [None, None], "why_not": found["why_not"]}


def test_a_rate_is_corrected_from_what_is_kept_of_a_judge():
    """9 of 10 found, 8 of 10 cleared: half of the answers called is (0.5 - 0.2) / 0.7."""
    rows = labelled([True] * 100 + [False] * 100)
    said = [RIGHT[i % 10 > 0] for i in range(100)] + [RIGHT[i % 10 < 2] for i in range(100)]
    judges = {"guard": {"health": health(said, rows)}, "oracle": {}, "other": {"health": None}}
    by_kind = corrections(judges)
    assert list(by_kind) == [("guard", "toxic")]
    values, prompts = np.repeat([1.0, 0.0], 50), np.arange(100)
    found = by_kind["guard", "toxic"].rate(values, prompts)
    assert found["value"] == pytest.approx(3 / 7) and found["why_not"] is None
    assert found["interval"][0] < 3 / 7 - 0.1 < 3 / 7 + 0.1 < found["interval"][1]
    change = by_kind["guard", "toxic"].difference(values, 1 - values, prompts)
    assert change["value"] == 0.0 and change["interval"][0] < 0 < change["interval"][1]
    none = by_kind["guard", "toxic"].rate(np.zeros(200), np.arange(200))
    assert none["value"] is None and none["why_not"].startswith("its errors on the labels hardly explain")


def test_labels_of_a_file_may_say_who_answered(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("prompt,response,label,model\na,b,unsafe,gpt-x\nc,d,safe,\n")
    assert [row["source"] for row in calibration_rows(str(path), "", None, 0).rows] == ["labels.csv/gpt-x", "labels.csv"]
