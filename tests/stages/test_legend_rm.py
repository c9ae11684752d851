"""The recipe on a small world, run once as a user would: every file, and what happens on the second call."""

import json
import re
import shutil
from collections.abc import Callable

import jsonschema
import numpy as np
import pytest
import torch
from datasets import load_dataset
from safetensors import safe_open
from scipy.stats import spearmanr
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from alignment.data.chat import chat_format
from alignment.run import run_recipe
from alignment.runs import artifacts
from alignment.runs.run_files import RunDir
from alignment.settings.compose import compose_config
from alignment.types import UserError
from alignment.world.identity import generator_hash, model_hash
from alignment.world.preferences import Drawing
from tests import small_recipe
from tests.conftest import REPOSITORY
from tests.small_recipe import Undisturbed


@pytest.fixture
def finished(undisturbed) -> Undisturbed:
    """One run; tests that change files work on copies."""
    return undisturbed(*small_recipe.SMALL)


@pytest.fixture
def run(finished) -> RunDir:
    return RunDir(finished.run)


@pytest.fixture
def copy(finished, tmp_path):
    shutil.copytree(finished.run, tmp_path / "run")
    return tmp_path


@pytest.fixture
def again(copy, capsys) -> Callable[..., str]:
    """again(*overrides): the recipe once more over the copy, in this process, which saves the imports; what it says."""

    def run(*overrides: str) -> str:
        capsys.readouterr()
        run_recipe(compose_config([*small_recipe.SMALL, f"run.dir={copy / 'run'}", *overrides]))
        return capsys.readouterr().out

    return run


def test_the_report_keeps_its_schema_and_names_the_world(run):
    report = json.loads(run.report.read_text())
    schema = json.loads((REPOSITORY / "alignment/reports/report.schema.json").read_text())
    jsonschema.validate(report, schema)
    assert report["world"] == {"generator": generator_hash(), "model": model_hash()}
    assert {"annotation", "reward_model"} <= set(report)
    assert report["annotation"]["seconds"] > 0


def test_figures_of_the_report_are_those_of_the_scores(run):
    """The slow way, from the parquet file."""
    report = json.loads(run.report.read_text())["reward_model"]
    scores = load_dataset("parquet", data_files=str(run.reward_scores), split="train").to_pandas()
    assert len(scores) == 2 * 180 and set(scores["set"]) == {"same", "objects", "templates"}
    for kind in ("none", "legend"):
        part = scores[scores["margins"] == kind]
        right = (part["chosen_score"] > part["rejected_score"]) + 0.5 * (part["chosen_score"] == part["rejected_score"])
        assert report[kind]["accuracy"]["mean"] == pytest.approx(right.mean())
        assert report[kind]["accuracy_small_gap"]["mean"] == pytest.approx(right[part["severity_gap"] == 1].mean())
    gain = report["legend"]["accuracy"]["mean"] - report["none"]["accuracy"]["mean"]
    assert report["gain"]["none"]["all pairs"]["mean"] == pytest.approx(gain)


def test_pairs_are_what_trl_and_datasets_read(run):
    for path, count in ((run.pairs, 96), (run.heldout_pairs, 64)):
        rows = load_dataset("parquet", data_files=str(path), split="train")
        assert len(rows) == count and {"prompt", "chosen", "rejected", "margin", "margin_raw"} <= set(rows.column_names)
        assert rows[0]["prompt"][0]["role"] == "user" and rows[0]["chosen"][0]["role"] == "assistant"
        harmful = np.array(rows["harmful"])
        margins, raw = np.array(rows["margin"]), np.array(rows["margin_raw"])
        assert not margins[~harmful].any() and raw[~harmful].std() > 0
        assert set(margins[harmful].round(6)) <= set(np.linspace(-2, 2, 4).round(6))


def test_calibration_says_how_good_the_margins_are(run):
    calibration = json.loads(run.calibration.read_text())
    assert set(calibration["separation_by_layer"]) == {"1", "2", "3", "4"}
    heldout = calibration["heldout"]
    rows = artifacts.read_rows(run.heldout_pairs)
    raw = np.array([row["margin_raw"] for row in rows if row["harmful"]])
    assert heldout["in_scope"] == len(raw) >= 32  # double-edged pairs are harmful too
    assert heldout["distribution"]["negative_share"] == pytest.approx((raw < 0).mean())
    assert heldout["out_of_scope"]["pairs"] == 64 - len(raw) and heldout["no_end"] == 0
    right = ((raw > 0) + 0.5 * (raw == 0)).mean()
    assert heldout["ranked_right"]["mean"] == pytest.approx(right) and 0.5 < right < 1
    gaps = [row["rejected_severity"] - row["chosen_severity"] for row in rows if row["harmful"]]
    assert heldout["severity"]["spearman"] == pytest.approx(spearmanr(raw, gaps).statistic)


