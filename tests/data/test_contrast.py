"""The sides of contrastive sets: refusals of many wordings, and labelled answers to prompts that nothing else has."""

import json

import pytest

from alignment.data.contrast import refusals
from alignment.data.labelled_contrast import labelled_pairs
from alignment.data.same_prompts import turn_hashes
from alignment.types import UserError


def test_the_shipped_refusals_are_of_many_wordings_and_lengths():
    texts = refusals(None)
    words = sorted(len(text.split()) for text in texts)
    assert len(texts) == len(set(texts)) == 30
    assert words[0] <= 3 and 75 <= words[-1] <= 90 and sum(length > 20 for length in words) >= 10
    assert len({text.split()[0] for text in texts}) > 15


def test_a_users_refusals_are_the_lines_of_a_file(tmp_path):
    file = tmp_path / "own.txt"
    file.write_text("No.\n\n  Never, sorry. \n")
    assert refusals(str(file)) == ["No.", "Never, sorry."]
    file.write_text("No.\nNo.\n")
    with pytest.raises(UserError, match=r"annotator\.contrast\.refusals: .*own\.txt has 1 of them; give 2 or more"):
        refusals(str(file))
    with pytest.raises(UserError, match=r"annotator\.contrast\.refusals: .*none\.txt can't be read: No such file"):
        refusals(str(tmp_path / "none.txt"))
    file.write_bytes(b"\xff\xfe\n")
    with pytest.raises(UserError, match="is not UTF-8"):
        refusals(str(file))


def labelled_file(folder, rows: list[tuple[str, str, str]]) -> str:
    file = folder / "labelled.jsonl"
    lines = [json.dumps({"prompt": prompt, "response": response, "label": label}) for prompt, response, label in rows]
    file.write_text("\n".join(lines))
    return str(file)


def test_safe_answers_stand_against_unsafe_ones_to_other_prompts(tmp_path):
    rows = [(f"question {i}", f"{label} {i}", label) for i in range(40) for label in ("safe", "unsafe")]
    source = labelled_file(tmp_path, [*rows, ("asked", "safe a", "safe"), ("bad", "b", "harmless")])
    asked = {"the pairs that are annotated": turn_hashes([{"role": "user", "content": "Asked?"}])}
    loaded = labelled_pairs(source, 15, seed=0, folder=None, asked=asked)
    assert len(loaded.rows) == 15
    for row in loaded.rows:
        assert row["positive"][0]["content"].startswith("safe") and row["negative"][0]["content"].startswith("unsafe")
        assert row["positive"][0]["content"].split()[1] == row["prompt"][0]["content"].split()[1]
        assert row["negative"][0]["content"].split()[1] == row["negative_prompt"][0]["content"].split()[1]
    prompts = [row[column][0]["content"] for row in loaded.rows for column in ("prompt", "negative_prompt")]
    assert len(set(prompts)) == 30, "no prompt twice: folds are of prompts"
    reasons = [row["reason"] for row in loaded.quarantined]
    assert any("its prompt is among the pairs that are annotated" in reason for reason in reasons)
    assert any("label is 'harmless', not one of safe, unsafe" in reason for reason in reasons)
    same, other = (labelled_pairs(source, 15, seed, None, asked).rows for seed in (0, 1))
    assert same == loaded.rows != other


def test_a_set_without_labels_of_safety_is_refused(shared_data):
    with pytest.raises(UserError, match="xstest has no answer that is labelled safe or unsafe"):
        labelled_pairs("xstest", 10, 0, str(shared_data), {})


def test_a_published_set(shared_data):
    pairs = labelled_pairs("beavertails", 20, 0, str(shared_data), {}).rows
    assert len(pairs) == 20 and all(row["prompt"] != row["negative_prompt"] for row in pairs)
