"""Judge health: agreement by class with intervals, length and position bias, kappa, and what stops a run."""

import numpy as np
import pytest

from alignment.data.chat import text_message
from alignment.judges.calibration import calibration_rows
from alignment.judges.health import health, kappa, main_agreement, position_bias, require_agreement
from alignment.judges.verdicts import Verdict
from alignment.types import StageFailed, UserError
from tests.conftest import SHARED_DATA

UNREAD = Verdict(None, None, reason="?", unparsed=True)


def labelled(toxic: list, refusal: list | None = None, lengths: list[int] | None = None) -> list[dict]:
    return [
        {
            "prompt": text_message("user", f"prompt {i}"), "response": "x" * (lengths[i] if lengths else 10),
            "toxic": flag, "refusal": refusal[i] if refusal else None,
        }
        for i, flag in enumerate(toxic)
    ]  # fmt: skip


def test_harm_is_held_against_labels_of_harm():
    rows = labelled([True, True, True, False, False, False, False, None])
    flags = [True, True, False, False, False, True, False, True]
    scores = [0.9, 0.8, 0.4, 0.1, 0.2, 0.7, 0.3, 0.6]
    verdicts = [Verdict(flag, None, score=score) for flag, score in zip(flags, scores, strict=True)]
    found = health(verdicts, rows)
    assert found["rows"] == 8 and found["unparsed"] == 0 and set(found) == {"rows", "unparsed", "toxic"}
    toxic = found["toxic"]
    assert toxic["rows"] == 7 and toxic["agreement"]["mean"] == pytest.approx(5 / 7) == main_agreement(found)
    assert toxic["f1"]["mean"] == pytest.approx(2 / 3) and toxic["false_positive_rate"]["mean"] == 0.25
    by_class = {name: one["mean"] for name, one in toxic["by_class"].items()}
    assert by_class == {"safe": 0.75, "unsafe": pytest.approx(2 / 3)}
    assert toxic["auroc"] == pytest.approx(11 / 12)
    # four called: 2 * 3 / (4 + 3) and 2 * 3 / (3 + 4); two called: 0.8 and 8 / 9, which is less
    balanced = toxic["balanced"]
    assert balanced["threshold"]["mean"] == pytest.approx((0.4 + 0.3) / 2) and balanced["threshold"]["n"] == 7
    low, high = balanced["threshold"]["ci95"]
    assert 0.05 <= low <= 0.35 <= high <= 0.85
    assert (balanced["sensitivity"]["mean"], balanced["sensitivity"]["n"]) == (1.0, 3)
    assert (balanced["specificity"]["mean"], balanced["specificity"]["n"]) == (0.75, 4)
    low, high = toxic["agreement"]["ci95"]
    assert 0.2 < low < 5 / 7 < high <= 1.0


def test_no_threshold_is_named_where_nothing_could_be_balanced():
    """Answers of models that are judged don't count, nor do those without a score; refusals have none."""
    rows = labelled([True, True, False, False])
    verdicts = [Verdict(True, None, score=0.9), UNREAD, Verdict(False, None, score=0.1), Verdict(False, None, score=0)]
    assert health(verdicts, rows)["toxic"]["balanced"]["threshold"]["n"] == 3
    rows[0]["own"] = True
    assert health(verdicts, rows)["toxic"]["balanced"] is None
    assert health([Verdict(True, None), Verdict(False, None)], labelled([True, False]))["toxic"]["balanced"] is None
    said = [Verdict(None, one, score=0.5) for one in ("none", "full")]
    assert health(said, labelled([None] * 2, ["none", "full"]))["refusal"]["balanced"] is None


def test_unread_verdicts_count_as_wrong_and_are_reported():
    rows = labelled([True, True, False, False])
    found = health([Verdict(True, None), UNREAD, UNREAD, Verdict(False, None)], rows)
    assert found["unparsed"] == 0.5 and found["toxic"]["agreement"]["mean"] == 0.5
    nothing = health([UNREAD] * 4, rows)
    assert nothing["unparsed"] == 1.0 and nothing["toxic"]["agreement"]["mean"] == 0.0


def test_refusals_are_held_against_three_classes_and_against_two():
    rows = labelled([None] * 6, ["none", "none", "partial", "partial", "full", "full"])
    said = ["none", "partial", "partial", "full", "full", "full"]
    found = health([Verdict(None, one, score=0.5) for one in said], rows)["refusal"]
    assert found["agreement"]["mean"] == pytest.approx(4 / 6) and found["binary"]["mean"] == pytest.approx(5 / 6)
    assert {name: one["mean"] for name, one in found["by_class"].items()} == {
        "full_compliance": 0.5, "partial_refusal": 0.5, "full_refusal": 1.0,
    }  # fmt: skip
    both = labelled([True, False], ["none", "full"])
    found = health([Verdict(True, "none", score=0.9), Verdict(False, "full", score=0.2)], both)
    assert found["toxic"]["agreement"]["mean"] == 1.0 == found["refusal"]["agreement"]["mean"]
    assert found["toxic"]["auroc"] == 1.0 and found["refusal"]["auroc"] is None, "its score is one of harm"


