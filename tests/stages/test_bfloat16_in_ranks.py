"""Every kind of training in bfloat16 under DeepSpeed, as on GPUs: it holds the weights themselves in bfloat16."""

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from alignment.runs.artifacts import read_json
from alignment.runs.run_files import RunDir
from alignment.world.identity import LANGUAGE_MODEL
from tests import small_recipe
from tests.conftest import REPOSITORY

REWARD_MODEL = [
    *small_recipe.SMALL, "stages=[train_rm]", "trainer.precision=bfloat16", "reward_model.margins=[none]"
]  # fmt: skip
POLICIES = [
    *(one for one in small_recipe.CDPO if not one.startswith(("policy.", "evaluation."))), "policy.batch_size=8",
    "policy.max_steps=2", "policy.logging_steps=1", "policy.precision=bfloat16", "policy.systems=[base,sft,dpo,cdpo]",
    "stages=[train_sft,train_dpo,train_cdpo]",
]  # fmt: skip
RUNS = {
    "reward_model": REWARD_MODEL, "reward_model_lora": [*REWARD_MODEL, "lora=adapters"],
    "policies": POLICIES, "policies_lora": [*POLICIES, "lora=adapters"],
}  # fmt: skip
SYSTEMS = {"sft": "train_sft", "dpo": "train_dpo", "cdpo": "train_cdpo"}


@pytest.fixture
def in_ranks(once, undisturbed) -> Callable[[str, str], RunDir]:
    """in_ranks(layout, run): one of RUNS; a layout's are made by the same two ranks. What isn't trained is there."""

    def made(folder: Path, layout: str) -> None:
        legend, cdpo = undisturbed(*small_recipe.SMALL).run, undisturbed(*small_recipe.CDPO).run
        for name in RUNS:
            for stage in ("induce", "annotate") if name.startswith("reward") else ("fit_reward",):
                whole = legend if name.startswith("reward") else cdpo
                shutil.copytree(whole / stage, folder / name / stage)
        done = subprocess.run(
            [
                sys.executable, "-m", "accelerate.commands.launch", "--config_file",
                REPOSITORY / f"launch/accelerate/{layout}_cpu.yaml", REPOSITORY / "tests/believing_in_bfloat16.py",
                json.dumps([[*overrides, f"run.dir={name}"] for name, overrides in RUNS.items()]),
            ],
            cwd=folder, env=small_recipe.environment(), capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-8000:]

    return lambda layout, run: RunDir(once(f"bfloat16-{layout}", lambda folder: made(folder, layout)) / run)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["zero2", "zero3"])
@pytest.mark.parametrize("lora", [False, True], ids=["whole", "lora"])
def test_a_reward_model_passes_the_parity_gate(layout, lora, in_ranks):
    found = in_ranks(layout, "reward_model_lora" if lora else "reward_model")
    parity = json.loads(found.reward_summary.read_text())["none/seed-0"]["parity"]
    rounding = 2 if lora and layout == "zero3" else 1.01  # there the adapters' products are rounded beside the base's
    assert parity["loaded"] <= (1e-6 if layout == "zero2" and not lora else rounding * parity["bfloat16"])
    saved = AutoModelForSequenceClassification.from_pretrained(found.reward_model("none", 0), dtype="auto")
    assert saved.dtype == (torch.float32 if lora else torch.bfloat16)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["zero2", "zero3"])
def test_every_policy_begins_where_it_should_and_moves(layout, in_ranks):
    """A policy that is its reference has log-ratios of 0, to bfloat16's rounding, and a loss of log 2; with adapters it
    is as sure of the same labels. The reward and what it learned stay float64."""
    before = AutoModelForCausalLM.from_pretrained(LANGUAGE_MODEL).state_dict()
    for system, stage in SYSTEMS.items():
        runs = [in_ranks(layout, name) for name in ("policies", "policies_lora")]
        first = [read_json(run.trainings(stage))[0]["history"][0] for run in runs]
        if system == "sft":
            assert first[0]["loss"] == pytest.approx(first[1]["loss"], rel=2**-7)
        else:
            assert [step["loss"] for step in first] == pytest.approx([math.log(2)] * 2, abs=0.02)
        assert first[0].get("confidence") == pytest.approx(first[1].get("confidence"), abs=0.02)
        for run in runs:
            after = AutoModelForCausalLM.from_pretrained(run.policy(stage, system, 0)).state_dict()
            assert any(not torch.equal(after[name].float(), value.float()) for name, value in before.items()), system
            assert all(value.isfinite().all() for value in after.values()), system
    fitted = load_file(runs[0].hybrid_reward / "reward.safetensors")
    for run in runs:
        reward = load_file(run.policy("train_cdpo", "cdpo", 0).parent / "reward/reward.safetensors")
        assert all(value.dtype == torch.float64 for value in reward.values())
        assert not torch.equal(reward["weight"], fitted["weight"]), "it was not re-fitted"
