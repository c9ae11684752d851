"""The policy recipe on people's own terms: their pairs in a file, their model in a folder, no judge."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM

from alignment.run import run_recipe
from alignment.settings.compose import compose_config


def run(folder: Path, *overrides: str) -> None:
    """In this process, which saves the imports."""
    run_recipe(compose_config([*overrides, f"run.dir={folder}/run"]))


@pytest.fixture(scope="module")
def done(tmp_path_factory, shared_data) -> Path:
    """PKU-SafeRLHF pairs and a Llama trained on dialogues."""
    folder = tmp_path_factory.mktemp("real")
    rows = json.loads((shared_data / "pku_saferlhf/safe_unsafe_pairs.json").read_text())[:120]
    with (folder / "pairs.jsonl").open("w") as file:
        for row in rows:
            safe, unsafe = row["response"]
            pair = {"prompt": row.get("prompt") or row["question"], "chosen": safe, "rejected": unsafe}
            file.write(json.dumps(pair) + "\n")
    run(
        folder, "+recipe=cdpo", "model=local", f"model.path={shared_data}/models/dialogues-4m", "data=file",
        f"data.path={folder}/pairs.jsonl", "data.heldout=0.2", "sampling.n=4", "sampling.max_new_tokens=24",
        "policy.learning_rate=[1e-4]", "policy.batch_size=4", "policy.max_steps=3", "policy.logging_steps=1",
        "policy.save_steps=3", "evaluation.prompts=10", "build_pairs.unfinished=sentence",
    )  # fmt: skip
    return folder / "run"


@pytest.mark.slow
def test_a_policy_of_real_text_is_trained_and_answers(done, shared_data):
    policy = AutoModelForCausalLM.from_pretrained(done / "train_cdpo/cdpo_star/seed-0/policy")
    base = AutoModelForCausalLM.from_pretrained(shared_data / "models/dialogues-4m", dtype=torch.float32)
    moved = [not torch.equal(one, other) for one, other in zip(policy.parameters(), base.parameters(), strict=True)]
    assert all(moved)
    answers = pq.read_table(done / "evaluate/answers.parquet").to_pylist()
    assert {row["system"] for row in answers} == {"base", "cdpo_star"} and len(answers) == 20
    assert {row["prompt"] for row in answers if row["system"] == "base"} == {
        row["prompt"] for row in answers if row["system"] == "cdpo_star"
    }


@pytest.mark.slow
def test_the_report_says_how_good_the_reward_is_and_claims_no_rates(done):
    report = json.loads((done / "report.json").read_text())
    assert len(report["hybrid"]["layers"]) == 8
    assert 0.4 <= report["hybrid"]["pair_accuracy"]["sigmoid_scores"] <= 1
    assert not report.get("policy")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "data", "lines"), [("dialogues-4m", "hh_harmless", 2312), ("stories260K-hf", "pku_saferlhf", 2540)]
)
def test_margins_and_a_reward_model_of_published_pairs(tmp_path, shared_data, model, data, lines):
    """By their names, from local files: every line is accounted for, from the file to the training."""
    run(
        tmp_path, "+recipe=legend_rm", "model=local", f"model.path={shared_data}/models/{model}", f"data={data}",
        f"data.folder={shared_data}", "data.rows=40", "data.heldout=0.01", "annotator.contrast.count=16",
        "annotator.contrast.max_new_tokens=16", "annotator.max_length=256", "reward_model.margins=[legend]",
        "reward_model.seeds=[0]", "trainer.max_steps=2", "trainer.logging_steps=1", "trainer.save_steps=2",
        "trainer.batch_size=8", "trainer.max_length=512",
    )  # fmt: skip
    report = json.loads((tmp_path / "run/report.json").read_text())
    (source,) = report["data"]["sources"]
    assert source["read"] == lines == source["used"] + source["quarantined"] and sum(source["leaked"].values()) > 30
    assert report["data"]["train"] == 40 and sum(source["pairs"].values()) == source["used"]
    assert sum(report["data"]["not_drawn"].values()) == source["used"] - 40 - report["data"]["heldout"]
    low, high = report["annotation"]["ranked_right"]["ci95"]
    assert 0 <= low <= report["annotation"]["ranked_right"]["mean"] <= high <= 1
    rows = json.loads((tmp_path / "run/annotate/manifest.json").read_text())["rows"]
    assert rows["read"] == rows["written"] + rows["quarantined"] == 16 + 40 + report["data"]["heldout"]


@pytest.mark.slow
def test_graded_answers_say_how_margins_agree_with_them(tmp_path, shared_data):
    run(
        tmp_path, "+recipe=legend_rm", "stages=[induce,annotate,report]", "model=local",
        f"model.path={shared_data}/models/dialogues-4m", "data=helm_graded", f"data.folder={shared_data}",
        "data.rows=60", "data.heldout=0.02", "annotator.contrast.count=16", "annotator.contrast.max_new_tokens=16",
    )  # fmt: skip
    annotation = json.loads((tmp_path / "run/report.json").read_text())["annotation"]
    calibration = json.loads((tmp_path / "run/annotate/calibration.json").read_text())
    assert annotation["spearman_given"] == calibration["heldout"]["given"]["spearman"] is not None
    low, high = calibration["train"]["given"]["spearman_ci95"]
    assert -1 <= low <= calibration["train"]["given"]["spearman"] <= high <= 1
