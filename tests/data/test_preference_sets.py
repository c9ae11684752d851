"""Published preference sets: their releases' rows by hand, and the real files where they are."""

import gzip
import hashlib
import json

import pytest

from alignment.data import labelled_sets
from alignment.data.columns import BadRow
from alignment.data.preference_pairs import Source, Wanted, prepare
from alignment.data.preference_sets import beavertails, helm_graded, hh, pku_saferlhf
from alignment.data.row_table import RowTable
from tests.real_data import DATA, needs_data


def lines(*rows):
    return iter(enumerate(rows, start=1))


def pku_row(**more):
    row = {"prompt": "p", "response_0": "a", "response_1": "b", "better_response_id": 1, "safer_response_id": 0}
    row |= {"is_response_0_safe": True, "is_response_1_safe": False}
    return {**row, **more}


def test_pku_pairs_by_safety_and_by_helpfulness():
    harm = {"Violence": True, "Drugs": False, "Cybercrime": True}
    row = pku_row(response_0_severity_level=0, response_1_severity_level=2, response_1_harm_category=harm)
    ((where, pair),) = pku_saferlhf(lines(row), "safety")
    assert where == (1,) and (pair["chosen"], pair["rejected"]) == ("a", "b")
    assert (pair["chosen_severity"], pair["rejected_severity"]) == (0, 2) and pair["category"] == "Cybercrime; Violence"
    assert pair["chosen_safe"] is True and pair["rejected_safe"] is False
    ((_, pair),) = pku_saferlhf(lines(row), "helpfulness")
    assert (pair["chosen"], pair["rejected"], pair["chosen_severity"]) == ("b", "a", 2)
    reasons = [made for _, made in pku_saferlhf(lines(pku_row(safer_response_id=2), "torn"), "safety")]
    assert reasons == ["safer_response_id is 2, neither 0 nor 1", "torn"]


def test_beavertails_answers_meet_within_their_prompt():
    kinds = {"violence": True, "privacy": False}
    rows = [
        {"prompt": "p", "response": "good", "is_safe": True, "category": {}},
        {"prompt": "p", "response": "bad", "is_safe": False, "category": kinds},
        {"prompt": "p", "response": "bad too", "is_safe": False, "category": kinds},
        {"question": "q", "answer": "fine", "label": "0"},
        {"question": "q", "answer": "not fine", "label": "1"},
        {"question": "q", "answer": "what?", "label": "2"},
    ]
    made = list(beavertails(lines(*rows)))
    pairs = {where: row for where, row in made if isinstance(row, dict)}
    assert set(pairs) == {(1, 2), (4, 5)}
    assert (pairs[1, 2]["chosen"], pairs[1, 2]["rejected"], pairs[1, 2]["category"]) == ("good", "bad", "violence")
    reasons = {where: reason for where, reason in made if isinstance(reason, str)}
    assert (
        reasons[(6,)] == "label is '2', neither true nor false"
        and "no other answer of the other label" in reasons[(3,)]
    )
    assert sorted(number for where, _ in made for number in where) == [1, 2, 3, 4, 5, 6], "every line, once"


def test_an_answer_labelled_both_ways_meets_another():
    answers = [("x", True), ("x", False), ("y", False)]
    made = list(beavertails(lines(*({"prompt": "p", "response": text, "is_safe": safe} for text, safe in answers))))
    assert [where for where, pair in made if isinstance(pair, dict)] == [(1, 3)]
    assert [where for where, reason in made if isinstance(reason, str)] == [(2,)]


def test_hh_prompts_are_everything_up_to_the_last_answer():
    before = "\n\nHuman: one\n\nAssistant: two\n\nHuman: three\n\nHuman: four"
    ((_, pair),) = hh(lines({"chosen": f"{before}\n\nAssistant: yes", "rejected": f"{before}\n\nAssistant: no"}))
    assert [(turn["role"], turn["content"]) for turn in pair["prompt"]] == [
        ("user", "one"), ("assistant", "two"), ("user", "three\n\nfour"),
    ]  # fmt: skip
    assert pair["chosen"] == [{"role": "assistant", "content": "yes"}]
    bad = [
        {"chosen": f"{before}\n\nAssistant: yes", "rejected": "\n\nHuman: other\n\nAssistant: no"},
        {"chosen": before, "rejected": f"{before}\n\nAssistant: no"},
        {"chosen": "hello", "rejected": "hello"},
        {"chosen": None, "rejected": 3},
    ]
    assert [reason for _, reason in hh(lines(*bad))] == [
        "chosen and rejected don't answer the same turns",
        "chosen doesn't go from Human: to an answer of the Assistant:",
        "chosen is not a dialogue that begins with Human:",
        "chosen is empty",
    ]


def test_helm_pairs_are_those_that_both_judges_put_in_one_order():
    def row(response, gpt, claude):
        return {"prompt": "p", "response": response, "gpt_score": gpt, "claude_score": claude}

    made = list(helm_graded(lines(row("a", 1.0, 0.75), row("b", 0.5, 0.75), row("c", 0.75, 0.0), row("d", 3, 1))))
    pairs = {where: row for where, row in made if isinstance(row, dict)}
    assert {(pair["chosen"], pair["rejected"]): pair["margin"] for pair in pairs.values()} == {
        ("a", "b"): 0.25, ("a", "c"): 0.5,
    }  # fmt: skip
    assert [reason for where, reason in made if where == (4,)] == ["gpt_score is 3, not one of 0, 0.25, 0.5, 0.75, 1"]


