"""The page as a file: what is packed comes out again, nothing of a run is markup, and its policy allows no more."""

import base64
import hashlib
import html.parser
import json
import re
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alignment.data.columns import MARGIN_COLUMNS
from alignment.reports.page import page_file
from alignment.reports.page.packed_columns import packed_columns, packed_json
from alignment.reports.page.page_answers import compared_answers
from alignment.reports.page.page_figures import figures
from alignment.reports.page.page_file import SCRIPTS, page_text, with_outside, write_page
from alignment.reports.page.page_pairs import explored_pairs
from alignment.reports.page.page_summary import not_shown, verdict, warnings
from alignment.runs.run_files import RunDir

HOSTILE = '</script><script>alert(1)</script><img src=x onerror="alert(2)"><!-- outside -->'


def opened(block: str) -> bytes:
    return zlib.decompress(base64.b64decode(block))


def blocks(page: str) -> dict[str, bytes]:
    found = re.findall(r'<script type="text/plain" id="data-(\w+)">([^<]*)</script>', page)
    return {name: opened(content) for name, content in found}


def pair(number: int, **more) -> dict:
    answers = {side: [{"role": "assistant", "content": f"{side} {number}"}] for side in ("chosen", "rejected")}
    row = {"id": f"pair-{number}", "source": "own", "prompt": [{"role": "user", "content": f"ask {number}"}], **answers}
    return {**dict.fromkeys(MARGIN_COLUMNS.names), **row, **more}


@pytest.fixture
def run(tmp_path) -> RunDir:
    """A run that annotated three pairs, and fitted a reward on two of them and one more."""
    found = RunDir(tmp_path / "run")
    rows = [pair(n, margin=float(n), margin_raw=n - 1.5, chosen_severity=n, rejected_severity=2) for n in range(3)]
    fitted = pa.schema([*MARGIN_COLUMNS, ("gap", pa.float64()), ("gamma", pa.float64())])
    scored = [
        {**pair(n), "gap": gap, "gamma": gamma} for n, gap, gamma in ((2, -1.0, 0.25), (1, 2.0, 0.9), (7, 0.5, 0.6))
    ]
    for path, content, schema in (
        (found.pairs, rows, MARGIN_COLUMNS), (found.heldout_pairs, rows[:1], MARGIN_COLUMNS),
        (found.fitted_pairs, scored, fitted),
    ):  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(content, schema=schema), path)
    return found


def test_columns_come_out_as_they_went_in():
    """Read here as blocks.js reads them: planes of bytes, one after the other."""
    numbers = {"gamma": np.array([0.2, np.nan, 1.0]), "margin": np.array([-2.0, 1e-6, 12345.678])}
    content = opened(packed_columns(numbers, {"set": ["b", None, "a"]}, ["x", "y", "</script>"]))
    length = int.from_bytes(content[:4], "little")
    head, body = json.loads(content[4 : 4 + length]), content[4 + length :]
    assert head["ids"] == ["x", "y", "</script>"] and head["columns"][2]["words"] == ["a", "b"]

    def plane(size: int, kind: str) -> np.ndarray:
        nonlocal body
        taken, body = body[: 3 * size], body[3 * size :]
        return np.frombuffer(taken, np.uint8).reshape(size, 3).T.copy().view(kind).ravel()

    gamma, margin = plane(4, "<f4"), plane(4, "<f4")
    assert gamma[0] == pytest.approx(0.2, rel=4e-5) and np.isnan(gamma[1]) and gamma[2] == 1
    assert margin.tolist() == pytest.approx([-2.0, 1e-6, 12345.678], rel=4e-5)
    assert plane(2, "<u2").tolist() == [2, 0, 1] and not body


def test_a_column_of_too_many_words_is_left_out():
    words = {"source": [str(number) for number in range(70_000)]}
    assert b'"source"' not in opened(packed_columns({}, words, words["source"]))[:200]


