"""Files of answers: every row used or quarantined, and written again with its columns, types and order."""

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alignment.data.answer_files import present, read_answers, refuse_kind, write_answers
from alignment.types import UserError

ADDED = pa.schema([("verdict", pa.string()), ("score", pa.float64())])
ROWS = [
    {"n": 1, "prompt": "a", "response": "b", "more": [1, {"x": None}]},
    {"n": 2, "prompt": [{"role": "user", "content": "c"}], "response": [{"role": "assistant", "content": "dé"}]},
]


def judged(rows: list[dict]) -> list[dict]:
    return [{**row, "verdict": "safe", "score": 0.25 * i} for i, row in enumerate(rows)]


def test_rows_that_cant_be_judged_are_set_aside_with_their_line(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [
        json.dumps(ROWS[0]), "not json", '{"prompt": "", "response": "x"}', '{"prompt": "p", "response": 7}',
        '{"response": "x"}', '{"prompt": "p", "response": "\\ud800"}',
        '{"prompt": "p", "response": "r", "x": "\\udfff"}', '{"prompt": [{"role": "user"}], "response": "r"}',
        '{"prompt": "p", "response": ["r"]}', json.dumps(ROWS[1]),
    ]  # fmt: skip
    path.write_text("\n".join(lines) + "\n")
    answers, loaded = read_answers("judge.input", str(path))
    assert [(one.line, one.prompt[0]["content"], one.response) for one in answers] == [(1, "a", "b"), (10, "c", "dé")]
    assert [row["line"] for row in loaded.quarantined] == list(range(2, 10)) and loaded.read == 10
    assert "has no column prompt, only response" in loaded.quarantined[3]["reason"]
    assert all(row["reason"] and row["source"] == str(path) for row in loaded.quarantined)


EMPTY = ["", "  \n", None, float("nan"), [], [{"role": "assistant", "content": " "}],
         [{"role": "user", "content": "p"}, {"role": "assistant", "content": ""}]]  # fmt: skip


def test_a_row_with_an_empty_response_stays(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"prompt": "p", "response": value}) + "\n" for value in [*EMPTY, "x"]))
    answers, loaded = read_answers("judge.input", str(path))
    assert [one.response for one in answers] == [""] * len(EMPTY) + ["x"] and not loaded.quarantined
    table = tmp_path / "a.csv"
    table.write_text('prompt,response\np,\np," "\np,x\n')
    assert [one.response for one in read_answers("judge.input", str(table))[0]] == ["", "", "x"]


def test_what_json_hasnt_is_null(tmp_path):
    row = {"prompt": "p", "response": "r", "margin": float("nan"), "more": [{"x": float("-inf")}, 1.5]}

    def refuse(word: str) -> None:
        raise AssertionError(word)

    for suffix in (".jsonl", ".json", ".csv"):
        path = tmp_path / f"out{suffix}"
        write_answers(path, suffix, tmp_path / "a.jsonl", judged([row]), ADDED)
        if suffix == ".csv":
            with open(path, newline="") as file:
                more = next(csv.DictReader(file))["more"]
            assert json.loads(more, parse_constant=refuse) == [{"x": None}, 1.5]
            continue
        (found,) = (
            [json.loads(path.read_text(), parse_constant=refuse)]
            if suffix == ".jsonl"
            else json.loads(path.read_text(), parse_constant=refuse)
        )
        assert found == judged([{**row, "margin": None, "more": [{"x": None}, 1.5]}])[0]


def test_jsonl_and_json_keep_every_rows_own_columns(tmp_path):
    for suffix in (".jsonl", ".json"):
        path = tmp_path / f"out{suffix}"
        write_answers(path, suffix, tmp_path / "a.jsonl", judged(ROWS), ADDED)
        text = path.read_text(encoding="utf-8")
        rows = json.loads(text) if suffix == ".json" else [json.loads(line) for line in text.splitlines()]
        assert rows == judged(ROWS) and [list(row) for row in rows] == [list(row) for row in judged(ROWS)]
        assert "dé" in text
        answers, loaded = read_answers("judge.input", str(path))
        assert len(answers) == 2 and not loaded.quarantined


def test_csv_has_all_columns_and_nested_values_as_json(tmp_path):
    path = tmp_path / "out.csv"
    rows = [{**ROWS[0], "prompt": 'a,"b"\nc'}, ROWS[1]]
    write_answers(path, ".csv", tmp_path / "a.jsonl", judged(rows), ADDED)
    with open(path, newline="", encoding="utf-8") as file:
        header, *lines = csv.reader(file)
    assert header == ["n", "prompt", "response", "more", "verdict", "score"]
    assert lines[0] == ["1", 'a,"b"\nc', "b", '[1, {"x": null}]', "safe", "0.0"]
    assert json.loads(lines[1][1]) == ROWS[1]["prompt"] and lines[1][3] == ""


def test_parquet_keeps_its_types_and_others_become_parquet(tmp_path):
    schema = pa.schema(
        [("n", pa.int16()), ("prompt", pa.large_string()), ("response", pa.string()), ("f", pa.float32())]
    )
    source, path = tmp_path / "a.parquet", tmp_path / "out.parquet"
    rows = [{"n": i, "prompt": f"p{i}", "response": "r", "f": None if i else 0.5} for i in range(3)]
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), source)
    answers, _ = read_answers("judge.input", str(source))
    write_answers(path, ".parquet", source, judged([one.row for one in answers]), ADDED)
    written = pq.read_table(path)
    assert written.schema.equals(pa.schema([*schema, *ADDED])) and written.to_pylist() == judged(rows)

    write_answers(path, ".parquet", tmp_path / "a.jsonl", judged([ROWS[1], ROWS[1]]), ADDED)
    assert pq.read_table(path).to_pylist() == judged([ROWS[1], ROWS[1]])
    with pytest.raises(UserError, match=r"judge.output: .* holds values that parquet can't"):
        write_answers(path, ".parquet", tmp_path / "a.jsonl", judged(ROWS), ADDED)  # prompt: text and messages


def test_rows_that_no_parquet_holds_are_found_before_they_are_written(tmp_path):
    for rows in (ROWS, *([{"prompt": "p", "response": "r", "n": value}] for value in (2**70, {}))):
        with pytest.raises(UserError, match=r"judge.output: .* holds values that parquet can't") as error:
            refuse_kind(".parquet", tmp_path / "a.jsonl", rows, ADDED)
        assert "\n" not in str(error.value)
        refuse_kind(".jsonl", tmp_path / "a.jsonl", rows, ADDED)
    refuse_kind(".parquet", tmp_path / "a.jsonl", ROWS[1:], ADDED)


def test_a_column_that_is_there_is_known(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({**ROWS[0], "verdict": "mine"}) + "\n")
    answers, _ = read_answers("judge.input", str(path))
    assert present(answers, ["verdict", "score"]) == ["verdict"]


def test_columns_by_any_name_are_read_and_keep_it(tmp_path):
    path = tmp_path / "a.jsonl"
    row = {"question": "a", "answer": "b", "prompt": "other"}
    path.write_text(f'{json.dumps(row)}\n{{"x": 1}}\n')
    answers, loaded = read_answers("judge.input", str(path), {"prompt": "question", "response": "answer"})
    assert [(one.prompt[0]["content"], one.response) for one in answers] == [("a", "b")]
    assert answers[0].row == row
    assert loaded.quarantined[0]["reason"] == "has no column question, only x"
