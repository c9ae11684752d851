"""A stage is made anew for what shapes it, and for nothing else."""

import json
import os
from pathlib import Path

import pytest

from alignment.inputs import fingerprints
from alignment.launching import slurm
from alignment.models import devices
from alignment.plan import plan, plan_table
from alignment.runner import _seconds_before
from alignment.runs import artifacts
from alignment.runs.manifest import difference
from alignment.runs.run_files import RunDir
from alignment.settings.compose import compose_config
from alignment.types import UserError
from alignment.world.identity import LANGUAGE_MODEL


@pytest.fixture
def own(tmp_path) -> list[str]:
    """Own pairs and an own model."""
    pairs = [{"prompt": f"question {i}", "chosen": "yes", "rejected": "no"} for i in range(40)]
    (tmp_path / "pairs.jsonl").write_text("".join(f"{json.dumps(pair)}\n" for pair in pairs))
    return ["model=local", f"model.path={LANGUAGE_MODEL}", "data=file", f"data.path={tmp_path}/pairs.jsonl"]


def manifests(recipe: str, *overrides: str) -> dict:
    cfg = compose_config([f"+recipe={recipe}", *overrides])
    return {step.stage: step.manifest for step in plan(cfg, RunDir(Path(cfg.run.dir)))}


def changed(recipe: str, given: list[str], *change: str) -> set[str]:
    before, after = manifests(recipe, *given), manifests(recipe, *given, *change)
    return {stage for stage in before if before[stage].key != after[stage].key}


def test_how_long_sampled_answers_may_be_is_for_those_that_sample(own):
    assert changed("cdpo", own, "model.answer_tokens=99") == {"build_pairs", "train_cdpo", "evaluate", "report"}
    assert "train_cdpo" not in changed("cdpo", [*own, "policy.systems=[base,cdpo]"], "model.answer_tokens=99")
    with pytest.raises(UserError, match="it would have no effect: no stage of legend_rm reads it"):
        manifests("legend_rm", "model.answer_tokens=99")


def test_a_policy_of_own_pairs_does_not_depend_on_what_is_evaluated(own):
    """The world's does: its evaluation prompts are kept from training by their number."""
    given = [*own, "policy.systems=[base,cdpo]"]
    assert changed("cdpo", given, "evaluation.prompts=50") == {"evaluate", "report"}
    assert changed("table1", [*own, "policy.systems=[base,cdpo]"], "policy.systems=[base,sft,cdpo]") == {
        "train_sft", "evaluate", "report",
    }, "another system leaves the others as they are"  # fmt: skip
    assert "train_cdpo" in changed("cdpo", ["policy.systems=[base,cdpo]"], "evaluation.prompts=50")


def test_the_device_counts_and_the_precision_that_auto_is_on_it(monkeypatch):
    here = manifests("legend_rm")
    assert here["train_rm"].inputs["device"] == "CPU float32" and here["annotate"].inputs["device"] == "CPU"
    assert "device" not in here["report"].inputs
    assert not changed("legend_rm", [], "trainer.precision=float32"), "that is what auto is here"
    monkeypatch.setattr(fingerprints, "has_accelerator", lambda: True)
    monkeypatch.setattr(devices, "training_dtype", lambda precision: "bfloat16")
    there = manifests("legend_rm")
    assert {stage for stage in here if here[stage].key != there[stage].key} == set(here)
    assert difference(here["train_rm"], there["train_rm"]).startswith('device was "CPU float32", is "GPU bfloat16"')


def test_jobs_and_the_login_node_agree_on_the_device(monkeypatch):
    """The login node has no GPU, and the job of the report asks for none: nothing would be up to date there."""
    given = ["+recipe=legend_rm", "launch=slurm", "launch.gpus=8"]
    cfg = compose_config(given)
    assert "export REPALIGN_DEVICE=GPU" in slurm._setup(cfg.launch)
    submitted = {step.stage: step.manifest.key for step in plan(cfg, RunDir(Path("none")))}
    monkeypatch.setenv("REPALIGN_DEVICE", "GPU")
    assert {stage: manifest.key for stage, manifest in manifests("legend_rm").items()} == submitted


def test_a_plan_says_what_becomes_of_a_result_that_took_long(tmp_path):
    run = RunDir(tmp_path)
    run.stage("train_cdpo").mkdir()
    artifacts.write_json(run.timings, {"train_cdpo": 75.2, "fit_reward": 75.2})
    cfg = compose_config(["+recipe=cdpo", f"run.dir={tmp_path}"])
    lines = plan_table(cfg, run, plan(cfg, run)).splitlines()
    told = [line for line in lines if f"; its result, of 75 s, will be kept aside in {tmp_path}/.replaced/" in line]
    assert [line.split()[0] for line in told] == ["train_cdpo"]
    cfg = compose_config(["+recipe=cdpo", f"run.dir={tmp_path}", "run.replace=true"])
    assert "its result, of 75 s, will be removed" in plan_table(cfg, run, plan(cfg, run))
    artifacts.write_json(run.timings, {"train_cdpo": 37.0})
    cfg = compose_config(["+recipe=cdpo", f"run.dir={tmp_path}"])
    assert "its result, of 37 s, will be removed" in plan_table(cfg, run, plan(cfg, run)), "it took less than a minute"


def test_a_stage_that_goes_on_took_as_long_as_all_its_attempts(tmp_path):
    """Of each until the last file that it wrote: a kill tells nobody when it came."""
    assert _seconds_before(tmp_path) == 0.0
    for expected in (100.0, 200.0):
        (tmp_path / "done").write_text("a model")
        began = (tmp_path / "attempt").stat().st_mtime
        os.utime(tmp_path / "done", (began + 100, began + 100))
        assert _seconds_before(tmp_path) == pytest.approx(expected, abs=0.1)
        (tmp_path / "done").unlink()
