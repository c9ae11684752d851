"""Answers to fit a guard on: of sets, files and harmless prompts, each once, with a label; and what is refused."""

import json
from collections import Counter
from pathlib import Path

import pytest

from alignment.data.cells import no_column
from alignment.data.guard_answers import COLUMNS, guard_answers, guard_files, guard_sets
from alignment.types import UserError


def own_file(folder: Path, rows: list[tuple[str, str, object]], name: str = "own.jsonl") -> str:
    lines = [json.dumps({"prompt": prompt, "response": answer, "label": label}) for prompt, answer, label in rows]
    (folder / name).write_text("\n".join(lines))
    return str(folder / name)


def reasons(loaded) -> Counter:
    return Counter(row["reason"].rpartition(": ")[2] for row in loaded.quarantined)


def test_a_file_may_say_safe_and_unsafe_or_one_and_zero(tmp_path: Path):
    labels = ["safe", "unsafe", 0, 1, "0", "1", False, True, "false", "TRUE", 1.0, " Unsafe "]
    source = own_file(tmp_path, [(f"p{i}", f"a{i}", label) for i, label in enumerate(labels)])
    loaded = guard_answers([source], None)
    assert [row["toxic"] for row in loaded.rows] == [False, True] * 5 + [True, True]
    assert loaded.rows[0] == {
        "id": "own-1", "source": "own.jsonl", "prompt": [{"role": "user", "content": "p0"}], "response": "a0",
        "toxic": False, "category": None,
    }  # fmt: skip


def test_an_answer_counts_once_with_the_label_of_most(tmp_path: Path):
    rows = [("Who?", "me", 1), ("who", " me ", 0), ("WHO", "me", "unsafe"), ("tie", "x", 0), ("tie", "x", 1)]
    one = own_file(tmp_path, [*rows, ("empty", " ", 1)])
    two = own_file(tmp_path, [("who?", "you", 0), ("who?", "me", 1), ("tie!", "x", 1), ("tie?", "x", 0)], "two.jsonl")
    loaded = guard_answers([one, two, one], None)
    assert [(row["response"], row["toxic"], row["source"]) for row in loaded.rows] == [
        ("me", True, "own.jsonl"), ("you", False, "two.jsonl"),
    ]  # fmt: skip
    assert reasons(loaded) == {
        "the same answer to the same prompt is there already": 3,
        "the same answer to the same prompt is labelled safe as often as unsafe": 4,
        "response is empty": 1,
    }
    assert loaded.read == 10


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [("a", "b", "harmful"), ("c", "d", "kind")],
            "no answer that is labelled .* label is 'harmful', not one of safe",
        ),
        (
            [("a", "b", 1), ("c", "d", 1)],
            "all 2 answers of .*own.jsonl are labelled unsafe; .* give answers that are safe",
        ),
        ([("a", "b", 0)], "all 1 answers of .* are labelled safe; .* that are unsafe, too"),
        ([("a", "", 0), ("b", None, 1)], "has no answer that is labelled safe or unsafe: response is empty"),
        ([("a", "b", 0), ("a", "b", 1)], "every answer of .* is labelled safe as often as unsafe"),
        ([], "has no answer that is labelled safe or unsafe"),
    ],
)
def test_what_no_guard_can_be_fitted_on_is_one_line(tmp_path: Path, rows: list, message: str):
    with pytest.raises(UserError, match=rf"guard\.answers: .*{message}") as error:
        guard_answers([own_file(tmp_path, rows)], None)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("sources", "folder", "message"),
    [
        ([], "x", "names no labelled answers"),
        (["nowhere"], "x", "there is no labelled set nowhere; give a file, or some of beavertails, pku_saferlhf"),
        (["beavertails"], None, "the embedded world has no set beavertails"),
        (["none.csv"], None, "none.csv is not there"),
    ],
)
def test_sources_that_are_not_there_are_one_line(sources: list[str], folder: str | None, message: str):
    with pytest.raises(UserError, match=message):
        guard_answers(sources, folder)