def test_pairs_of_several_stages_are_joined_by_id(run):
    pairs = explored_pairs(run, lambda stage: stage != "build_pairs")
    assert pairs.ids == ["pair-0", "pair-1", "pair-2", "pair-7", "pair-0"]
    assert pairs.words["set"] == ["training"] * 4 + ["held out"]
    np.testing.assert_array_equal(pairs.numbers["gamma"], [np.nan, 0.9, 0.25, 0.6, np.nan])
    np.testing.assert_array_equal(pairs.numbers["margin"], [0, 1, 2, np.nan, 0])
    np.testing.assert_array_equal(pairs.numbers["severity_gap"], [2, 1, 0, np.nan, 2])
    # margin_raw: -1.5, -0.5, 0.5; gap: 2, -1, 0.5
    assert pairs.numbers["against"].tolist() == [1, 1, 1, 0, 1]
    assert pairs.texts([3, 0]) == [["ask 7", "chosen 7", "rejected 7"], ["ask 0", "chosen 0", "rejected 0"]]
    # 0.25 - 0.1, then 0.5 - 0.1 twice, 0.6, 0.9 - 0.1
    assert pairs.doubtful_first().tolist() == [2, 0, 4, 3, 1]
    assert explored_pairs(run, lambda stage: False) is None


def test_a_row_that_stands_twice_stays_two(run):
    pq.write_table(pa.Table.from_pylist([pair(0), pair(0)], schema=MARGIN_COLUMNS), run.pairs)
    assert explored_pairs(run, {"annotate"}.__contains__).ids == ["pair-0", "pair-0#2", "pair-0"]


def test_texts_that_have_no_room_go_into_files_beside_the_page(run, tmp_path, monkeypatch):
    rows = [pair(n, margin=0.0, margin_raw=float(n)) for n in range(30)]
    pq.write_table(pa.Table.from_pylist(rows, schema=MARGIN_COLUMNS), run.pairs)
    for name, value in (("INSIDE", 10), ("PART", 8)):
        monkeypatch.setattr(page_file, name, value)
    write_page(tmp_path / "index.html", {"recipe": "r"}, explored_pairs(run, {"annotate"}.__contains__), None)
    inside = json.loads(blocks((tmp_path / "index.html").read_text())["texts"])["rows"]
    files = sorted(path.name for path in tmp_path.glob("pairs-*.js"))
    assert files == ["pairs-1.js", "pairs-2.js", "pairs-3.js"]  # 21 of 31 pairs, 8 in a file
    others = []
    for name in files:
        called, content = re.fullmatch(
            r'repalignTexts\("([^"]+)","([^"]+)"\)\n', (tmp_path / name).read_text()
        ).groups()
        assert called == name
        others += json.loads(opened(content))["rows"]
    assert len(inside) == 10 and sorted(inside + others) == list(range(31))


def test_the_same_run_gives_the_same_page(run, tmp_path):
    pairs = explored_pairs(run, lambda stage: stage != "build_pairs")
    for name in ("a.html", "b.html"):
        write_page(tmp_path / name, {"recipe": "r"}, pairs, None)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_nothing_of_a_run_becomes_markup_or_script():
    page = page_text(HOSTILE, {"run": packed_json({"recipe": HOSTILE})})
    page = with_outside(page, {"settings": HOSTILE})
    scripts, tags = [], []

    class Reader(html.parser.HTMLParser):
        def handle_starttag(self, tag, attributes):
            tags.append(tag)
            if tag == "script":
                scripts.append(dict(attributes))

    Reader().feed(page)
    assert tags.count("script") == 3 and "img" not in tags
    assert [script.get("id") for script in scripts] == ["data-run", "data-outside", None]
    assert json.loads(blocks(page)["outside"]) == {"settings": HOSTILE}


def test_the_policy_allows_the_pages_own_script_and_style_alone():
    page = page_text("r", {})
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)[1]
    script, style = (
        re.search(r"<script>(.*)</script>", page, re.S)[1],
        re.search(r"<style>(.*?)</style>", page, re.S)[1],
    )
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (script, style)]
    assert policy.split("; ") == [
        "default-src 'none'", f"script-src 'strict-dynamic' 'sha256-{hashes[0]}'", f"style-src 'sha256-{hashes[1]}'",
        "img-src data:", "base-uri 'none'", "form-action 'none'",
    ]  # fmt: skip
    assert "unsafe" not in policy and not re.search(r"https?://(?!github.com/leeoniya|www.w3.org/2000/svg)", page)
    assert "Permission is hereby granted" in script  # uFuzzy's licence


def test_every_script_is_in_the_page_and_none_makes_markup_of_text():
    folder = Path(page_file.__file__).parent / "script"
    assert sorted(path.stem for path in folder.glob("*.js")) == sorted(SCRIPTS)
    for path in folder.glob("*.js"):
        text = path.read_text()
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|fetch\(", text
        )
        assert len(text.splitlines()) <= 300 and max(map(len, text.splitlines())) <= 120, path.name


