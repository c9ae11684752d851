"""A recipe as users start it on several devices: all stages in one process group, under DeepSpeed.

What one process computes from the same files is the measure: the same samples and pairs bit by bit, and the same policy
up to the order in which ranks sum gradients. So nothing that a stage leaves behind in the process group (batch sizes,
accumulation, split weights) may reach the next one.
"""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from alignment.models.hybrid_reward import HybridReward
from alignment.run import run_recipe
from alignment.runs import artifacts
from alignment.runs.run_files import RunDir
from alignment.settings.compose import compose_config
from tests import small_recipe
from tests.conftest import REPOSITORY
from tests.small_recipe import different

# Several batches for every rank; the reward model accumulates four micro-batches of 2, the policy none of its 4 pairs.
END_TO_END = [
    "data.noise=0", "data.double_edged=0",
    "data.pairs=80", "data.heldout=40", "data.evaluation=40", "annotator.contrast.count=40",
    "annotator.batch_tokens=1024", "reward.batch_tokens=1024", "sampling.batch_tokens=2048", "reward_model.seeds=[0]",
    "trainer.num_train_epochs=1", "trainer.batch_size=16", "trainer.per_device_batch_size=2", "policy.batch_size=8",
    "policy.max_steps=6", "policy.logging_steps=1", "policy.save_steps=3", "evaluation.prompts=20", "sampling.n=4",
]  # fmt: skip
# What two ranks compute bit by bit as one does. All that is trained is not: ranks sum gradients in another order.
SAME_BYTES = {"induce", "annotate", "fit_reward", "build_pairs"}


def in_ranks(folder: Path) -> RunDir:
    """The recipe under accelerate on two CPU ranks, and ZeRO-3, which splits what ZeRO-2 splits and the weights too."""
    config = REPOSITORY / "launch/accelerate/zero3_cpu.yaml"
    accelerate = ["accelerate.commands.launch", "--main_process_port", "0", "--config_file", str(config)]
    return launched(folder, *accelerate, str(REPOSITORY / "recipes/end_to_end.py"), *END_TO_END)


def launched(folder: Path, *command: str) -> RunDir:
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", *command, "run.dir=run"], cwd=folder, env=small_recipe.environment(),
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-8000:]
    assert done.stdout.count("build_pairs: samples") == 1, "the main process alone speaks"
    return RunDir(folder / "run")


def alone(folder: Path, *overrides: str) -> RunDir:
    """The same in one process, in this one."""
    run_recipe(compose_config(["+recipe=end_to_end", *END_TO_END, *overrides, f"run.dir={folder}/run"]))
    return RunDir(folder / "run")


@pytest.fixture
def end_to_end(once, world_folder) -> tuple[RunDir, RunDir]:
    """In ranks; and in one process on the reward model of the ranks, since another one would rank samples otherwise."""
    ranks = RunDir(once("end_to_end-ranks", in_ranks) / "run")

    def in_one_process(folder: Path) -> None:
        shutil.copytree(ranks.stage("train_rm"), folder / "run/train_rm")
        alone(folder)

    return ranks, RunDir(once("end_to_end-alone", in_one_process) / "run")


def check_report(run: RunDir, parts: set[str], systems: set[str]) -> None:
    """It keeps its schema, has the parts of the recipe, and no number in it is infinite or not one."""
    report = json.loads(run.report.read_text())
    jsonschema.validate(report, json.loads((REPOSITORY / "alignment/reports/report.schema.json").read_text()))
    assert parts <= set(report) and set(report["policy"]) == systems
    numbers = list(numbers_in(report))
    assert len(numbers) > 50 and all(math.isfinite(number) for number in numbers)
    for found in report["policy"].values():
        assert set(found) == {"same", "objects", "templates"}
    rows = artifacts.read_rows(run.answers)
    prompts = {system: len({row["id"] for row in rows if row["system"] == system}) for system in systems}
    assert len(set(prompts.values())) == 1 and min(prompts.values()) > 0


def numbers_in(content: object) -> list[float]:
    if isinstance(content, dict | list):
        parts = content.values() if isinstance(content, dict) else content
        return [number for part in parts for number in numbers_in(part)]
    return [content] if isinstance(content, int | float) and not isinstance(content, bool) else []


