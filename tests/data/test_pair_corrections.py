"""Corrections of pairs, as the report page exports them: what they do to labels, and which lines are refused."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from alignment.data.columns import PAIR_COLUMNS, Loaded, pair
from alignment.data.pair_corrections import corrected, digest, flipped, in_words, read_corrections
from alignment.data.row_table import RowTable
from alignment.inputs.fingerprints import fingerprint
from alignment.inputs.pairs import given_pairs
from alignment.runs.ranks import Ranks
from alignment.runs.run_files import RunDir
from alignment.settings.compose import compose_config
from alignment.types import UserError


def row(name: str, source: str = "own", **more) -> dict:
    return pair({"prompt": "p", "chosen": f"c {name}", "rejected": f"r {name}", **more}, name, source)


def written(folder: Path, *lines: dict | str) -> str:
    path = folder / "flags.jsonl"
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return str(path)


def parts(rows: list[dict], table: bool) -> Loaded:
    return Loaded(RowTable(pa.Table.from_pylist(rows, schema=PAIR_COLUMNS)) if table else rows)


@pytest.mark.parametrize("table", [False, True])
def test_pairs_are_flipped_dropped_and_weighted(tmp_path, table):
    train = parts([row("a"), row("b"), row("c"), row("d"), row("a", "other")], table)
    heldout = parts([row("e"), row("f")], table)
    lines = [
        {"id": "a", "source": "other", "action": "flip"}, {"id": "b", "source": "own", "action": "drop", "note": "no"},
        {"id": "c", "action": "reweight", "weight": 2}, {"id": "d", "action": None, "note": "I wonder"},
        {"id": "f", "set": "held out", "action": "flip"},
    ]  # fmt: skip
    corrections = read_corrections(written(tmp_path, *lines, ""))
    assert in_words(corrections) == "2 flipped, 1 dropped, 1 reweighted"
    train, heldout = corrected(train, heldout, corrections)
    learned = [(made["id"], made["source"], made["chosen"][0]["content"]) for made in train.rows]
    assert learned == [
        ("a", "own", "c a"),
        ("c", "own", "c c"),
        ("c", "own", "c c"),
        ("d", "own", "c d"),
        ("a", "other", "r a"),
    ]
    assert [made["chosen"][0]["content"] for made in heldout.rows] == ["c e", "r f"]


def test_with_the_answers_all_that_is_said_of_them_is_exchanged():
    given = row("a", chosen_severity=2, rejected_severity=0, chosen_helpfulness=3, confidence=0.75, margin=1.5)
    turned = flipped(given)
    assert turned["chosen"] == given["rejected"] and turned["rejected"] == given["chosen"]
    assert (turned["chosen_severity"], turned["rejected_severity"]) == (0, 2)
    assert (turned["chosen_safe"], turned["rejected_safe"]) == (True, False)
    assert (turned["chosen_helpfulness"], turned["rejected_helpfulness"]) == (None, 3)
    assert turned["confidence"] == 0.25 and turned["given_margin"] == -1.5
    assert flipped(turned) == given


def test_a_weight_between_is_drawn_by_the_id(tmp_path):
    """Of 400 pairs with a weight of 1.25 about a hundred are learned from twice, the same ones every time."""
    rows = [row(str(number)) for number in range(400)]
    lines = [{"id": str(number), "action": "reweight", "weight": 1.25} for number in range(400)]
    corrections = read_corrections(written(tmp_path, *lines))
    names = [[made["id"] for made in corrected(Loaded(rows), Loaded([]), corrections)[0].rows] for _ in range(2)]
    assert names[0] == names[1] and 470 < len(names[0]) < 530 and len(set(names[0])) == 400


def test_of_an_id_that_stands_twice_the_page_says_which(tmp_path):
    rows = [row("a"), row("b"), row("a", chosen="x")]
    corrections = read_corrections(written(tmp_path, {"id": "a#2", "source": "own", "action": "drop"}))
    assert corrected(Loaded(rows), Loaded([]), corrections)[0].rows == rows[:2]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "line 2: it is no json"),
        ("[]", "line 2: it is no object with id and action"),
        ({"id": 1, "action": "flip"}, "line 2: id must be text"),
        ({"id": "a", "action": "turn"}, "line 2: action is 'turn', and not one of flip, drop, reweight"),
        ({"id": "a", "action": "reweight"}, "line 2: weight is None, and not a number of 0 or more"),
        ({"id": "a", "action": "reweight", "weight": -1}, "line 2: weight is -1"),
        ({"id": "a", "action": "reweight", "weight": True}, "line 2: weight is True"),
        ({"id": "a", "set": "built", "action": "flip"}, "line 2: 'a' was built of the policy's samples"),
        ({"id": "first", "source": "own", "action": "flip"}, "line 2: 'first' is corrected in line 1 already"),
    ],
)
def test_a_line_that_is_wrong_is_answered_in_one(tmp_path, line, why):
    with pytest.raises(UserError, match=r"data\.corrections") as error:
        read_corrections(written(tmp_path, {"id": "first", "source": "own", "action": "drop"}, line))
    assert why in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ({"id": "z", "action": "flip"}, "line 1: no given pair has the id 'z'"),
        ({"id": "a", "source": "else", "action": "flip"}, "line 1: no given pair of source 'else' has the id 'a'"),
        ({"id": "a", "action": "flip"}, "line 1: 2 pairs have the id 'a'; add their source"),
        ({"id": "e", "action": "reweight", "weight": 2}, "line 1: 'e' is held out, where every pair counts once"),
    ],
)
def test_a_correction_of_no_pair_is_refused(tmp_path, line, why):
    train, heldout = Loaded([row("a"), row("a", "other")]), Loaded([row("e")])
    with pytest.raises(UserError) as error:
        corrected(train, heldout, read_corrections(written(tmp_path, line)))
    assert why in str(error.value).replace(": add", "; add")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"there is no file .*none\.jsonl"):
        read_corrections(str(tmp_path / "none.jsonl"))


def test_a_run_learns_from_corrected_pairs_and_its_manifests_count_them(tmp_path, capsys):
    """And a note changes neither."""

    def of(*lines: dict):
        path = written(tmp_path, *lines)
        return compose_config(["+recipe=cdpo", "data.pairs=20", "data.heldout=10", f"data.corrections={path}"])

    run, ranks = RunDir(tmp_path / "run"), Ranks()
    plain = compose_config(["+recipe=cdpo", "data.pairs=20", "data.heldout=10"])
    before, _ = given_pairs(plain, run, ranks)
    first, second = before.rows[0]["id"], before.rows[1]["id"]
    cfg = of({"id": first, "source": "world", "action": "flip"}, {"id": second, "source": "world", "action": "drop"})
    after, _ = given_pairs(cfg, run, ranks)
    assert after.rows == [flipped(before.rows[0]), *before.rows[2:]]
    assert "corrections of" in capsys.readouterr().out
    told = fingerprint("data", cfg)
    assert told.startswith(f"{fingerprint('data', plain)}; corrected: 1 flipped, 1 dropped, 0 reweighted (")
    noted = of(
        {"id": second, "source": "world", "action": "drop"},
        {"id": first, "source": "world", "action": "flip", "note": "x"},
    )
    assert fingerprint("data", noted) == told
    other = of({"id": first, "source": "world", "action": "drop"}, {"id": second, "source": "world", "action": "flip"})
    assert fingerprint("data", other) != told


def test_the_order_of_lines_is_no_part_of_what_they_do(tmp_path):
    lines = [{"id": "a", "action": "flip"}, {"id": "b", "action": "reweight", "weight": 0.5}]
    assert digest(read_corrections(written(tmp_path, *lines))) == digest(
        read_corrections(written(tmp_path, *lines[::-1]))
    )
