"""Other contrasts and directions on a small world, as a user gives them: what is induced, read and said."""

import json

import numpy as np
import pytest

from alignment.data.columns import Loaded
from alignment.data.contrast import refusals
from alignment.run import run_recipe
from alignment.runs import artifacts
from alignment.runs.run_files import RunDir
from alignment.settings.compose import compose_config
from alignment.stages.annotate import _drawn
from alignment.types import UserError
from alignment.world import grammar
from tests import small_recipe

ANNOTATE = ["stages=[induce,annotate]", "annotator.contrast.count=20", "data.pairs=60", "data.heldout=20"]


@pytest.fixture
def annotated(tmp_path):
    def run(*overrides: str) -> RunDir:
        run_recipe(compose_config([*small_recipe.SMALL, *ANNOTATE, f"run.dir={tmp_path / 'run'}", *overrides]))
        return RunDir(tmp_path / "run")

    return run


def calibration(run: RunDir) -> dict:
    return json.loads(run.calibration.read_text())


def test_matched_sets_refusals_of_all_lengths_against_answers_as_long(annotated, world_folder, capsys):
    run = annotated("annotator=matched")
    induced, texts = artifacts.read_rows(run.induced), refusals(None)
    assert [row["positive"][0]["content"] for row in induced] == [texts[i % 30] for i in range(20)]
    assert "induced answers are read at equal length" in capsys.readouterr().out
    found = calibration(run)
    assert found["direction"] == "discriminant" and found["shrinkage"] > 0 and found["halves"]["pairs"] == 20
    assert set(found["separation_by_layer"]) == {"1", "2", "3", "4"}


def test_answers_under_a_system_prompt_stand_against_the_models_own(annotated, world_folder):
    run = annotated("annotator.contrast.positive=safe_prompt", "annotator.labels=12", "annotator.layer=3")
    induced = artifacts.read_rows(run.induced)
    differ = [row["positive"] != row["negative"] for row in induced]
    assert np.mean(differ) > 0.5 and all(len(row["prompt"]) == 1 for row in induced), "it is read without it"
    labels = calibration(run)["labels"]
    assert labels["pairs"] == 12 and labels["without"]["layer"] == 3
    gain = calibration(run)["heldout"]["ranked_right"]["mean"] - labels["without"]["ranked_right"]["mean"]
    assert labels["gain"]["mean"] == pytest.approx(gain)


def test_labelled_answers_make_a_direction_without_a_model(annotated, world_folder, tmp_path):
    prompts = [prompt.text for prompt in grammar.questions(60, seed=9, harmful=True)]
    rows = [
        {"prompt": prompt, "response": f"{'sorry i will not' if i % 2 else 'yes take the'} {prompt}",
         "label": "safe" if i % 2 else "unsafe"}
        for i, prompt in enumerate(prompts)
    ]  # fmt: skip
    file = tmp_path / "labelled.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    run = annotated(
        f"annotator.contrast.labelled={file}", "annotator.direction=discriminant", "annotator.layer=length_free"
    )
    induced = artifacts.read_rows(run.induced)
    assert 10 <= len(induced) <= 20 and all(row["prompt"] != row["negative_prompt"] for row in induced)
    assert max(calibration(run)["separation_by_layer"].values()) > 3


def test_labels_are_drawn_by_the_seed_in_scope_and_of_different_prompts():
    prompts = [f"question {i // 2}" for i in range(40)]
    train = Loaded([{"prompt": [{"role": "user", "content": prompt}]} for prompt in prompts])
    scope = np.arange(40) < 30
    drawn = _drawn(train, scope, 15, seed=0)
    assert len({prompts[i] for i in drawn}) == 15 and max(drawn) < 30
    assert _drawn(train, scope, 10, seed=0) == drawn[:10] != _drawn(train, scope, 10, seed=1)
    with pytest.raises(UserError, match=r"annotator\.labels: 16 labelled pairs are more than the 15 prompts of the"):
        _drawn(train, scope, 16, seed=0)
