"""Other directions, ablations, the release's settings, LoRA, and real text: the same recipe with other settings."""

import json
import shutil
from collections.abc import Callable

import bitsandbytes
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from alignment.inputs.pairs import evaluation_pairs
from alignment.models.load import _precision, load_reward_base
from alignment.models.source import source_at
from alignment.run import run_recipe
from alignment.runs import artifacts
from alignment.runs.run_files import RunDir
from alignment.settings.compose import compose_config
from tests import small_recipe

ANNOTATE = ["stages=[induce,annotate]", "data.pairs=200", "data.heldout=300"]
HELDOUT = [*ANNOTATE, "data.pairs=20"]  # where held-out pairs say it all


def run(folder, *overrides) -> RunDir:
    """In this process, which saves the imports."""
    run_recipe(compose_config([*small_recipe.SMALL, f"run.dir={folder}", *overrides]))
    return RunDir(folder)


@pytest.fixture
def trained(undisturbed, tmp_path, world_folder) -> Callable[..., RunDir]:
    """trained(*overrides): reward models under other settings, on pairs that are annotated already."""
    for stage in ("induce", "annotate"):
        shutil.copytree(undisturbed(*small_recipe.SMALL).run / stage, tmp_path / stage)
    return lambda *overrides: run(tmp_path, "stages=[train_rm]", *overrides)


def heldout(run: RunDir) -> dict:
    return json.loads(run.calibration.read_text())["heldout"]


def test_another_contrastive_set_is_another_direction(tmp_path, world_folder):
    """Helpfulness: answers to harmless questions against refusals, in place of refusals against harmful answers."""
    made = run(tmp_path / "helpfulness", "annotator=helpfulness", *HELDOUT)
    found, rows = heldout(made), artifacts.read_rows(made.heldout_pairs)
    assert found["in_scope"] == sum(not row["harmful"] for row in rows) > 100
    assert found["severity"] is None and found["helpfulness"]["pairs"] == found["in_scope"]
    assert not any(row["margin"] for row in rows if row["harmful"])
    helpful, harmful = (load_file(one.direction)["direction"] for one in (made, run(tmp_path / "smv", *HELDOUT)))
    assert abs(torch.cosine_similarity(helpful, harmful, dim=0)) < 0.9


def test_a_direction_follows_severity_where_random_ones_do_not(tmp_path, world_folder):
    """Legend's ablation w/o SMV, at the last layer, over 150 pairs: the standard error of a correlation is 0.08."""

    def agreement(*overrides: str) -> float:
        """In one folder: what is induced stays."""
        return heldout(run(tmp_path, "annotator.layer=4", *overrides, *HELDOUT))["severity"]["spearman"]

    smv = agreement()
    assert smv > 0.3  # measured 0.41; distance and cosine, which have no sign, 0.34
    random = [agreement("annotator.direction=random", f"seed={s}", "data.seed=0") for s in range(3)]
    assert max(random) < smv - 0.1  # measured -0.12 to 0.18
    for kind in ("distance", "cosine"):
        assert agreement(f"annotator.direction={kind}") < smv


def test_without_bins_margins_stay_continuous(tmp_path, world_folder):
    found = run(tmp_path, "annotator.binning.method=none", *ANNOTATE)
    rows = [row for row in artifacts.read_rows(found.pairs) if row["harmful"]]
    margins, raw = (np.array([row[name] for row in rows]) for name in ("margin", "margin_raw"))
    assert len(set(margins)) == len(rows)
    np.testing.assert_allclose(np.quantile(margins, [0.05, 0.95]), [-2.0, 2.0])
    np.testing.assert_allclose(np.corrcoef(margins, raw)[0, 1], 1.0)


def test_the_release_settings_run(tmp_path, world_folder):
    found = run(tmp_path, "annotator=release", *ANNOTATE)
    assert json.loads(found.calibration.read_text())["layer"] == 4
    assert heldout(found)["no_end"] == 2 * 300, "no end token is appended"