LABELS = [True, False, "true", "False", 0, 1, 0.0, 1.0, "0", "1.0", None, "", float("nan"), "yes", 2, -1, "2", [], {}]
GRADES = [0, 0.25, "0.75", 1, 0.3, "0.9", 1.5, True, None, "", "high", float("nan"), float("inf"), -0.25, []]


@pytest.mark.parametrize("column", ["is_safe", "label", "gpt_score"])
def test_a_row_means_the_same_as_an_answer_and_in_a_pair(column):
    """BeaverTails and HELM are read for both: what one sets aside, the other does, with the same reason."""
    sound = {"prompt": "p", "response": "r", "model": "m", "claude_score": 0.5}
    for value in GRADES if column == "gpt_score" else LABELS:
        name, pairs = ("helm_graded", helm_graded) if column == "gpt_score" else ("beavertails", beavertails)
        row = {**sound, column: value}
        ((_, alone),) = pairs(lines(row))  # there is nothing to pair it with: a reason, always
        try:
            labelled = labelled_sets._ROWS[name][2](row, None)
        except BadRow as error:
            assert alone == str(error) and str(error).startswith(f"{column} is ")
            continue
        assert alone.startswith("no other answer")
        if column == "gpt_score":
            assert labelled["gpt_score"] == float(value) in (0, 0.25, 0.5, 0.75, 1)
            continue
        assert labelled["toxic"] is ((str(value).lower() in ("true", "1", "1.0")) == (column == "label"))
        other = {**row, "response": "s", column: not labelled["toxic"] if column == "label" else labelled["toxic"]}
        ((_, pair),) = pairs(lines(row, other))
        assert pair["rejected" if labelled["toxic"] else "chosen"] == "r"


@needs_data
@pytest.mark.parametrize(
    ("source", "read", "pairs", "quarantined"),
    [
        (Source("hh_harmless"), 2312, 2308, 4),
        (Source("pku_saferlhf"), 2540, 2540, 0),
        (Source("pku_saferlhf_30k"), 2537, 2537, 0),
        (Source("beavertails"), 4000, 380, 3240),
        (Source("helm_graded"), 1200, 2058, 216),
    ],
)
def test_the_real_files(tmp_path, source, read, pairs, quarantined):
    counts = prepare([source], str(DATA), Wanted(0.1, 0), {}, tmp_path / "out")
    (one,) = counts["sources"]
    assert (one["read"], one["used"], one["quarantined"]) == (read, read - quarantined, quarantined)
    assert counts["train"] + counts["heldout"] == pairs
    assert len((tmp_path / "out/quarantine.jsonl").read_text().splitlines()) == quarantined
    rows = list(RowTable.open(tmp_path / "out/train.arrow"))
    assert len({row["id"] for row in rows}) == len(rows)


def test_which_release_of_pku_was_read_is_kept(tmp_path):
    """Figures of the old release, whose answers are in order, say nothing of the new one with severities."""
    old = {"prompt": "How?", "response": ["Don't.", "Like this."]}
    compared = {"prompt": "Why?", "response_0": "Ask.", "response_1": "Because.", "safer_response_id": 0}
    new = {**compared, "prompt": "Who?", "response_0_severity_level": 0, "response_1_severity_level": 2}
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (old, old | {"prompt": "What?"}, compared, new)))
    counts = prepare([Source("pku_saferlhf", str(path))], "", Wanted(0.1, 0), {}, tmp_path / "out")
    (source,) = counts["sources"]
    assert source["releases"] == {
        "safe and unsafe answers in order": 2, "compared answers": 1, "compared answers with severity": 1
    }  # fmt: skip
    assert source["hashes"] == [hashlib.sha256(path.read_bytes()).hexdigest()]


@needs_data
def test_the_real_pku_rows_with_severity(tmp_path):
    """Three rows of the newer release: by hand from the file."""
    raw = [json.loads(line) for line in (DATA / "pku_saferlhf/Alpaca-7B_test_3rows.jsonl").read_text().splitlines()]
    made = [pair for _, pair in pku_saferlhf(lines(*raw), "safety")]
    for row, pair in zip(raw, made, strict=True):
        safer = row["safer_response_id"]
        assert pair["chosen"] == row[f"response_{safer}"] and pair["rejected"] == row[f"response_{1 - safer}"]
        assert pair["chosen_severity"] == row[f"response_{safer}_severity_level"] <= pair["rejected_severity"]


@needs_data
def test_hh_turns_are_those_of_the_file():
    with gzip.open(DATA / "hh_rlhf/harmless-base/test.jsonl.gz") as file:
        raw = [json.loads(line) for line in file]
    for (_, pair), row in zip(hh(lines(*raw)), raw, strict=True):
        if isinstance(pair, str):
            continue
        for side in ("chosen", "rejected"):
            said = "".join(turn["content"] for turn in pair["prompt"] + pair[side])
            without_names = row[side].replace("\n\nHuman:", "").replace("\n\nAssistant:", "")
            assert "".join(said.split()) == "".join(without_names.split())