def test_labels_of_something_else_are_an_error():
    with pytest.raises(UserError, match=r"judge.calibration: its labels are about refusal, and this judge's"):
        health([Verdict(True, None)] * 2, labelled([None] * 2, ["none", "full"]))


def test_a_judge_that_goes_by_length_is_found_out():
    lengths = list(range(1, 41))
    rows = labelled([i % 2 == 0 for i in range(40)], lengths=lengths)
    by_length = health([Verdict(length > 20, None) for length in lengths], rows)["toxic"]["length_bias"]
    assert by_length["mean"] == 1.0
    fair = health([Verdict(bool(flag), None) for flag in np.random.default_rng(0).random(40) < 0.5], rows)
    low, high = fair["toxic"]["length_bias"]["ci95"]
    assert low < 0.5 < high


class ReadsTheStart:
    """Finds harm in the first twenty characters alone."""

    name, record = "start", {}

    def __call__(self, prompts, answers):
        return [Verdict("harm" in answer[:20], None) for answer in answers]


class ReadsAll(ReadsTheStart):
    def __call__(self, prompts, answers):
        return [Verdict("harm" in answer, None) for answer in answers]


def test_a_judge_that_reads_only_the_start_is_found_out():
    rows = labelled([i % 2 == 0 for i in range(30)])
    for row in rows:
        row["response"] = ("harm" if row["toxic"] else "good") + " and so on, and so on"
    biased = position_bias(ReadsTheStart(), rows, 10)
    assert (biased["of"], biased["pairs"]) == ("toxic", 10)
    assert [biased[name]["mean"] for name in ("first", "last", "difference")] == [1.0, 0.0, 1.0]
    assert position_bias(ReadsAll(), rows, 10)["difference"]["mean"] == 0.0
    assert position_bias(ReadsAll(), rows[::2], 10) is None, "nothing harmless to join with"
    assert position_bias(ReadsAll(), rows, 100)["pairs"] == 15


def test_kappa_of_two_judges_leaves_out_what_one_of_them_didnt_say():
    first = [Verdict(flag, None) for flag in (True, True, False, False, True)]
    second = [Verdict(flag, None) for flag in (True, False, False, False)] + [UNREAD]
    found = kappa(first, second, [f"p{i}" for i in range(5)])
    assert (found["of"], found["rows"], found["left_out"]) == ("toxic", 4, 1)
    assert found["kappa"]["mean"] == pytest.approx(0.5) and found["agreement"]["mean"] == 0.75
    assert found["kappa"]["ci95"][0] < 0.5
    assert kappa(first, [Verdict(None, "none")] * 5, ["p"] * 5) is None


def test_too_little_agreement_is_one_line():
    found = health([Verdict(True, None)] * 4, labelled([True, True, False, False]))
    require_agreement("wildguard", found, None, "x")
    require_agreement("wildguard", found, 0.5, "x")
    with pytest.raises(StageFailed, match=r"judge wildguard: it agrees with 50.0% of the labels of x, under judge.min"):
        require_agreement("wildguard", found, 0.51, "x")


def test_labels_from_a_file(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("prompt,response,label\na,b,unsafe\nc,d,partial_refusal\ne,f,maybe\n,g,safe\nh,i,safe\n")
    loaded = calibration_rows(str(path), "", None, 0)
    assert [(row["toxic"], row["refusal"]) for row in loaded.rows] == [(True, None), (None, "partial"), (False, None)]
    assert [row["line"] for row in loaded.quarantined] == [4, 5] and loaded.read == 5
    assert len(calibration_rows(str(path), "", 2, 0).rows) == 2
    path.write_text("prompt,response,label\na,b,1\nc,d,False\n")
    assert [row["toxic"] for row in calibration_rows(str(path), "", None, 0).rows] == [True, False]
    path.write_text("prompt,response,label\na,b,2\n")
    with pytest.raises(UserError, match="has no usable row: label is '2', not one of safe, unsafe, full_compliance"):
        calibration_rows(str(path), "", None, 0)


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="needs the real data beside the repository (../shared/data)")
@pytest.mark.parametrize(("name", "kind"), [("beavertails", "toxic"), ("xstest", "refusal")])
def test_labelled_sets_by_name(name, kind):
    rows = calibration_rows(name, str(SHARED_DATA), 200, 1).rows
    assert len(rows) == 200 and all(row[kind] is not None for row in rows)
    truth = [Verdict(row["toxic"], row["refusal"]) for row in rows]
    assert health(truth, rows)[kind]["agreement"]["mean"] == 1.0
