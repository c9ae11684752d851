"""Recipe compare: finished runs beside each other, paired by prompt and seed; the runs are made of files alone."""

import json
from pathlib import Path

import jsonschema
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alignment.run import run_recipe
from alignment.runs import artifacts
from alignment.runs.run_files import RunDir
from alignment.settings.compose import compose_config
from alignment.stages.compare_runs import _sampled_otherwise
from alignment.stages.evaluate import ANSWER_COLUMNS, VERDICT_COLUMNS
from alignment.types import GatesMissed, UserError
from tests.conftest import REPOSITORY

PROMPTS = 20


def finished(root: Path, toxic: int, right: int, prompts: str = "p", temperature: float = 1.0) -> RunDir:
    """A run whose last system answered so many of 20 prompts harmfully; its reward model ranked so many of 20 right."""
    run = RunDir(root)
    answers, verdicts = [], []
    for system, harmful in (("base", PROMPTS), ("cdpo", toxic)):
        for number in range(PROMPTS):
            asked = {"system": system, "seed": 0, "set": "own", "id": f"{prompts}{number}", "asks": "harmful"}
            answers.append({**dict.fromkeys(ANSWER_COLUMNS.names), **asked, "prompt": f"p{number}", "words": 1,
                            "answer": f"{root.name} {system}", "unfinished": False})  # fmt: skip
            said = {"judge": "guard", "toxic": number < harmful, "unparsed": False}
            said["verdict"] = "unsafe" if said["toxic"] else "safe"
            verdicts.append({**dict.fromkeys(VERDICT_COLUMNS.names), **asked, **said})
    for path, rows, schema in ((run.answers, answers, ANSWER_COLUMNS), (run.verdicts, verdicts, VERDICT_COLUMNS)):
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    systems = [{"name": name, "model": name} for name in ("base", "cdpo")]
    sampled = {"temperature": temperature, "seeds": [0]}
    record = {"systems": systems, "judges": {"guard": {"judge": "guard"}}, "decoding": {"sampled": sampled}, "sets": {}}
    artifacts.write_json(run.evaluation_record, record)
    manifest = {"stage": "evaluate", "config": {}, "inputs": {}, "versions": {}, "rows": None, "files": {}}
    artifacts.write_json(run.stage("evaluate") / "manifest.json", manifest)
    scores = [{"set": "held", "id": str(n), "prompt_hash": n, "margins": "none", "seed": 0,
               "chosen_score": float(n < right), "rejected_score": 0.5} for n in range(20)]  # fmt: skip
    run.reward_scores.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(scores), run.reward_scores)
    artifacts.write_json(run.report, {"recipe": "cdpo"})
    return run


def compare(folder: Path, *overrides: str) -> RunDir:
    run = RunDir(folder / "compare")
    run_recipe(compose_config(["+recipe=compare", f"run.dir={run.root}", *overrides]))
    return run


def test_two_runs_are_paired_by_prompt_and_seed(tmp_path, capsys):
    """12 of 20 answers were toxic and 4 are; 10 of 20 pairs were ranked right and 15 are."""
    finished(tmp_path / "sweep" / "a", toxic=12, right=10)
    finished(tmp_path / "sweep" / "b", toxic=4, right=15)
    run = compare(tmp_path, f"compare.runs={tmp_path}/sweep")
    report = json.loads(run.report.read_text())
    jsonschema.validate(report, json.loads((REPOSITORY / "alignment/reports/report.schema.json").read_text()))
    (gain,) = report["comparison"]["reward_models"]
    assert (gain["before"], gain["after"], gain["n"], gain["mean"]) == ("a", "b", 20, 0.25)
    assert gain["ci95"][0] > 0 and report["comparison"]["notes"] == []
    card = json.loads(run.scorecard.read_text())
    (change,) = [one for one in card["differences"] if one["metric"] == "toxic_rate"]
    assert (change["before"], change["system"], change["n"], change["unpaired"]) == ("a", "b", 20, 0)
    assert change["value"] == pytest.approx(-0.4) and (change["only_before"], change["only_after"]) == (8, 0)
    assert "toxic answers" in capsys.readouterr().out and run.page_at_top.exists()
    assert [step["name"] for step in card["systems"]] == ["a", "b"]
    again = compare(tmp_path, f"compare.runs={tmp_path}/sweep")
    assert "compare_runs: up to date" in capsys.readouterr().out
    finished(tmp_path / "sweep" / "b", toxic=5, right=15)  # another result is compared anew
    compare(tmp_path, f"compare.runs=[{tmp_path}/sweep/a,{tmp_path}/sweep/b]")
    card = json.loads(again.scorecard.read_text())
    assert [one["value"] for one in card["differences"] if one["metric"] == "toxic_rate"] == [pytest.approx(-0.35)]


def test_what_can_not_be_paired_is_said(tmp_path, capsys):
    finished(tmp_path / "a", toxic=12, right=10)
    finished(tmp_path / "b", toxic=4, right=15, prompts="q", temperature=0.7)
    (tmp_path / "c").mkdir()
    artifacts.write_json(tmp_path / "c" / "report.json", {"recipe": "legend_rm"})
    run = compare(tmp_path, f"compare.runs=[{tmp_path}/a,{tmp_path}/b,{tmp_path}/c]")
    report = json.loads(run.report.read_text())
    assert report["comparison"]["notes"] == [
        "c evaluated no policy",
        "b was sampled otherwise than a: temperature 0.7 for 1.0",
        "b and a share no prompt and seed of own: their figures there are unpaired",
    ]
    assert json.loads(run.scorecard.read_text())["differences"] == []


def test_seeds_may_differ():
    records = {
        name: {"decoding": {"sampled": {"top_p": 1.0, "seeds": seeds}}} for name, seeds in (("a", [0]), ("b", [1]))
    }
    assert _sampled_otherwise(records) == []


def test_a_gate_decides_on_the_comparison(tmp_path):
    finished(tmp_path / "a", toxic=4, right=10)
    finished(tmp_path / "b", toxic=12, right=10)
    with pytest.raises(GatesMissed, match="max_toxic_increase=0 is missed"):
        compare(tmp_path, f"compare.runs=[{tmp_path}/a,{tmp_path}/b]", "scorecard.gate.max_toxic_increase=0")


@pytest.mark.parametrize(
    ("runs", "why"),
    [
        ("compare.runs=[]", "compare.runs: a value is required"),
        ("compare.runs=[{a}]", "two different runs are wanted"),
        ("compare.runs=[{a},{a}]", "two different runs are wanted"),
        ("compare.runs=[{a},{a}/none]", "none has no report.json"),
    ],
)
def test_other_folders_are_refused_in_a_line(tmp_path, runs, why):
    finished(tmp_path / "a", toxic=1, right=1)
    with pytest.raises(UserError, match=why):
        compare(tmp_path, runs.format(a=tmp_path / "a"))


def test_a_damaged_run_is_named(tmp_path):
    finished(tmp_path / "a", toxic=1, right=1)
    run = finished(tmp_path / "b", toxic=1, right=1)
    (run.stage("evaluate") / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"b/evaluate: manifest\.json is not readable"):
        compare(tmp_path, f"compare.runs=[{tmp_path}/a,{tmp_path}/b]")
