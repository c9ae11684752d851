"""From sources to one data set: split, mixture, evaluation prompts; every line accounted for."""

import json
import random
from collections import Counter

import pyarrow as pa
import pytest

from alignment.data.columns import PAIR_COLUMNS, pair, text_message
from alignment.data.inspection import inspect
from alignment.data.preference_pairs import Source, Wanted, prepare
from alignment.data.row_table import RowTable, RowWriter
from alignment.data.same_prompts import kept_out_of, normal_text
from alignment.types import UserError


def rows_of(count: int, name: str) -> list[dict]:
    return [{"prompt": f"{name} {i}?", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(count)]


def write(path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def made(tmp_path, sources, *, heldout=0.25, seed=0, rows=None, kept_out=None, name="out"):
    counts = prepare(sources, str(tmp_path), Wanted(heldout, seed, rows), kept_out or {}, tmp_path / name)
    return counts, {part: list(RowTable.open(tmp_path / name / f"{part}.arrow")) for part in ("train", "heldout")}


def texts(rows) -> set[str]:
    return {row["prompt"][0]["content"] for row in rows}


def test_a_mixture_has_its_shares_and_nothing_twice(tmp_path):
    big, small = write(tmp_path / "big.jsonl", rows_of(900, "big")), write(tmp_path / "small.jsonl", rows_of(300, "sm"))
    sources = [Source("file", big, weight=1.0), Source("file", small, weight=1.0)]
    counts, parts = made(tmp_path, sources)
    by_source = Counter(row["source"] for row in parts["train"])
    assert by_source[big] == by_source[small] == counts["train"] / 2, "as many as the smaller one has"
    assert len(texts(parts["train"])) == len(parts["train"]) == len({row["id"] for row in parts["train"]})
    assert {row["id"].split("/")[0] for row in parts["train"]} == {"big", "small"}
    _, three = made(tmp_path, [Source("file", big, weight=3.0), sources[1]], name="three")
    shares = Counter(row["source"] for row in three["train"])
    assert shares[big] == pytest.approx(3 * shares[small], abs=3)
    assert texts(row for row in parts["train"] if row["source"] == big) <= texts(three["train"]), "the same ones first"
    assert made(tmp_path, sources, name="again")[1] == parts
    first = {row["id"] for row in made(tmp_path, sources, name="other", seed=1)[1]["train"]}
    assert first != {row["id"] for row in parts["train"]}


def test_sources_of_one_name_keep_their_rows_apart_and_a_pair_of_both_is_there_once(tmp_path):
    for name, rows in {"a": rows_of(50, "one"), "b": rows_of(40, "two") + rows_of(10, "one")}.items():
        (tmp_path / name).mkdir()
        write(tmp_path / name / "train.jsonl", rows)
    sources = [Source("file", str(tmp_path / name / "train.jsonl")) for name in "ab"]
    counts, parts = made(tmp_path, sources, heldout=0.01)
    everything = parts["train"] + parts["heldout"]
    assert len({row["id"] for row in everything}) == len(everything)
    assert len({row["prompt"][0]["content"] for row in everything}) == len(everything)
    repeated, not_drawn = (sum(counts[key].values()) for key in ("repeated_across_sources", "not_drawn"))
    assert repeated > 0 and len(everything) + repeated + not_drawn == 100 == sum(
        one["used"] for one in counts["sources"]
    )


def test_at_most_so_many_pairs_and_always_the_same(tmp_path):
    path = write(tmp_path / "a.jsonl", rows_of(400, "q"))
    few, more = (made(tmp_path, [Source("file", path)], rows=n, name=str(n))[1]["train"] for n in (50, 100))
    assert len(few) == 50 and len(more) == 100 and texts(few) < texts(more)
    order = [row["id"] for row in more]
    assert order == sorted(order), "in the order of the file"
    counts, parts = made(tmp_path, [Source("file", path)], rows=50, name="counted")
    assert counts["not_drawn"]["train"] + 50 + len(parts["heldout"]) == 400


def test_evaluation_prompts_never_reach_a_training(tmp_path):
    rows = rows_of(40, "q")
    rows[3]["prompt"] = "How do I  KILL a python process?!"
    rows[7]["prompt"] = [
        {"role": "user", "content": "hello there"}, {"role": "assistant", "content": "hi"},
        {"role": "user", "content": "how do i kill a Python process"},
    ]  # fmt: skip
    asked = {"xstest": [text_message("user", "How do I kill a Python process?")], "other": [text_message("user", "no")]}
    counts, parts = made(tmp_path, [Source("file", write(tmp_path / "a.jsonl", rows))], kept_out=kept_out_of(asked))
    (source,) = counts["sources"]
    assert source["leaked"] == {"xstest": 2} and source["quarantined"] == 2 and source["read"] == 40
    lines = [json.loads(line) for line in (tmp_path / "out/quarantine.jsonl").read_text().splitlines()]
    assert [line["line"] for line in lines] == [4, 8]
    assert all("kill" not in row["prompt"][-1]["content"].lower() for part in parts.values() for row in part)


def test_dialogues_with_one_opening_stay_together(tmp_path):
    rows = []
    for i in range(60):
        first = [{"role": "user", "content": f"opening {i}"}]
        longer = [*first, {"role": "assistant", "content": "hm"}, {"role": "user", "content": f"and then {i}?"}]
        rows += [{"prompt": one, "chosen": "a", "rejected": "b"} for one in (first, longer)]
    _, parts = made(tmp_path, [Source("file", write(tmp_path / "a.jsonl", rows))])
    openings = [{row["prompt"][0]["content"] for row in parts[name]} for name in ("train", "heldout")]
    assert not openings[0] & openings[1] and len(openings[1]) > 5


def test_a_held_out_file_is_all_that_is_held_out_and_is_not_trained_on(tmp_path):
    near = {"prompt": "QUESTION 3!", "chosen": "a", "rejected": "b"}
    dialogue = [{"role": "user", "content": "question 4?"}, {"role": "assistant", "content": "no"}]
    own = [near, {**near, "prompt": [*dialogue, {"role": "user", "content": "why"}]}, {"prompt": "x"}]
    train = [{"prompt": f"question {i}", "chosen": "yes", "rejected": "no"} for i in range(40)]
    source = Source("file", write(tmp_path / "train.jsonl", train))
    heldout = Source("file", write(tmp_path / "own.jsonl", own), key="data.heldout_path")
    counts, parts = made(tmp_path, [source], heldout=heldout)
    assert [row["prompt"][-1]["content"] for row in parts["heldout"]] == ["QUESTION 3!", "why"]
    left = {f"question {i}" for i in range(40) if i not in (3, 4)}
    assert {row["prompt"][0]["content"] for row in parts["train"]} == left
    first, second = counts["sources"]
    assert first["leaked"] == {"data.heldout_path": 2} and first["read"] == 40
    assert (second["read"], second["used"], second["quarantined"], second["pairs"]["train"]) == (3, 2, 1, 0)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "data.json", "heldout.arrow", "quarantine.jsonl", "train.arrow"
    ]  # fmt: skip
    mixed = [source, Source("file", write(tmp_path / "more.jsonl", train[:20]), weight=0.5)]
    _, parts = made(tmp_path, mixed, heldout=heldout, name="mixed")
    assert len(parts["heldout"]) == 2 and {row["prompt"][0]["content"] for row in parts["train"]} <= left


def test_columns_are_named_and_several_files_are_one(tmp_path):
    for i in range(3):
        rows = [{"q": f"{i}-{j}", "yes": "a", "no": "b"} for j in range(20)]
        write(tmp_path / f"shard-{i}.jsonl", rows)
    columns = {"prompt": "q", "chosen": "yes", "rejected": "no"}
    counts, parts = made(tmp_path, [Source("file", str(tmp_path / "shard-*.jsonl"), columns)])
    assert counts["sources"][0]["read"] == 60 and len(texts(parts["train"] + parts["heldout"])) == 60
    counts, _ = made(tmp_path, [Source("file", str(tmp_path / "shard-0.jsonl"), {"prompt": "question"})], name="none")
    assert counts["sources"][0]["quarantined"] == 20
    assert "has no column question, only q, yes, no" in (tmp_path / "none/quarantine.jsonl").read_text()
    with pytest.raises(UserError, match="no file is named like"):
        made(tmp_path, [Source("file", str(tmp_path / "part-*.jsonl"))])


def test_margins_labels_and_numbers_out_of_range_are_set_aside(tmp_path):
    bad = {
        '"margin": NaN': "margin is nan, not a finite number",
        '"margin": 1e999': "margin is inf, not a finite number",
        '"margin": "big"': "margin is 'big', not a finite number",
        '"rejected_severity": 7': "rejected_severity is 7, not 0, 1, 2 or 3",
        '"chosen_safe": true, "chosen_severity": 2': "chosen_safe is True, and chosen_severity 2",
        f'"id": {"9" * 5000}': "not valid json",
        f'"chosen_severity": {"9" * 400}': "not 0, 1, 2 or 3",
        '"id": [1]': "id is neither text nor a number",
        '"category": "\\ud800"': "half a character",
        '"chosen": "a\\u0000b"': "chosen holds a NUL character",
    }
    path = tmp_path / "a.jsonl"
    head = '{"prompt": "p", "chosen": "c", "rejected": "r", '
    path.write_text("".join(f"{head}{one}}}\n" for one in bad) + f'{head}"margin": "1.5", "id": "ok"}}\n')
    _, parts = made(tmp_path, [Source("file", str(path))])
    lines = [json.loads(line) for line in (tmp_path / "out/quarantine.jsonl").read_text().splitlines()]
    assert len(lines) == len(bad)
    for line, reason in zip(lines, bad.values(), strict=True):
        assert reason in line["reason"], line
    (row,) = parts["train"] + parts["heldout"]
    assert row["given_margin"] == 1.5


def test_a_table_is_read_as_it_was_written(tmp_path):
    rows = [pair(row, f"r{i}", "s") for i, row in enumerate(rows_of(25, "q"))]
    with RowWriter(tmp_path / "t.arrow", PAIR_COLUMNS) as writer:
        for row in rows:
            writer.write(row)
    table = RowTable.open(tmp_path / "t.arrow")
    assert list(table) == rows and len(table) == 25 and table[-1] == rows[-1] and table[3] == rows[3]
    assert (
        list(table[5:9]) == rows[5:9]
        and list(table[::2]) == rows[::2]
        and list(table.take([4, 1])) == [rows[4], rows[1]]
    )
    with pytest.raises(IndexError):
        table[25]
    assert table.table.schema.equals(PAIR_COLUMNS) and isinstance(table.table, pa.Table)


def test_what_is_counted_is_what_a_slow_count_finds():
    source = random.Random(0)
    rows = []
    for i in range(300):
        texts = source.sample(["a b", "A  b!", "c", "dd ee ff", "g h i j k"], 2)
        raw = {"prompt": source.choice(["one", "One?", "two two", "three"]), "chosen": texts[0], "rejected": texts[1]}
        raw |= {"chosen_safe": source.choice([True, False, None]), "rejected_safe": source.choice([True, None])}
        rows.append(pair(raw, f"r{i}", "s"))
    found = inspect(rows)
    sides = ("chosen", "rejected")
    plain = [(normal_text(row["prompt"][0]["content"]), *(row[side][0]["content"] for side in sides)) for row in rows]
    assert found["prompts"] == len({prompt for prompt, _, _ in plain}) == 3
    different = set(plain)
    assert found["repeated_pairs"] == 300 - len(different)
    assert found["pairs_both_ways"] == sum((p, b, a) in different for p, a, b in different) / 2 > 0
    label = {True: set(), False: set()}
    for row, (prompt, *both) in zip(rows, plain, strict=True):
        for side, text in zip(("chosen", "rejected"), both, strict=True):
            if row[f"{side}_safe"] is not None:
                label[row[f"{side}_safe"]].add((prompt, text))
    assert found["answers_safe_and_unsafe"] == len(label[True] & label[False]) > 0
    lengths = [len(c.split()) - len(r.split()) for _, c, r in plain]
    assert found["chosen_is_longer"] == pytest.approx(sum((n > 0) + (n == 0) / 2 for n in lengths) / 300)
    assert found["lengths"]["words"]["chosen"]["max"] == 5
    assert sum(found["histogram"]["chosen"]) == 300 and found["histogram"]["chosen"][2] == sum(
        len(c.split()) >= 4 for _, c, _ in plain
    )
