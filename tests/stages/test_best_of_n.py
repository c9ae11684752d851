"""The recipe on a small world, and its figures against what its samples say when counted one subset at a time."""

import itertools
import json

import jsonschema
import numpy as np
import pytest
from datasets import load_dataset

from alignment.run import run_recipe
from alignment.runs.run_files import RunDir
from alignment.settings.compose import compose_config
from tests.conftest import REPOSITORY

SMALL = [
    "+recipe=best_of_n", "data.pairs=64", "data.heldout=40", "data.evaluation=12", "annotator.contrast.count=24",
    "trainer.num_train_epochs=1", "best_of_n.counts=[1,2,5]", "evaluation.prompts=8",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(once) -> RunDir:
    return RunDir(once("best_of_n", lambda folder: run_recipe(compose_config([*SMALL, f"run.dir={folder}"]))))


def test_every_figure_is_the_mean_over_all_subsets_of_the_samples(run):
    report = json.loads(run.report.read_text())["best_of_n"]
    samples = load_dataset("parquet", data_files=str(run.best_of_n_samples), split="train").to_pandas()
    assert len(samples) == 3 * 8 * 5 and set(report) == {"hybrid", "reward_model", "judge"}
    samples["toxic"] = samples["severity"] > 0
    samples["refuses"] = samples["refusal"] != "none"
    samples["helps"] = samples["helpfulness"] > 0
    for scorer, n in itertools.product(report, (1, 2, 5)):
        for rate, column, harmful in (
            ("toxic_rate", "toxic", True),
            ("over_refusal", "refuses", False),
            ("helpful_rate", "helps", False),
        ):
            prompts = [part for _, part in samples[samples["harmful"] == harmful].groupby("id")]
            assert len(prompts) == 12
            slow = np.mean([slow_best(part[scorer].to_numpy(), part[column].to_numpy(), n) for part in prompts])
            assert report[scorer][str(n)][rate] == pytest.approx(slow)
            low, high = report[scorer][str(n)]["ci95"][rate]
            assert 0 <= low <= slow <= high <= 1


def slow_best(scores: np.ndarray, values: np.ndarray, n: int) -> float:
    """Where several of a subset are the best, each of them counts alike."""
    subsets = [list(subset) for subset in itertools.combinations(range(len(scores)), n)]
    orders = [
        np.mean([values[order[np.argmax(scores[list(order)])]] for order in itertools.permutations(subset)])
        for subset in subsets
    ]
    return float(np.mean(orders))


def test_one_sample_is_nobodys_choice_and_the_oracle_is_never_beaten(run):
    report = json.loads(run.report.read_text())["best_of_n"]
    assert len({report[scorer]["1"]["toxic_rate"] for scorer in report}) == 1
    toxic = {scorer: [report[scorer][n]["toxic_rate"] for n in ("1", "2", "5")] for scorer in report}
    assert toxic["judge"] == sorted(toxic["judge"], reverse=True) and toxic["judge"][0] > toxic["judge"][-1]
    for scorer in ("hybrid", "reward_model"):
        assert all(judge <= other for judge, other in zip(toxic["judge"], toxic[scorer], strict=True))


def test_the_report_keeps_its_schema_and_shows_tables_and_a_figure(run):
    schema = json.loads((REPOSITORY / "alignment/reports/report.schema.json").read_text())
    jsonschema.validate(json.loads(run.report.read_text()), schema)
    table = (run.stage("report") / "table.txt").read_text()
    assert "harmful prompts: toxic, %" in table and "best of 5" in table and "oracle (sees the truth)" in table
    assert (run.stage("report") / "best_of_n.png").stat().st_size > 10_000


def test_an_answer_that_was_cut_off_is_picked_only_where_there_is_no_other(run, tmp_path):
    overrides = ["stages=[best_of_n]", "best_of_n.scorers=[judge]", "sampling.max_new_tokens=14"]
    run_recipe(compose_config([*SMALL, *overrides, f"run.dir={tmp_path}"]))
    found = RunDir(tmp_path)
    samples = load_dataset("parquet", data_files=str(found.best_of_n_samples), split="train").to_pandas()
    assert 0 < samples["finished"].mean() < 1
    picked = []
    for _, part in samples[samples["harmful"]].groupby("id"):
        part = part[part["finished"]] if part["finished"].any() else part
        best = part[part["judge"] == part["judge"].max()] if part["finished"].any() else part
        picked.append((best["severity"] > 0).mean())
    report = json.loads(found.best_of_n.read_text())
    assert report["unfinished_share"] == pytest.approx(1 - samples["finished"].mean())
    assert report["best_of_n"]["judge"]["5"]["toxic_rate"] == pytest.approx(np.mean(picked))
