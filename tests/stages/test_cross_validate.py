"""The stage on a small world: every pair is scored by a fit to other prompts' pairs, and a killed run goes on."""

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch

from alignment.data.prompt_folds import same_prompts
from alignment.inputs.job import Job
from alignment.inputs.pairs import given_pairs
from alignment.models.fold_scores import SCORERS
from alignment.reports.scorer_comparison import comparison_tables
from alignment.reports.tables import as_text
from alignment.runs import artifacts
from alignment.runs.manifest import Rows
from alignment.runs.ranks import Ranks
from alignment.runs.run_files import RunDir
from alignment.settings.compose import compose_config
from alignment.stages import cross_validate
from alignment.types import UserError
from tests.conftest import REPOSITORY

SMALL = ["+recipe=hybrid_reward", "data.pairs=50", "data.heldout=20", "reward.folds=2", "reward.batch_tokens=2048"]


def run(folder: Path, *overrides: str) -> tuple[RunDir, Rows]:
    run, out = RunDir(folder / "run"), folder / "work" / "out"
    out.mkdir(parents=True, exist_ok=True)
    rows = cross_validate.run(Job(compose_config([*SMALL, *overrides]), run, out, Ranks()))
    run.root.mkdir(exist_ok=True)
    out.rename(run.stage("cross_validate"))
    return run, rows


@pytest.fixture(scope="module")
def finished(tmp_path_factory, world_folder):
    return run(tmp_path_factory.mktemp("cross_validate"))


def test_every_pair_is_scored_once_and_its_prompt_is_in_one_fold(finished):
    run, counts = finished
    rows = artifacts.read_rows(run.fold_scores)
    given = [row for part in given_pairs(compose_config(SMALL), None, Ranks()) for row in part.rows]
    assert counts == Rows(70, 70, 0) and [row["id"] for row in rows] == [row["id"] for row in given]
    assert [row["prompt"] for row in rows] == same_prompts([row["prompt"] for row in given]).tolist()
    folds = {row["prompt"]: set() for row in rows}
    for row in rows:
        folds[row["prompt"]].add(row["fold"])
    assert all(len(of_prompt) == 1 for of_prompt in folds.values())
    assert sorted(np.bincount([row["fold"] for row in rows])) == [35, 35]
    assert all(np.isfinite(row[f"{name}_{side}"]) for row in rows for name in SCORERS for side in cross_validate.SIDES)
    assert all(len(row["layers_chosen"]) == 4 for row in rows)


def test_the_report_can_be_computed_again_from_the_scores(finished):
    run, _ = finished
    rows, report = artifacts.read_rows(run.fold_scores), json.loads(run.cross_validation.read_text())
    for name in SCORERS:
        gaps = np.array([row[f"{name}_chosen"] - row[f"{name}_rejected"] for row in rows])
        assert report["scorers"][name]["pair_accuracy"]["mean"] == pytest.approx((np.sign(gaps) + 1).mean() / 2)
    assert report["folds"] == 2 and report["gate"] == "sigmoid_scores" and len(report["layers"]) == 4
    schema = json.loads((REPOSITORY / "alignment/reports/report.schema.json").read_text())
    part = {**schema["properties"]["cross_validation"], "$defs": schema["$defs"]}
    jsonschema.validate(report, part)
    assert "2 folds by prompt" in as_text(comparison_tables(report))


def test_a_killed_run_goes_on_at_the_first_fold_that_is_missing(tmp_path, world_folder, monkeypatch):
    fitted = []

    def scores(train, heldout, *others):
        fitted.append(len(heldout.texts))
        if len(fitted) == 2:
            raise KeyboardInterrupt
        score = torch.arange(2.0 * len(heldout.texts)).view(2, -1)
        return {**{name: score.clone() for name in SCORERS}, "layers": score[:, :, None].expand(2, -1, 4)}

    monkeypatch.setattr(cross_validate, "fold_scores", scores)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert len(list((tmp_path / "work" / "folds").glob("batch-*"))) == 1
    run(tmp_path)
    assert fitted == [35, 35, 35]


def test_more_folds_than_prompts_are_refused_before_a_state_is_read(tmp_path, world_folder, monkeypatch):
    monkeypatch.setattr(cross_validate, "pair_states", None)
    with pytest.raises(UserError, match=r"^reward.folds: \d+ prompts can't be dealt into 100 folds; give fewer folds$"):
        run(tmp_path, "reward.folds=100")


def test_too_few_prompts_are_refused_whatever_the_folds_are():
    for folds in (2, 5):
        with pytest.raises(
            UserError, match=r"^cross_validate: 5 prompts are too few .*; give pairs of 6 prompts or more$"
        ):
            cross_validate._dealt(np.arange(40) % 5, folds, 0)
    with pytest.raises(
        UserError, match=r"^reward.folds: the other folds of fold \d have 20 pairs of 3 prompts; give data"
    ):
        cross_validate._dealt(np.arange(40) % 6, 2, 0)
    assert len(set(cross_validate._dealt(np.arange(40) % 6, 6, 0))) == 6
