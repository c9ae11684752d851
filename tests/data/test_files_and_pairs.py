"""Own files: every kind of file, every kind of dirt; read = used + quarantined, always."""

import csv
import gzip
import json
import lzma
from pathlib import Path

import pandas as pd
import pytest
from trl.data_utils import extract_prompt

from alignment.data import contrast
from alignment.data.files import read_file
from alignment.data.world_pairs import world_evaluation_pairs, world_pairs
from alignment.types import UserError
from alignment.world.preferences import Drawing
from tests.data.own_pairs import file_pairs

GOOD = [{"prompt": f"question {i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(40)]
BAD = {
    '{"prompt": "a", "chosen": "b"': "not valid json",
    "[1, 2]": "not a json object",
    '{"prompt": "a", "chosen": "b"}': "has no column rejected",
    '{"prompt": "a", "chosen": "b", "rejected": null}': "rejected is empty",
    '{"prompt": "  ", "chosen": "b", "rejected": "c"}': "prompt is empty",
    '{"prompt": "a", "chosen": "same", "rejected": "same"}': "chosen and rejected are the same",
    '{"prompt": 3, "chosen": "b", "rejected": "c"}': "prompt is neither text nor messages",
    '{"prompt": [{"role": "boss", "content": "x"}], "chosen": "b", "rejected": "c"}': "not a message",
    '{"prompt": "a", "chosen": "b", "rejected": "c", "chosen_severity": 4}': "chosen_severity is 4",
    '{"prompt": "a", "chosen": "b", "rejected": "c", "confidence": 1.1}': "confidence is 1.1, not a number from 0 to 1",
    '{"prompt": "a", "chosen": "b", "rejected": "c", "confidence": true}': "confidence is True, not a number",
    '{"prompt": "a", "chosen": "b", "rejected": "c", "confidence": "high"}': "confidence is 'high', not a number",
    '{"prompt": "a", "chosen": "b", "rejected": "c", "harmful": "yes"}': "harmful is 'yes', neither true nor false",
    '{"prompt": "a", "chosen": "b", "rejected": "c", "id": "line-000000001"}': "was there before",
}


def write(path, rows):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".csv":
        pd.DataFrame(rows).to_csv(path, index=False)
    else:
        pd.DataFrame(rows).to_parquet(path)
    return str(path)


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
def test_every_kind_of_file_gives_the_same_pairs(tmp_path, kind):
    train, heldout = file_pairs(write(tmp_path / f"pairs.{kind}", GOOD), 0.3, seed=0)
    assert len(train.rows) + len(heldout.rows) == 40 and len(heldout.rows) > 4
    texts = sorted(row["chosen"][0]["content"] for part in (train, heldout) for row in part.rows)
    assert texts == sorted(row["chosen"] for row in GOOD)
    assert train.rows[0]["prompt"][0]["role"] == "user" and train.rows[0]["chosen"][0]["role"] == "assistant"


def test_bad_lines_are_kept_aside_with_their_number_and_reason(tmp_path):
    path = tmp_path / "pairs.jsonl"
    lines = [json.dumps(row) for row in GOOD] + list(BAD)
    path.write_bytes("\n".join(lines).encode() + b'\n{"prompt": "\xff"}\n')
    train, heldout = file_pairs(str(path), 0.3, seed=0)
    assert train.read + heldout.read == len(lines) + 1
    reasons = {row["line"]: row["reason"] for row in train.quarantined}
    for line, reason in enumerate(BAD.values(), start=41):
        assert reason in reasons[line]
    assert reasons[len(lines) + 1] == "not valid UTF-8"
    assert not heldout.quarantined


def test_the_split_is_by_prompt_and_never_moves(tmp_path):
    twice = [row for row in GOOD] + [{**row, "prompt": row["prompt"].upper() + " ", "chosen": "other"} for row in GOOD]
    train, heldout = file_pairs(write(tmp_path / "a.jsonl", twice), 0.3, seed=0)
    of = [{row["prompt"][0]["content"].lower().strip() for row in part.rows} for part in (train, heldout)]
    assert not of[0] & of[1] and len(of[0]) + len(of[1]) == 40
    more = write(tmp_path / "b.jsonl", [{**GOOD[0], "prompt": "new"}, *twice])
    _, again = file_pairs(more, 0.3, seed=0)
    assert {row["prompt"][0]["content"] for row in heldout.rows} <= {row["prompt"][0]["content"] for row in again.rows}
    _, other = file_pairs(more, 0.3, seed=1)
    assert {row["prompt"][0]["content"] for row in other.rows} != {row["prompt"][0]["content"] for row in again.rows}


@pytest.mark.parametrize(("name", "content"), [("a.json", "{"), ("a.json", "{}"), ("a.parquet", "x"), ("a.txt", "x")])
def test_a_file_that_is_none_is_one_line(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=r"data\.path") as error:
        file_pairs(str(tmp_path / name), 0.1, seed=0)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.xz"])
def test_json_lines_that_are_one_list(tmp_path, suffix):
    """Red-team attempts and others are published so. A first line that is wrong doesn't make a list."""
    path = tmp_path / f"a{suffix}"
    pack = {".gz": gzip.compress, ".xz": lzma.compress}.get(path.suffix, bytes)

    def read(content):
        path.write_bytes(pack(content))
        return list(read_file("data.path", str(path)))

    one, two = {"a": 1}, {"b": "]\r"}
    found = [(1, one), (2, two), (3, "not a json object")]
    for indent in (None, 0, 2):
        content = json.dumps([one, two, 3], indent=indent).encode()
        assert read(content) == read(b"\xef\xbb\xbf" + content) == read(b" \n\r\n" + content + b"\r\n") == found
        with pytest.raises(UserError, match=r"data\.path: .* is not valid json"):
            read(content[:-2])
    assert read(b"[]\n") == []
    assert read(b'[\n{"a": 1}\n]\n') == [(1, one)]
    assert read(b'\n[1]\r{"a": 1}\n[2]\n') == [(2, "not a json object"), (3, one), (4, "not a json object")]
    (wrong, (_, row)) = read(b'[{"a": 1}, \n{"a": 1}\n')
    assert wrong[0] == 1 and "not valid json" in wrong[1] and row == one


def test_an_xz_file_is_read_to_its_last_stream(tmp_path):
    path = tmp_path / "a.jsonl.xz"
    one, two = (
        lzma.compress("".join(f'{{"a": {i}}}\n' for i in part).encode()) for part in (range(9), range(9, 99999))
    )
    for content in (one + two, one + b"\0" * 200_000 + two + b"\0" * 8):
        path.write_bytes(content)
        assert [row["a"] for _, row in read_file("data.path", str(path))] == list(range(99999))
    for content in (one + b"?" + two[1:], one + two[:-1], one[:9], one + b"more", b"", two[:5000] + b"??" + two[5002:]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"data\.path: .*(a part of it is missing|not a sound \.xz file)"):
            list(read_file("data.path", str(path)))


def test_a_parquet_file_that_contradicts_itself_is_refused(tmp_path):
    """Its footer says that there are more rows, or names a column by what is no text."""
    path = tmp_path / "a.parquet"
    sound = Path(write(path, GOOD)).read_bytes()
    assert len(list(read_file("data.path", str(path)))) == 40
    more = sound.replace(b"\x16\x50\x19", b"\x16\x52\x19")  # thrift's zigzag: 40 and 41 rows
    for content in (more, sound.replace(b"prompt", b"\xf0rompt")):
        assert content != sound
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"data\.path: .* is not a sound parquet file"):
            list(read_file("data.path", str(path)))


def test_contrastive_questions_and_ready_made_sets(tmp_path):
    csv = tmp_path / "behaviours.csv"
    pd.DataFrame({"goal": ["do a", "do b", "do c"], "target": ["Sure"] * 3}).to_csv(csv, index=False)
    assert [row["prompt"][0]["content"] for row in contrast.questions(str(csv), 2, seed=0).rows] == ["do a", "do b"]
    ready = write(tmp_path / "set.jsonl", [{"prompt": "a", "positive": "b", "negative": "c"}, {"prompt": "a"}])
    loaded = contrast.ready_made(ready)
    assert len(loaded.rows) == 1 and loaded.quarantined[0]["line"] == 2


def test_advbench_is_a_file_of_questions(shared_data):
    loaded = contrast.questions(str(shared_data / "advbench/harmful_behaviors.csv"), 520, seed=0)
    assert len(loaded.rows) == 520 and not loaded.quarantined
    asked = [row["prompt"][0]["content"] for row in loaded.rows]
    assert asked[0].startswith("Write a script that can exploit") and not any(one.startswith("Sure") for one in asked)
    by_name = contrast.questions("harmful", 520, seed=0, folder=str(shared_data))
    assert [row["prompt"][0]["content"] for row in by_name.rows] == asked


def test_no_world_prompt_is_both_trained_on_and_tested_on():
    train, heldout = world_pairs(600, 300, Drawing(0, noise=0.25))
    sets = {"train": train, "heldout": heldout, **world_evaluation_pairs(1000, Drawing(0))}
    prompts = {name: {row["prompt"][0]["content"] for row in loaded.rows} for name, loaded in sets.items()}
    assert all(len(prompts[name]) == 1000 for name in ("same", "objects", "templates"))
    assert not any(prompts["train"] & others for name, others in prompts.items() if name != "train")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_csv_may_have_what_spreadsheets_write_between_its_columns(tmp_path, delimiter):
    file = tmp_path / "pairs.csv"
    rows = [["prompt", "chosen", "rejected"], ["a; b", "c, d", 'e "f"'], ["g\nh", "i", "j"]]
    with file.open("w", newline="") as text:
        csv.writer(text, delimiter=delimiter).writerows(rows)
    assert [row for _, row in read_file("data.path", str(file))] == [
        dict(zip(rows[0], row, strict=True)) for row in rows[1:]
    ]


def test_optional_columns_of_a_csv(tmp_path):
    """Everything in a csv is text, and an empty field is no value; pandas writes integers with nulls as floats."""
    rows = [{**row, "harmful": "true", "chosen_severity": 0, "id": ""} for row in GOOD[:20]]
    rows[3] |= {"harmful": "", "chosen_severity": ""}
    rows[4] |= {"harmful": "maybe"}
    for kind in ("csv", "parquet"):
        table = [{**row, "chosen_severity": str(row["chosen_severity"])} for row in rows] if kind == "parquet" else rows
        train, heldout = file_pairs(write(tmp_path / f"pairs.{kind}", table), 0.3, seed=0)
        found = {row["prompt"][0]["content"]: row for part in (train, heldout) for row in part.rows}
        assert len(found) == 19 and "neither true nor false" in train.quarantined[0]["reason"]
        assert found["question 0"]["harmful"] is True and found["question 0"]["chosen_severity"] == 0
        assert found["question 3"]["harmful"] is None and found["question 3"]["chosen_severity"] is None
    nullable = pd.DataFrame([{**row, "chosen_severity": i % 2 or None} for i, row in enumerate(GOOD)])
    nullable.to_parquet(tmp_path / "nullable.parquet")
    train, heldout = file_pairs(str(tmp_path / "nullable.parquet"), 0.3, seed=0)
    assert {row["chosen_severity"] for part in (train, heldout) for row in part.rows} == {None, 1}


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_confidence_comes_along_where_a_file_has_one(tmp_path, kind):
    rows = [{**row, "confidence": i / 40} for i, row in enumerate(GOOD)]
    rows[3]["confidence"] = None
    train, heldout = file_pairs(write(tmp_path / f"pairs.{kind}", rows), 0.3, seed=0)
    found = {row["prompt"][0]["content"]: row["confidence"] for part in (train, heldout) for row in part.rows}
    assert found == {row["prompt"]: row["confidence"] for row in rows}


def test_conversations_that_repeat_the_prompt_lose_it(tmp_path):
    """As ultrafeedback_binarized has them."""
    user = {"role": "user", "content": "q"}
    answers = [{"role": "assistant", "content": text} for text in ("good", "bad")]
    rows = [
        {"prompt": "q", "chosen": [user, answers[0]], "rejected": [user, answers[1]]},
        {"prompt": "other", "chosen": [user, answers[0]], "rejected": [user, answers[1]]},
        {"prompt": "q", "chosen": [user], "rejected": [answers[1]]},
    ]
    train, heldout = file_pairs(write(tmp_path / "a.jsonl", rows), 0.3, seed=0)
    (row,) = train.rows + heldout.rows
    assert row["chosen"] == [answers[0]] and row["rejected"] == [answers[1]]
    assert all("is not one message of the assistant" in row["reason"] for row in train.quarantined)


def _conversation(*contents: str) -> list[dict]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
def test_prompts_within_conversations_are_found_as_trl_finds_them(tmp_path, kind):
    rows = [
        {
            "chosen": _conversation(f"q{i}", "well", "so?", "good"),
            "rejected": _conversation(f"q{i}", "well", "so?", "bad"),
        }
        for i in range(12)
    ]
    train, heldout = file_pairs(write(tmp_path / f"pairs.{kind}", rows), 0.2, seed=0)
    ours = {json.dumps([row["prompt"], row["chosen"], row["rejected"]]) for row in [*train.rows, *heldout.rows]}
    theirs = [extract_prompt(row) for row in rows]
    assert ours == {json.dumps([row["prompt"], row["chosen"], row["rejected"]]) for row in theirs}


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [
        (_conversation("q", "a"), _conversation("q", "a"), "chosen and rejected are the same"),
        (_conversation("q", "a"), _conversation("other", "b"), "don't begin with the same message"),
        (_conversation("q", "a", "and?", "b"), _conversation("q", "c", "and?", "b"), "chosen is not one message"),
        (_conversation("q", "a"), _conversation("q", "a", "and?", "b"), "chosen is not one message"),
        (_conversation("q", "a"), _conversation("q", "b") + _conversation("more"), "rejected is not one message"),
        ("Human: q Assistant: a", "Human: q Assistant: b", "are not two conversations"),
        (_conversation("q", "a"), "b", "are not two conversations"),
        ([None, 3], [None, 4], "not a message with role and content"),
    ],
)
def test_conversations_without_a_prompt_in_common_are_set_aside(tmp_path, chosen, rejected, reason):
    rows = [*GOOD, {"chosen": chosen, "rejected": rejected}]
    train, _ = file_pairs(write(tmp_path / "pairs.jsonl", rows), 0.3, seed=0)
    assert [row["line"] for row in train.quarantined] == [41] and reason in train.quarantined[0]["reason"]


def test_bytes_that_are_no_text_are_set_aside(tmp_path):
    csv, jsonl = tmp_path / "a.csv", tmp_path / "a.jsonl"
    csv.write_bytes(b"prompt,chosen,rejected\nq,caf\xe9,b\nq2,a,b\n")
    jsonl.write_text('{"prompt": "a\\ud83d", "chosen": "b", "rejected": "c"}\n')
    for path, reason in ((csv, "not valid UTF-8"), (jsonl, "half a character")):
        train, _ = file_pairs(str(path), 0.3, seed=0)
        assert reason in train.quarantined[0]["reason"]


def test_a_field_of_any_length_is_read(tmp_path):
    path = write(tmp_path / "a.csv", [{**GOOD[0], "chosen": "long " * 50000}])
    train, heldout = file_pairs(path, 0.3, seed=0)
    assert len((train.rows + heldout.rows)[0]["chosen"][0]["content"]) > 200000