def test_lora_trains_and_the_score_head_is_saved(trained):
    """The stage's parity gate has loaded the merged model back; its head is not the one it started from."""
    found = trained("lora=adapters", "lora.r=4", "trainer.learning_rate=0.01", "reward_model.margins=[legend]")
    model = AutoModelForSequenceClassification.from_pretrained(found.reward_model("legend", 0))
    untrained = load_reward_base(source_at("world"), seed=0).model
    for name in ("score.weight", "model.layers.0.self_attn.q_proj.weight"):
        assert not torch.equal(model.state_dict()[name], untrained.state_dict()[name])
    assert torch.equal(model.model.norm.weight, untrained.model.norm.weight), "what has no adapter stays"
    assert json.loads(found.reward_summary.read_text())["legend/seed-0"]["parity"]["loaded"] <= 1e-4


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_upper_blocks_train_and_the_whole_model_is_saved(tmp_path, world_folder, precision):
    """Its blocks below stay, its scores are those of the report; pairs that are too long are left out as ever."""
    found = run(
        tmp_path, "trainer=upper_blocks", "trainer.upper_blocks=1", "trainer.learning_rate=0.01",
        "trainer.num_train_epochs=4", "reward_model.margins=[none,random]", "trainer.max_length=34",
        f"model.dtype={precision}", f"trainer.precision={precision}",
    )  # fmt: skip
    model = AutoModelForSequenceClassification.from_pretrained(found.reward_model("none", 0))
    before, after = load_reward_base(source_at("world"), seed=0).model.state_dict(), model.state_dict()
    stays = [name for name in before if torch.equal(before[name], after[name])]
    assert stays == [
        name for name in before if name.startswith(("model.embed", *(f"model.layers.{i}." for i in "012")))
    ]
    summary = json.loads(found.reward_summary.read_text())["none/seed-0"]
    assert len(summary["pairs_too_long"]) == 96 - summary["pairs"] > 0 and summary["parity"]["loaded"] < 5e-2
    scores = artifacts.read_rows(found.reward_scores)
    evaluated = evaluation_pairs(compose_config([*small_recipe.SMALL, f"run.dir={tmp_path}"]))
    (row,) = [one for one in evaluated[scores[0]["set"]].rows if one["id"] == scores[0]["id"]]
    ids = load_reward_base(source_at("world"), 0).format.render(row["prompt"], [row["chosen"]])[0].ids
    with torch.no_grad():
        score = float(model(torch.from_numpy(ids).long()[None]).logits)
    assert score == pytest.approx(scores[0]["chosen_score"], abs=5e-2)
    assert {one["margins"] for one in scores} == {"none", "random"} and not list((found.root / ".work").rglob("states"))


def test_pairs_that_are_too_long_are_counted_and_said(trained, capsys):
    found = trained("trainer.max_length=34", "reward_model.margins=[none]")
    dropped = len(json.loads(found.reward_summary.read_text())["none/seed-0"]["pairs_too_long"])
    assert 0 < dropped < 96
    assert f"{dropped} of 96 rows quarantined: train_rm/quarantine.jsonl says why" in capsys.readouterr().out
    lines = (found.root / "train_rm/quarantine.jsonl").read_text().splitlines()
    assert len(lines) == dropped and "more tokens than trainer.max_length=34" in lines[0]


def test_evaluation_pairs_beyond_the_models_context_are_left_out_and_counted(tmp_path, world_folder, capsys):
    """Both answers of such a pair would get the score of what they begin with."""
    shutil.copytree(world_folder, tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text())
    (tmp_path / "model/config.json").write_text(json.dumps({**config, "max_position_embeddings": 50}))
    local = ["model=local", f"model.path={tmp_path}/model", "annotator.contrast.max_new_tokens=20"]
    found = run(tmp_path / "run", *local, "reward_model.margins=[none]")
    assert "more tokens than the model's context of 50" in (found.root / "train_rm/quarantine.jsonl").read_text()
    left_out = json.loads(found.reward_summary.read_text())["none/seed-0"]["evaluation_pairs_too_long"]
    scored = artifacts.read_rows(found.reward_scores)
    assert 0 < left_out == 3 * 60 - len(scored) and len(scored) > 60
    assert f"{left_out} evaluation pairs are left out" in capsys.readouterr().out