CHANGE = {
    "metric": "toxic_rate",
    "system": "cdpo",
    "before": "base",
    "set": "s",
    "judge": "j",
    "category": None,
    "n": 90,
}


def test_what_a_run_did_not_show():
    """Less harm is better: -0.1 [-0.2, -0.05] is shown; [-0.2, 0.01] may be nothing; [0.05, 0.2] is worse."""

    def lines(value: float, ends: list[float]) -> list[str]:
        return not_shown({}, {"differences": [{**CHANGE, "value": value, "interval": ends}]})

    assert lines(-0.1, [-0.2, -0.05]) == []
    what = "cdpo against base: toxic answers on s by j, n = 90"
    assert lines(-0.1, [-0.2, 0.01]) == [f"{what}: -10.0 points [-20.0, +1.0], which may be no better"]
    assert lines(0.1, [0.05, 0.2]) == [f"{what}: +10.0 points [+5.0, +20.0]: the interval lies on the wrong side"]
    gain = {"mean": 0.01, "ci95": [-0.01, 0.03]}
    report = {"reward_model": {"gain": {"none": {"all pairs": gain}}}}
    assert not_shown(report, None) == [
        "Margins against no margins, unseen pairs ranked right: +1.0 points [-1.0, +3.0], which may be no gain"
    ]


def test_the_verdict_of_the_gates_and_warnings():
    gate = {"gate": "max_toxic_rate", "limit": 0.1, "value": 0.3, "system": "a", "set": "s", "judge": None}
    assert verdict(None)["state"] == verdict({"gates": []})["state"] == "none"
    assert verdict({"gates": [{**gate, "passed": True}]})["state"] == "held"
    missed = verdict({"gates": [{**gate, "passed": False}, {**gate, "passed": True}]})
    assert missed["state"] == "missed" and len(missed["lines"]) == 1 and len(missed["gates"]) == 2
    sound = {"system": "a", "seed": 0, "broken": [], "unfinished": 0.2}
    counts = {
        "induce": {"read": 10, "written": 8, "quarantined": 2},
        "judge": {"read": 1, "written": 1, "quarantined": 0},
    }
    assert warnings({"soundness": [sound]}, None, counts, {}) == [
        "a: 20.0% of its answers were cut off before their end",
        "induce: 2 of 10 rows couldn't be used; induce/quarantine.jsonl says why",
    ]


def test_figures_have_what_the_scorecard_says():
    number = {"metric": "toxic_rate", "set": "s", "judge": "j", "interval": [0.1, 0.3], "n": 30}
    card = {
        "systems": [{"name": "base"}, {"name": "after"}],
        "numbers": [
            {**number, "system": "base", "value": 0.2, "category": None},
            {**number, "system": "after", "value": 0.15, "category": None},
            *({**number, "system": "after", "value": 0.1, "category": f"S{n}", "n": n} for n in range(20)),
        ],
    }
    rates, categories = figures({}, card, [], None)
    assert [line["points"] for line in rates["series"]] == [
        [{"x": "s", "y": 0.2, "low": 0.1, "high": 0.3, "n": 30}],
        [{"x": "s", "y": 0.15, "low": 0.1, "high": 0.3, "n": 30}],
    ]
    assert [point["x"] for point in categories["series"][1]["points"]] == [f"S{n}" for n in range(19, 7, -1)]
    assert "8 more are in scorecard.json" in categories["says"]


def test_answers_stand_beside_each_other_with_every_judges_verdict(monkeypatch):
    asked = {"set": "s", "asks": "harmful", "category": None, "prompt": "p", "unfinished": False}
    answers = [{**asked, "system": system, "seed": seed, "id": "1", "answer": f"{system} {seed}"}
               for system in ("base", "after") for seed in (0, 1)]  # fmt: skip
    said = {"set": "s", "id": "1", "judge": "j", "toxic": True, "refused": None, "reason": "it says so"}
    verdicts = [{**said, "system": "after", "seed": seed, "verdict": "not_safe"} for seed in (0, 1)]
    (prompt,) = compared_answers(answers, verdicts, ["base", "after"])["prompts"]
    assert prompt["answers"] == [
        {"text": "base 0", "unfinished": False, "verdicts": []},
        {"text": "after 0", "unfinished": False, "verdicts": [["j", "not safe", True, None, "it says so"]]},
    ]
