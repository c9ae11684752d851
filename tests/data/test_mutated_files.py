"""However a file is broken: a clear line, or what is used and a quarantine that together hold every row; never a
traceback. Preferences, evaluation sets, labelled answers, MMLU and RewardBench alike."""

import codecs
import gzip
import json
import lzma
import random
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alignment.data.answer_files import read_answers
from alignment.data.columns import PAIR_COLUMNS
from alignment.data.files import read_file
from alignment.data.inspection import inspect
from alignment.data.labelled_sets import labelled_in
from alignment.data.mmlu import questions_in
from alignment.data.preference_pairs import PARTS, Source, Wanted, prepare
from alignment.data.prompt_sets import prompts_in
from alignment.data.rewardbench import file_pairs
from alignment.data.row_table import RowTable
from alignment.runs import artifacts
from alignment.types import UserError
from tests.data.mutations import mutated


def check(folder, seed: int) -> str:
    """What became of one file: "refused", "some" or "all"."""
    path, use, name = mutated(folder, seed)
    try:
        aside = _pairs(path, name, folder / f"out-{seed}") if use == "preferences" else _others(path, use, name)
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000
        thing, _, problem = str(error).partition(": ")
        assert thing == ("data.path" if use == "preferences" else name) and problem
        if none := re.match(r"none of (\d+) rows can be used", problem):
            assert (use, name) == ("labels", "do_not_answer") or int(none[1]) == count(path, name), "a row is lost"
        return "refused"
    assert all(row["reason"] and "\n" not in row["reason"] and len(row["reason"]) < 500 for row in aside)
    return "all" if not aside else "some"


def _pairs(path, name: str, out) -> list[dict]:
    """A file of preferences, all the way to pairs; what was set aside."""
    counts = prepare([Source(name, str(path))], str(path.parent), Wanted(0.3, 0), {}, out)
    (source,) = counts["sources"]
    assert source["read"] == source["used"] + source["quarantined"] == count(path, name), "a row is lost"
    aside = [json.loads(line) for line in (out / "quarantine.jsonl").read_bytes().splitlines()]
    assert len(aside) == source["quarantined"] == len({row["line"] for row in aside})
    rows = [row for part in PARTS for row in RowTable.open(out / f"{part}.arrow")]
    assert len(rows) == counts["train"] + counts["heldout"] == len({row["id"] for row in rows})
    for row in rows:
        assert_texts([message["content"] for side in ("prompt", "chosen", "rejected") for message in row[side]])
        assert row["chosen"] != row["rejected"]
    artifacts.write_rows(out / "again.parquet", rows, PAIR_COLUMNS)
    assert pq.read_table(out / "again.parquet").to_pylist() == rows
    json.dumps(inspect(rows), allow_nan=False)
    if name in ("beavertails", "helm_graded"):  # they have a prompt and a response
        answers, judged = read_answers("judge.input", str(path))
        assert judged.read == source["read"] and len(answers) == len(judged.rows)
    return aside


def _others(path, use: str, name: str) -> list[dict]:
    """A file of prompts, labelled answers, questions or RewardBench's pairs; what was set aside."""
    if use == "prompts":
        loaded = prompts_in(name, [path])
    elif use == "labels":
        loaded = labelled_in(name, [path])
    else:
        loaded = questions_in([path], "test") if name == "mmlu" else file_pairs(str(path))
    if (use, name) == ("labels", "do_not_answer"):  # a row of the file holds the answers of several models
        assert sum(1 for _ in read_file(name, str(path))) == count(path, name) <= loaded.read
        assert len({row["line"] for row in loaded.quarantined}) <= count(path, name)
    else:
        assert len(loaded.rows) + len(loaded.quarantined) == count(path, name), "a row is lost"
        assert len({row["line"] for row in loaded.quarantined}) == len(loaded.quarantined)
    assert len({row["id"] for row in loaded.rows}) == len(loaded.rows)
    for row in loaded.rows:
        texts = [message["content"] for side in ("prompt", "chosen", "rejected") for message in row.get(side, ())]
        texts += [row[column] for column in ("response", "question", "subject") if column in row]
        assert_texts([*texts, *row.get("choices", ()), *row.get("also", ())])
    json.dumps(loaded.rows, ensure_ascii=False, allow_nan=False).encode()
    return loaded.quarantined


def assert_texts(texts: list[str]) -> None:
    assert texts and all(text.strip() and "\0" not in text for text in texts)


# ---- rows in a file, counted another way ---------------------------------------------------------------------------


def count(path, name: str) -> int:
    unpack = {".gz": gzip.decompress, ".xz": lzma.decompress}.get(path.suffix, bytes)
    kind = path.with_suffix("").suffix if path.suffix in (".gz", ".xz") else path.suffix
    if kind == ".parquet":
        return pq.read_metadata(path).num_rows
    if kind == ".arrow":
        try:
            return pa.ipc.open_file(path).read_all().num_rows
        except pa.ArrowInvalid:
            return pa.ipc.open_stream(path).read_all().num_rows
    content = unpack(path.read_bytes())
    if kind == ".csv":
        blank = csv_records(content)
        headless = name == "mmlu" and path.suffix == ".csv"  # as its authors publish it
        return blank.count(False) if headless else blank[1:].count(False)
    if kind == ".json":
        return len(json.loads(content.decode("utf-8-sig")))
    lines = [line for line in content.replace(b"\r", b"\n").split(b"\n") if line.strip()]
    if lines and re.match(rb"(\xef\xbb\xbf)?\s*\[", lines[0]):
        try:
            return len(json.loads(content.decode("utf-8-sig")))
        except (ValueError, RecursionError):
            pass
    return len(lines)


def csv_records(content: bytes) -> list[bool]:
    """Of each record of a csv, whether it is a blank line. A quote opens a field or is text; after one that closes come
    a comma or the end, and a line that breaks this is a record with what of it came before."""
    blank, quoted = [], False
    for line in re.findall(rb"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+", content.removeprefix(codecs.BOM_UTF8)):
        rest = line.rstrip(b"\r\n")
        if not quoted:
            blank.append(not rest)
        while rest or quoted:
            if quoted:
                closes = re.match(rb'(?:[^"]|"")*+"', rest)
                if not closes:
                    break
                comma, rest = rest[closes.end() :][:1], rest[closes.end() + 1 :]
                quoted = False
                if comma != b",":
                    break
            elif rest.startswith(b'"'):
                quoted, rest = True, rest[1:]
            else:
                rest = rest.partition(b",")[2]
    assert not quoted, "what follows a quote that is never closed is no field"
    return blank


def test_csv_records_are_counted_right():
    assert csv_records(b"") == []
    assert csv_records(b'a,b\r\n\r"c\n\n,""d""",e\n"",\nf') == [False, True, False, False, False]
    assert csv_records(b'\xef\xbb\xbf"a\nb"\n"c"d,"\ne"f\n" g,"""') == [False, False, False, False]


def many(folder, files: int) -> None:
    seed = random.randrange(10**9)
    print(f"seeds from {seed}")
    found = [check(folder, seed + i) for i in range(files)]
    print({what: found.count(what) for what in ("refused", "some", "all")})
    for what in ("refused", "some", "all"):
        assert found.count(what) > files / 20, f"{what}: the files are broken in one way only"


def test_thirty_mutated_files(tmp_path):
    for seed in range(30):
        check(tmp_path, seed)


@pytest.mark.slow
def test_two_hundred_mutated_files(tmp_path):
    many(tmp_path, 200)


@pytest.mark.soak
def test_five_thousand_mutated_files(tmp_path):
    many(tmp_path, 5000)