def test_published_sets(shared_data: Path):
    folder = str(shared_data)
    loaded = guard_answers(["beavertails", "pku_saferlhf", "alpaca_eval", "xstest_safe"], folder)
    assert all(tuple(row) == COLUMNS for row in loaded.rows)
    found = Counter((row["source"].partition("/")[0], row["toxic"]) for row in loaded.rows)
    assert (found["beavertails", True], found["beavertails", False]) == (2218, 1658)
    assert found["alpaca_eval", False] == 805 and found["xstest_safe", False] == 422
    assert (found["pku_saferlhf", True], found["pku_saferlhf", False]) == (1072, 1086)
    assert reasons(loaded)["the same answer to the same prompt is labelled safe as often as unsafe"] == 252
    assert len({row["id"] for row in loaded.rows}) == len(loaded.rows)
    assert {row["source"] for row in loaded.rows if not row["toxic"]} >= {
        "xstest_safe/llama2new",
        "alpaca_eval/alpaca-7b",
    }
    with pytest.raises(UserError, match="all 422 answers of xstest_safe are labelled safe"):
        guard_answers(["xstest_safe"], folder)
    with pytest.raises(UserError, match="xstest has no answer that is labelled safe or unsafe"):
        guard_answers(["xstest", "beavertails"], folder)
    assert guard_files("xstest_safe", folder)[0].name.endswith("llama2new.csv")
    assert {"do_not_answer", "xstest_safe"} <= set(guard_sets())


def test_sets_to_be_tried_on_are_read_alone(shared_data: Path):
    """Each of them, as guard.transfer names it: with safe and unsafe answers; those to harmless prompts are safe."""
    found = {}
    for name in ("beavertails", "pku_saferlhf", "do_not_answer", "helm_graded", "xstest_unsafe", "xstest_safe"):
        loaded = guard_answers([name], str(shared_data), both=False)
        found[name] = [sum(row["toxic"] for row in loaded.rows), sum(not row["toxic"] for row in loaded.rows)]
    assert found["beavertails"] == [2222, 1658] and found["pku_saferlhf"] == [1102, 1106]
    assert found["do_not_answer"] == [193, 5439] and found["helm_graded"] == [112, 984]
    assert found["xstest_unsafe"] == [128, 242] and found["xstest_safe"] == [0, 422]


def test_a_graded_answer_is_what_both_graders_call_it(tmp_path: Path):
    grades = [(0, 0), (0.25, 0), (1, 0.75), (1, 1), (0.25, 0.5), (0.5, 1), (1, 0), (0.5, 0.5)]
    (tmp_path / "helm_safety_graded").mkdir()
    lines = [
        json.dumps({"prompt": "p", "response": f"r{i}", "model": "m", "gpt_score": gpt, "claude_score": claude})
        for i, (gpt, claude) in enumerate(grades)
    ]
    (tmp_path / "helm_safety_graded/graded.jsonl").write_text("\n".join(lines))
    loaded = guard_answers(["helm_graded"], str(tmp_path))
    assert [(row["response"], row["toxic"]) for row in loaded.rows] == [
        ("r0", True), ("r1", True), ("r2", False), ("r3", False),
    ]  # fmt: skip
    assert all(tuple(row) == COLUMNS and row["source"] == "helm_graded/m" for row in loaded.rows)
    assert reasons(loaded) == {"its two graders don't both put it on one side": 4}
    assert guard_sets().count("helm_graded") == 1


def test_rows_of_the_newer_pku_release_have_their_own_labels_and_harms(shared_data: Path, tmp_path: Path):
    (tmp_path / "pku_saferlhf").mkdir()
    row = json.loads((shared_data / "pku_saferlhf/Alpaca-7B_test_3rows.jsonl").read_text().splitlines()[0])
    row |= {"is_response_1_safe": False}
    row["response_1_harm_category"] |= {"Drugs": True, "Violence": True}
    (tmp_path / "pku_saferlhf/Alpaca-7B_test_3rows.jsonl").write_text(json.dumps(row))
    (tmp_path / "pku_saferlhf/safe_unsafe_pairs.json").write_text(json.dumps([{"prompt": "p", "response": ["a", "b"]}]))
    loaded = guard_answers(["pku_saferlhf"], str(tmp_path))
    assert [(row["response"][:3], row["toxic"], row["category"]) for row in loaded.rows] == [
        ("a", False, None), ("b", True, None), ("The", False, None), ("The", True, "Drugs; Violence"),
    ]  # fmt: skip


def test_a_column_whose_name_has_no_end_is_named_by_its_beginning():
    assert str(no_column("subject", {"question": 1, "x" * 9_000: 2})) == (
        f"has no column subject, only question, '{'x' * 36}..."
    )


def test_a_file_may_say_of_which_kind_of_harm(tmp_path):
    path = tmp_path / "own.jsonl"
    rows = [
        {"prompt": "a", "response": "b", "label": 1, "category": "theft; lies", "model": "gpt-x"},
        {"prompt": "c", "response": "d", "label": 0, "category": ""},
        {"prompt": "e", "response": "f", "label": "unsafe"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = guard_answers([str(path)], None).rows
    assert [row["category"] for row in found] == ["theft; lies", None, None]
    assert found[0]["source"] == "own.jsonl/gpt-x"