def test_bfloat16_training_passes_the_parity_gate(trained):
    """Scores are compared in float32 although the trainer computed in bfloat16."""
    found = trained("trainer.precision=bfloat16", "reward_model.margins=[none]")
    parity = json.loads(found.reward_summary.read_text())["none/seed-0"]["parity"]
    assert parity["loaded"] <= 1e-4 < parity["bfloat16"]


@pytest.mark.parametrize("dtype", [pytest.param(torch.float32, marks=pytest.mark.slow), torch.bfloat16], ids=str)
def test_adapters_on_four_bits_pass_the_parity_gate(trained, monkeypatch, dtype):
    """They are published on whole weights, whose scores are others; what is compared is each with its like. On GPUs the
    base computes in bfloat16, and what is learned is in float32."""

    def of_compute_dtype(quantized: torch.device | None) -> dict:
        settings = _precision(quantized)
        if quantized is not None:
            settings["quantization_config"].bnb_4bit_compute_dtype = dtype
            settings["dtype"] = dtype
        return settings

    monkeypatch.setattr("alignment.models.load._precision", of_compute_dtype)
    precision = f"trainer.precision={str(dtype).removeprefix('torch.')}"
    monkeypatch.setattr("alignment.run.engines.check", lambda cfg: None)  # it wants a GPU
    monkeypatch.setattr(bitsandbytes.nn.modules, "has_avx512bf16", lambda: False)  # as on a GPU: one kernel for all
    found = trained("lora=quantized", precision, "trainer.learning_rate=0.003", "reward_model.margins=[legend]")
    parity = json.loads(found.reward_summary.read_text())["legend/seed-0"]["parity"]
    assert max(parity["reloaded_in_4_bits"], parity["unmerged"]) <= 1e-4, "the same kernels"
    assert parity["loaded"] > 0.05, "what four bits change"
    assert "four bits change" in (found.reward_model("legend", 0) / "README.md").read_text()


@pytest.mark.slow
def test_real_text_and_a_real_model(tmp_path, shared_data, capsys):
    """PKU-SafeRLHF pairs, AdvBench questions, a Llama trained on dialogues: from files to a report."""
    pairs = json.loads((shared_data / "pku_saferlhf/safe_unsafe_pairs.json").read_text())[:80]
    lines = [
        json.dumps(
            {"prompt": row.get("prompt") or row["question"], "chosen": safe, "rejected": unsafe, "harmful": True}
        )
        for row in pairs
        for safe, unsafe in [row["response"]]
    ]
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join([*lines, '{"prompt": "cut off']))
    small = [override for override in small_recipe.SMALL if not override.startswith("data.")]
    given = [
        "model=local", f"model.path={shared_data}/models/dialogues-4m", "data=file", f"data.path={file}",
        f"annotator.contrast.questions={shared_data}/advbench/harmful_behaviors.csv", "annotator.contrast.count=12",
        "annotator.contrast.max_new_tokens=16", "data.heldout=0.2",
    ]  # fmt: skip
    run_recipe(compose_config([*small, *given, f"run.dir={tmp_path}/run"]))
    assert "81 lines read, 80 used, 1 quarantined" in capsys.readouterr().out
    report = json.loads((tmp_path / "run/report.json").read_text())
    assert report["annotation"]["spearman_severity"] is None and report["annotation"]["layer"] in range(1, 9)
    assert report["reward_model"]["none"]["by_set"] == {}, "all pairs are of one set"
