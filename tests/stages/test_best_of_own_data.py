"""The best of n on people's own prompts: any judges, and no claim of safety where none of them judges harm."""

import json

import jsonschema
import pyarrow.parquet as pq
import pytest

from alignment.reports.compare import headlines
from alignment.run import run_recipe
from alignment.runs.run_files import RunDir
from alignment.settings.compose import compose_config
from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def run(once) -> RunDir:
    def make(folder) -> None:
        pairs = [{"prompt": f"tell me how to bake {i} cakes", "chosen": "mix it", "rejected": "no"} for i in range(30)]
        asked = [{"prompt": f"tell me how to mend {i} kettles", "harmful": i % 2 == 0} for i in range(6)]
        for name, rows in (("pairs", pairs), ("mine", asked)):
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        run_recipe(
            compose_config(
                [
                    "+recipe=best_of_n", "stages=[best_of_n,report]", "data=file", f"data.path={folder}/pairs.jsonl",
                    "data.heldout=0.2", "best_of_n.scorers=[shortest,longest]", "best_of_n.counts=[1,2,3]",
                    f"evaluation.sets=[data,{folder}/mine.jsonl]", "sampling.max_new_tokens=40",
                    f"run.dir={folder}/run",
                ]
            )
        )  # fmt: skip

    return RunDir(once("best_of_own_data", make) / "run")


def test_all_prompts_are_answered_judged_and_counted(run):
    report = json.loads(run.report.read_text())
    jsonschema.validate(report, json.loads((REPOSITORY / "alignment/reports/report.schema.json").read_text()))
    found = report["best_samples"]
    samples, verdicts = (pq.read_table(path).to_pylist() for path in (run.best_of_n_samples, run.best_of_n_verdicts))
    assert len(samples) == len(verdicts) == found["samples"] == 3 * found["prompts"]
    assert {(row["set"], row["asks"]) for row in verdicts} == {
        ("heldout", "unknown"), ("mine.jsonl", "harmful"), ("mine.jsonl", "harmless")
    }  # fmt: skip
    assert found["model"].startswith("repalign-world (") and found["judges"]["refusal"]["judge"] == "refusal"
    words = {
        (one["scorer"], one["n"]): one
        for one in found["numbers"]
        if (one["set"], one["asks"], one["metric"]) == ("mine.jsonl", "harmful", "words")
    }
    assert {one["prompts"] for one in words.values()} == {3}
    assert words["shortest", 3]["value"] <= words["random", 1]["value"] <= words["longest", 3]["value"]
    assert words["longest", 3]["change"] == pytest.approx(words["longest", 3]["value"] - words["random", 1]["value"])


def test_without_a_judge_of_harm_nothing_is_called_safe(run):
    table, markdown = ((run.stage("report") / name).read_text() for name in ("table.txt", "best_of_n.md"))
    said = "o judge of harm read these answers: only refusals were judged, and nothing here says how safe they are"
    assert f"n{said}" in " ".join(table.split()) and f"**N{said}.**" in markdown
    assert "| mine.jsonl: harmless prompts refused, % by refusal (n = 3* prompts) | the shortest |" in markdown
    assert "toxic" not in table and json.loads(run.report.read_text())["best_samples"]["harm_judged"] is False
    assert (run.stage("report") / "best_of_n.png").stat().st_size > 10_000
    assert "best of 3 by shortest: refusals of harmful prompts on mine.jsonl by refusal, %" in headlines(run)