def test_the_direction_travels_with_its_meaning(run):
    with safe_open(run.direction, "pt") as file:
        assert file.get_tensor("direction").shape == (96,)
        meaning = json.loads(file.metadata()["meaning"])
    assert (meaning["direction"], meaning["contrast.questions"], meaning["pooling"]) == ("smv", "harmful", "endpoint")


def test_reward_models_load_as_users_load_them(run):
    """from_pretrained and the pipeline give the scores of the run, up to float32."""
    scores = [row for row in artifacts.read_rows(run.reward_scores) if row["set"] == "same"][:5]
    from alignment.data.world_pairs import world_evaluation_pairs

    pairs = {row["id"]: row for row in world_evaluation_pairs(60, Drawing(0))["same"].rows}
    folder = run.reward_model("none", 0)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    classify = pipeline("text-classification", model=str(folder))
    assert tokenizer.padding_side == "right" and model.config.problem_type == "regression"
    for row in (row for row in scores if row["margins"] == "none"):
        pair = pairs[row["id"]]
        text = chat_format(tokenizer).text(pair["prompt"], pair["chosen"])
        with torch.no_grad():
            loaded = model(**tokenizer(text, return_tensors="pt")).logits.item()
        assert loaded == pytest.approx(row["chosen_score"], abs=1e-4)
        assert classify(text)[0]["score"] == pytest.approx(row["chosen_score"], abs=1e-4)


def test_nothing_published_is_a_pickle(run):
    suffixes = {path.suffix for path in run.root.rglob("*") if path.is_file() and not path.name.startswith(".lock")}
    assert suffixes <= {
        ".json",
        ".jsonl",
        ".parquet",
        ".safetensors",
        ".md",
        ".png",
        ".txt",
        ".yaml",
        ".jinja",
        ".html",
    }
    assert not list((run.root / ".work").glob("*")), "nothing half-done is left"
    card = (run.reward_model("legend", 0) / "README.md").read_text()
    assert (
        "-log sigmoid" in card
        and "| through transformers' text-classification pipeline |" in card
        and generator_hash() in card
    )


def test_the_terminal_shows_stages_and_tables(finished):
    out = finished.output
    for line in ("induce: answers to contrastive questions", "annotate: ", "train_rm: ", "unseen pairs ranked right"):
        assert line in out
    assert "severity gap 1" in out and "gain" in out and "done: run" in out


def test_a_second_call_runs_nothing(copy):
    before = small_recipe.artefacts(copy / "run")
    out = small_recipe.run(copy).stdout
    assert out.count(": up to date") == 4 and "unseen pairs ranked right" in out
    assert small_recipe.artefacts(copy / "run") == before


@pytest.mark.slow
def test_reward_models_are_the_same_bytes_trained_side_by_side(copy, again, monkeypatch):
    """The run had one worker, on one thread; here are two, where torch would take two threads."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    before = small_recipe.artefacts(copy / "run")
    shutil.rmtree(copy / "run" / "train_rm")
    out = again("run.workers=2")
    assert out.count(": up to date") == 3 and "train_rm: reward models" in out
    assert small_recipe.artefacts(copy / "run") == before


def test_margins_beside_legends(copy, again):
    """Shuffled and constant ones stand beside it in report and picture, each trained on the same pairs."""
    again("reward_model.margins=[none,legend,constant,shuffled]")
    report = json.loads(RunDir(copy / "run").report.read_text())
    jsonschema.validate(report, json.loads((REPOSITORY / "alignment/reports/report.schema.json").read_text()))
    rewards = report["reward_model"]
    assert {"none", "legend", "constant", "shuffled"} <= set(rewards)
    scores = load_dataset("parquet", data_files=str(RunDir(copy / "run").reward_scores), split="train").to_pandas()
    assert len({tuple(part["chosen_score"]) for _, part in scores.groupby("margins")}) == 4
    for kind in ("none", "constant", "shuffled"):
        gain = rewards["legend"]["accuracy"]["mean"] - rewards[kind]["accuracy"]["mean"]
        assert rewards["gain"][kind]["all pairs"]["mean"] == pytest.approx(gain)
    assert "over shuffled margins" in (copy / "run" / "report" / "table.txt").read_text()


@pytest.mark.slow
def test_margins_that_reward_models_make(copy, again):
    """Three models without margins teach two others; they are trained first, and those of halves aren't published."""
    said = again("reward_model.margins=[legend,single,crossfit]")
    run = RunDir(copy / "run")
    assert {path.name for path in (copy / "run" / "train_rm").iterdir() if path.is_dir()} == {
        "legend",
        "single",
        "crossfit",
    }
    trained = json.loads(run.reward_summary.read_text())
    assert {name: one["pairs"] for name, one in trained.items()} == dict.fromkeys(trained, 96)
    scores = load_dataset("parquet", data_files=str(run.reward_scores), split="train").to_pandas()
    assert len({tuple(part["chosen_score"]) for _, part in scores.groupby("margins")}) == 3
    report = json.loads(run.report.read_text())
    jsonschema.validate(report, json.loads((REPOSITORY / "alignment/reports/report.schema.json").read_text()))
    assert {"single", "crossfit"} <= set(report["reward_model"]["gain"]) and "are there from" not in said


