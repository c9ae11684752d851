"""The recipe `real` in small: a real language model and real pairs, from the package to the report."""

import json
import os
import re
from pathlib import Path

import jsonschema
import pytest

from alignment.models.smollm2 import GGUF_HASH
from alignment.plan import plan
from alignment.runs.run_files import RunDir
from alignment.settings.compose import compose_config
from alignment.types import UserError
from tests import small_recipe
from tests.conftest import REPOSITORY

SMALL = [
    "+recipe=real", "data.rows=40", "data.heldout=0.02", "annotator.contrast.count=12",
    "reward_model.margins=[legend]", "trainer.max_steps=2", "trainer.batch_size=4",
    "trainer.logging_steps=1", "trainer.save_steps=2", "trainer.max_length=256",
    "reward.pairs=40", "guard.count=300", "judge.calibration_rows=40", "build_pairs.prompts=4", "policy.max_steps=1",
    "policy.batch_size=4", "policy.max_length=256",
    "best_of_n.counts=[1,2,4]", "evaluation.prompts=4",
    "sampling.max_new_tokens=24",
]  # fmt: skip


def test_without_pairs_one_line_says_how_to_give_some(tmp_path):
    """Before it asks for anything else: a model of 93 MB, questions, prompts."""
    cfg = compose_config(["+recipe=real", f"data.folder={tmp_path}", f"run.dir={tmp_path}/run"])
    with pytest.raises(UserError, match=r"^pku_saferlhf: looked for [^\n]*give pairs of yours: data=file data.path=pa"):
        plan(cfg, RunDir(tmp_path / "run"))


@pytest.fixture(scope="module")
def report(once, shared_data) -> dict:
    """Of one run for all workers. pip fetches the package from its own index; only outside CI may there be none."""
    folders = [f"{group}.folder={shared_data}" for group in ("data", "evaluation", "judge")]

    def make(folder: Path) -> None:
        done = small_recipe.run(folder, *SMALL, *folders, check=False)
        (folder / "errors").write_text(done.stderr)
        assert done.returncode == 0 or "pip can't fetch" in done.stderr, done.stdout + done.stderr

    folder = once("real-in-small", make)
    if not (folder / "run/report.json").exists():
        assert os.environ.get("CI") != "true", (folder / "errors").read_text()
        pytest.skip((folder / "errors").read_text().strip().splitlines()[-1])
    return json.loads((folder / "run/report.json").read_text())


@pytest.mark.slow
def test_the_report_keeps_its_schema_and_says_of_what_it_is(report):
    jsonschema.validate(report, json.loads((REPOSITORY / "alignment/reports/report.schema.json").read_text()))
    assert report["best_samples"]["model"] == (
        f"SmolLM2-135M-Instruct.Q4_1 (dequantised from the GGUF file with the hash {GGUF_HASH[:16]})"
    )
    (source,) = report["data"]["sources"]
    assert source["read"] == source["used"] + source["quarantined"] and all(
        re.fullmatch("[0-9a-f]{64}", digest) for digest in source["hashes"]
    )


@pytest.mark.slow
def test_every_number_is_finite_and_of_as_many_as_were_asked(report):
    """No word on whether the methods work: forty pairs and two steps can't say."""
    best, heldout = report["best_samples"], report["data"]["heldout"]
    assert report["data"]["train"] == 40 and heldout > 0
    assert best["samples"] == 4 * best["prompts"] and 9 <= best["prompts"] <= 12
    assert {one["n"] for one in best["numbers"]} == {1, 2, 4}
    assert {one["scorer"] for one in best["numbers"]} == {"random", "hybrid", "reward_model", "shortest", "longest"}
    for one in (*best["numbers"], *best["scores"]):
        assert one["prompts"] <= best["prompts"] and json.loads(json.dumps(one["value"], allow_nan=False)) is not None
    assert {one["scored_by"] for one in best["scores"]} == {"hybrid", "reward_model"} and best["harm_judged"] is True
    assert {"refusal", "probe"} == set(best["judges"]) and best["judges"]["probe"]["fit"] == "judge"
    assert report["guard"]["fit"] == "judge" and report["guard"]["scorers"]["guard"]["answers"] <= 300
    assert 0 < report["annotation"]["pairs"] <= heldout and 1 <= report["annotation"]["layer"] <= 30
    assert 0 <= report["annotation"]["ranked_right"]["mean"] <= 1
    assert 0 <= report["reward_model"]["legend"]["accuracy"]["mean"] <= 1
    assert report["reward_model"]["legend"]["accuracy"]["n"] <= heldout
    assert len(report["hybrid"]["layers"]) == 30 and 0 <= report["hybrid"]["soft"] <= 1
    json.dumps(report, allow_nan=False)