def check_policy(run: RunDir, base: Path) -> None:
    """A folder as from_pretrained loads it, of whole finite weights, every one of them trained; nothing pickled."""
    folder = run.policy("train_cdpo", "cdpo_star", 0)
    names = {path.name for path in folder.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt"))]
    assert AutoTokenizer.from_pretrained(folder).chat_template
    before, after = weights(base), weights(folder)
    assert before.keys() == after.keys()
    for name, weight in after.items():
        assert weight.shape == before[name].shape and np.isfinite(weight).all(), name
        assert not np.array_equal(weight, before[name]), f"{name} was not trained"
    reward, fitted = HybridReward.load(folder.parent / "reward"), HybridReward.load(run.hybrid_reward)
    assert not np.allclose(reward.weight.detach(), fitted.weight.detach()), "the reward was not re-fitted"


def weights(folder: Path) -> dict[str, np.ndarray]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    return {name: weight.detach().numpy() for name, weight in model.named_parameters()}


def check_same_training(one: RunDir, other: RunDir, base: Path) -> None:
    """The same way from the base model: logged at every step, and at its end to a thousandth of its length."""
    logs = [artifacts.read_json(run.trainings("train_cdpo")) for run in (one, other)]
    for ours, theirs in zip(*logs, strict=True):
        assert ours["name"] == theirs["name"] and ours["chosen"] == theirs["chosen"]
        assert len(ours["history"]) == len(theirs["history"]) >= 4
        for step, expected in zip(ours["history"], theirs["history"], strict=True):
            for name in ("step", "loss", "confidence", "head_loss", "learning_rate"):
                assert step[name] == pytest.approx(expected[name], abs=1e-4), name
    begin = weights(base)
    ours, theirs = (weights(run.policy("train_cdpo", "cdpo_star", 0)) for run in (one, other))
    difference = sum(np.square(ours[name] - theirs[name]).sum() for name in begin)
    way = sum(np.square(theirs[name] - begin[name]).sum() for name in begin)
    assert way > 0 and difference < 1e-6 * way


# ---- the whole chain under DeepSpeed --------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_stage_of_the_chain_runs_in_one_process_group(end_to_end, world_folder):
    ranks, _ = end_to_end
    check_report(ranks, {"annotation", "reward_model", "hybrid", "policy"}, {"base", "cdpo_star"})
    check_policy(ranks, world_folder)
    AutoModelForSequenceClassification.from_pretrained(ranks.reward_model("legend", 0))
    assert not list((ranks.root / ".work").iterdir()), "every stage has cleared away its work"


@pytest.mark.slow
def test_samples_and_pairs_of_the_chain_are_those_of_one_process(end_to_end):
    ranks, one = end_to_end
    assert {"build_pairs/samples.parquet", "build_pairs/pairs.parquet"} <= small_recipe.artefacts(ranks.root).keys()
    assert not {name for name in different(ranks.root, one.root) if name.split("/")[0] in SAME_BYTES}


@pytest.mark.slow
def test_the_policy_of_the_chain_is_that_of_one_process(end_to_end, world_folder):
    check_same_training(*end_to_end, world_folder)


@pytest.mark.slow
def test_the_reward_model_of_the_chain_is_that_of_one_process(end_to_end, tmp_path):
    """Trained on the same margins, of which another test says that they are those of one process."""
    ranks, one = end_to_end
    for stage in ("induce", "annotate"):
        shutil.copytree(one.stage(stage), tmp_path / "run" / stage)
    ours, theirs = (artifacts.read_rows(run.reward_scores) for run in (ranks, alone(tmp_path, "stages=[train_rm]")))
    for row, expected in zip(ours, theirs, strict=True):
        for side in ("chosen_score", "rejected_score"):
            assert row[side] == pytest.approx(expected[side], abs=1e-4)


# ---- a rank that is late --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_a_late_rank_still_has_to_read_is_not_cleared_away(tmp_path, world_folder):
    """Samples, scores, answers of the validation: files that the main process removes once they are used."""
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    stages = "stages=[fit_reward,build_pairs,train_cdpo]"
    run = launched(
        tmp_path, *torchrun, str(REPOSITORY / "tests/late_rank.py"), *small_recipe.CDPO, stages, "policy.max_steps=1"
    )
    assert len(artifacts.read_json(run.trainings("train_cdpo"))) == 2
