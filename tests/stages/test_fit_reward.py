"""The stage on a small world: what it writes, what it counts, and that true labels never shape the reward."""

import json

import pytest
import torch

from alignment import HybridReward
from alignment.inputs import pairs
from alignment.inputs.fingerprints import fingerprint
from alignment.inputs.job import Job
from alignment.inputs.pairs import evaluation_pairs, given_pairs
from alignment.maths.hybrid import GATES
from alignment.models import pair_states
from alignment.models.activations import response_states
from alignment.models.devices import device
from alignment.models.load import load_backbone
from alignment.models.source import source_at
from alignment.runs import artifacts, results
from alignment.runs.manifest import Rows
from alignment.runs.ranks import Ranks
from alignment.runs.run_files import RunDir
from alignment.settings.compose import compose_config
from alignment.stages import fit_reward
from alignment.types import UserError
from alignment.world.preferences import Drawing, training_pairs

SMALL = ["+recipe=cdpo", "data.pairs=60", "data.heldout=40", "data.evaluation=20", "reward.batch_tokens=1024"]
TRUTH = {"chosen_severity": 1, "rejected_severity": 2, "chosen_helpfulness": 3, "rejected_helpfulness": 0}


def run(folder, *overrides) -> tuple[RunDir, Rows]:
    """The stage alone, published by hand."""
    run, out = RunDir(folder / "run"), folder / "work" / "out"
    out.mkdir(parents=True)
    rows = fit_reward.run(Job(compose_config([*SMALL, *overrides]), run, out, Ranks()))
    run.root.mkdir()
    out.rename(run.stage("fit_reward"))
    return run, rows


@pytest.fixture(scope="module")
def finished(tmp_path_factory, world_folder):
    return run(tmp_path_factory.mktemp("fit_reward"))


def test_the_report_holds_what_it_promises(finished):
    report = json.loads(finished[0].hybrid_report.read_text())
    assert set(report["pair_accuracy"]) == set(report["by_gate"]) == set(GATES)
    assert [row["layer"] for row in report["layers"]] == [1, 2, 3, 4]
    assert set(report["ece"]) == set(report["saturated_share"]) == {"paper", "released", "calibrated"}
    assert {"hard", "soft", "true", "alpha", "scoring"} <= set(report) and report["gate"] == "sigmoid_scores"
    assert report["pair_accuracy"]["sigmoid_scores"] == report["soft"] == report["scoring"]["hybrid"]
    assert set(report["clean"]) == {"same", "objects", "templates"}
    assert report["pairs"] == {"train": 60, "heldout": 40, "same": 20, "objects": 20, "templates": 20}
    assert finished[1] == Rows(160, 160, 0)


def test_the_saved_reward_scores_the_models_own_states(finished):
    """Read here one answer at a time, by transformers' hidden states."""
    reward = HybridReward.load(finished[0].hybrid_reward)
    assert reward.weight.shape == (4, 96) and reward.meaning["data"] == "world"
    source = source_at("world")
    loaded = load_backbone(source, device())
    cfg = compose_config(SMALL)
    parts = dict(zip(("train", "heldout"), given_pairs(cfg, None, Ranks()), strict=True)) | evaluation_pairs(cfg)
    right = []
    for row in parts["heldout"].rows:
        both = loaded.format.render(row["prompt"], [row["chosen"], row["rejected"]])
        scores = []
        for answer in both:
            ids = torch.from_numpy(answer.ids)[None].long()
            with torch.no_grad():
                hidden = loaded.model(input_ids=ids, output_hidden_states=True).hidden_states[1:]
            end = max(i for i, token in enumerate(answer.ids.tolist()) if token in loaded.end_ids)
            scores.append(float(reward.score(torch.stack([one[:, end] for one in hidden], dim=1))))
        right.append(scores[0] > scores[1])
    assert sum(right) / len(right) == json.loads(finished[0].hybrid_report.read_text())["soft"]


def test_every_training_pair_has_a_gap_and_a_gamma_by_fits_without_it(finished):
    run = finished[0]
    rows = artifacts.read_rows(run.fitted_pairs)
    assert [row["id"] for row in rows] == [
        row["id"] for row in given_pairs(compose_config(SMALL), None, Ranks())[0].rows
    ]  # fmt: skip
    assert all(row["gap"] * (row["gamma"] - 0.5) >= 0 for row in rows) and all(0 < row["gamma"] < 1 for row in rows)
    assert 0.2 < sum(row["gap"] > 0 for row in rows) / 60 < 0.9, "a fit to these 60 pairs orders nearly all as labelled"
    results.link(run)
    assert artifacts.read_rows(run.root / "fitted_pairs.parquet") == rows