def test_a_damaged_artefact_is_reported_and_rebuilt(copy, again):
    before = small_recipe.artefacts(copy / "run")
    damaged = copy / "run" / "annotate" / "calibration.json"
    damaged.write_bytes(damaged.read_bytes()[:-20])
    out = again()
    assert "rebuilding: calibration.json is damaged" in out
    assert out.count(": up to date") == 3  # rebuilt to the same bytes, so what was made from it still holds
    assert small_recipe.artefacts(copy / "run") == before


def test_a_plan_says_what_would_run_and_runs_nothing(copy, again):
    before = small_recipe.artefacts(copy / "run")
    out = again("run.plan=true", "trainer.learning_rate=0.01")
    assert "annotate  cached" in out
    assert "train_rm  run     rebuilding: trainer.learning_rate was " in out and ", is 0.01" in out
    assert "report    run" in out
    assert small_recipe.artefacts(copy / "run") == before


def test_one_stage_alone_needs_those_before_it(tmp_path, copy, again):
    with pytest.raises(UserError, match="annotate needs what induce makes"):
        run_recipe(compose_config([*small_recipe.SMALL, f"run.dir={tmp_path / 'empty'}", "stages=[annotate]"]))
    out = again("stages=[annotate]", "annotator.layer=2", "annotator.binning.bins=3")
    assert "rebuilding: annotator.binning.bins was 4, is 3" in out and "train_rm" not in out
    rows = artifacts.read_rows(copy / "run" / "annotate" / "pairs.parquet")
    assert {row["margin"] for row in rows} == {-2.0, 0.0, 2.0}


def test_a_damaged_artefact_is_never_read(copy, again):
    """Not by a later stage, and not by a report of its own."""
    damaged = copy / "run" / "annotate" / "calibration.json"
    damaged.write_text(damaged.read_text().replace('"spearman": 0.', '"spearman": 0.1'))
    out = again("stages=[report]")
    assert "annotate is left out: calibration.json is damaged" in out and "Spearman" not in out
    with pytest.raises(UserError, match="no intact annotate"):
        again("stages=[train_rm]", "reward_model.seeds=[3]")


def test_a_stage_made_from_others_is_not_reported_beside_them(copy, again):
    out = again("stages=[annotate,report]", "annotator.layer=2")
    assert "train_rm is left out: it was made from another annotate" in out
    assert "reward_model" not in json.loads((copy / "run/report.json").read_text())


def test_a_report_survives_the_loss_of_its_timings(copy, again):
    (copy / "run" / "timings.json").unlink()
    again()
    assert json.loads((copy / "run/report.json").read_text())["annotation"]["seconds"] is None


def test_the_readmes_python_snippet(run, world_folder, tmp_path, monkeypatch):
    """As printed there, with this run's pairs, the world's model and two steps."""
    snippet = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)[0]
    snippet = snippet.replace("Qwen/Qwen3-0.6B", str(world_folder)).replace(
        'MarginRewardConfig(output_dir="rm")  #',
        'MarginRewardConfig(output_dir="rm", max_steps=2, use_cpu=True, report_to="none")  #',
    )
    snippet = snippet.replace("runs/legend_rm/annotate/pairs.parquet", str(run.pairs))
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(snippet, names)
    trainer = names["trainer"]
    assert trainer.state.global_step == 2
    assert list(trainer.train_dataset["margin"]) == list(names["pairs"]["margin"])


@pytest.mark.parametrize("stages", ["stages=[train_rm]", "stages=[report]", "stages=[report] run.plan=true"])
def test_a_stage_made_with_other_settings_is_not_taken_for_this_call(copy, again, stages):
    before = (copy / "run/config.yaml").read_text()
    with pytest.raises(UserError, match=r"annotate was made with other settings: annotator\.layer was"):
        again(*stages.split(), "annotator.layer=3")
    assert (copy / "run/config.yaml").read_text() == before