def test_true_labels_never_reach_the_reward(finished, tmp_path, monkeypatch):
    """Other severities, helpfulness, category and harm, with the same texts and labels, give the same bytes."""
    honest = pairs.world_pairs

    def with_other_truth(*args, **settings):
        parts = honest(*args, **settings)
        for part in parts:
            for row in part.rows:
                row.update(TRUTH, category="SENTINEL", harmful=not row["harmful"])
        return parts

    monkeypatch.setattr(pairs, "world_pairs", with_other_truth)
    other, _ = run(tmp_path)
    for path in ("reward/reward.safetensors", "reward/reward.json", "hybrid.json"):
        content = (other.stage("fit_reward") / path).read_bytes()
        assert content == (finished[0].stage("fit_reward") / path).read_bytes()
        assert b"SENTINEL" not in content


def test_long_pairs_are_left_out_and_counted_and_the_gate_is_the_configured_one(finished, tmp_path, monkeypatch):
    seen = []

    def reading(backbone, layout, items, *others):
        seen.extend(items)
        return response_states(backbone, layout, items, *others)

    monkeypatch.setattr(pair_states, "response_states", reading)
    format = load_backbone(source_at("world"), device()).format
    longest = sorted(
        max(len(answer.ids) for answer in format.render(row["prompt"], [row["chosen"], row["rejected"]]))
        for row in given_pairs(compose_config(SMALL), None, Ranks())[0].rows
    )
    limit = longest[len(longest) * 2 // 3]
    assert limit < longest[-1]
    cut, rows = run(tmp_path, f"reward.max_length={limit}", "reward.gate=uniform", "reward.pairs=30")
    lines = [json.loads(line) for line in (cut.stage("fit_reward") / "quarantine.jsonl").read_text().splitlines()]
    assert rows.quarantined == len(lines) > 0 and all(f"fit into {limit} tokens" in line["reason"] for line in lines)
    assert limit - 3 <= max(item.longest for item in seen) <= limit
    reward = HybridReward.load(cut.hybrid_reward)
    assert reward.gate == "uniform" and int(reward.meaning["pairs"]) <= 30


@pytest.fixture
def nothing_read(monkeypatch):
    monkeypatch.setattr(fit_reward, "pair_states", None)


def test_too_few_readable_pairs_are_refused(tmp_path, world_folder, nothing_read):
    with pytest.raises(UserError, match=r"fit_reward: 0 training and 0 held-out pairs can be read; give 20 and 1; set"):
        run(tmp_path, "reward.max_length=8")


def test_too_few_prompts_are_refused_before_a_state_is_read(tmp_path, world_folder, monkeypatch, nothing_read):
    def of_four_prompts(*args):
        train, heldout = given_pairs(*args)
        for number, row in enumerate(train.rows):
            row["prompt"] = train.rows[number % 4]["prompt"]
        return train, heldout

    monkeypatch.setattr(fit_reward, "reward_pairs", of_four_prompts)
    line = r"fit_reward: 60 training pairs that can be read have 4 prompts, .*; give pairs of 5 prompts or more$"
    with pytest.raises(UserError, match=line):
        run(tmp_path)


# ---- pairs of its own -----------------------------------------------------------------------------------------------


def written(path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_reward_of_other_pairs_than_the_policys(tmp_path, world_folder):
    """It is fitted on the reward's file alone, and is another stage if that file is another."""
    rows = [*training_pairs(80, Drawing(0))]
    policy = written(tmp_path / "policy.jsonl", rows[:30])
    own = written(tmp_path / "own.jsonl", rows[30:])
    small = ["+recipe=cdpo", "data=file", f"data.path={policy}", "reward.batch_tokens=1024", f"run.dir={tmp_path}/run"]
    cfg = compose_config([*small, f"reward.path={own}"])
    out = tmp_path / "work" / "out"
    out.mkdir(parents=True)
    fit_reward.run(Job(cfg, RunDir(tmp_path / "run"), out, Ranks()))
    fitted = artifacts.read_rows(out / RunDir(tmp_path).fitted_pairs.name)
    said = {str(row["prompt"]) for row in rows[30:]}
    assert len(fitted) > 20 and all(row["prompt"][0]["content"] in str(said) for row in fitted)
    assert not {row["id"] for row in fitted} & {row["id"] for row in rows[:30]}
    before = fingerprint("reward pairs", cfg)
    written(tmp_path / "own.jsonl", rows[31:])
    assert before and fingerprint("reward pairs", compose_config([*small, f"reward.path={own}"])) != before
    assert fingerprint("reward pairs", compose_config(small)) == ""


def test_a_rewards_own_pairs_need_a_file_beside_the_policys(tmp_path):
    with pytest.raises(
        UserError, match=r"reward\.path: it is a file, and the policy's pairs are data=world; give data=fi"
    ):
        compose_config([*SMALL, "reward.path=own.jsonl"])
