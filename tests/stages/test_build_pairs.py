"""Pairs out of samples: what is in them, what is left out and counted, and what they depend on."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import load_dataset
from trl.data_utils import is_conversational

from alignment.data.columns import text_message
from alignment.data.same_prompts import prompt_text
from alignment.data.world_pairs import world_pairs
from alignment.inputs.job import Job
from alignment.models.activations import response_states
from alignment.models.architecture import layer_count
from alignment.models.hybrid_reward import HybridReward
from alignment.models.load import Loaded, load_language_model, load_reward_base
from alignment.models.packing import Item, Layout
from alignment.models.source import source_at
from alignment.run import plan
from alignment.runs import artifacts
from alignment.runs.ranks import Ranks
from alignment.runs.run_files import RunDir
from alignment.sampling import candidates
from alignment.settings.compose import compose_config
from alignment.stages import build_pairs
from alignment.types import UserError
from alignment.world.preferences import Drawing

SMALL = [
    "+recipe=end_to_end", "stages=[build_pairs]", "build_pairs.scorer=hybrid", "build_pairs.prompts=12",
    "data.noise=0", "data.double_edged=0",
    "data.pairs=60", "data.heldout=20", "data.evaluation=20", "evaluation.prompts=20", "evaluation.validation=20",
    "sampling.batch_tokens=1024",
]  # fmt: skip


@pytest.fixture(scope="module")
def world(world_folder) -> Loaded:
    return load_language_model(source_at("world"), torch.device("cpu"))


@pytest.fixture(scope="module")
def run(world, tmp_path_factory) -> RunDir:
    """A run folder with a hybrid reward, fitted on 60 pairs, and two untrained reward models."""
    run = RunDir(tmp_path_factory.mktemp("run"))
    rows = world_pairs(60, 10, Drawing(0))[0].rows
    states = [
        states_of(world, [world.format.render(row["prompt"], [row[side]])[0] for row in rows])
        for side in ("chosen", "rejected")
    ]
    HybridReward.fit(*states).save(run.hybrid_reward)
    for number, margins in enumerate(("legend", "none")):
        load_reward_base(source_at("world"), number).model.save_pretrained(run.reward_model(margins, 0))
    return run


def states_of(world: Loaded, rows: list) -> torch.Tensor:
    layers = range(1, layer_count(world.model) + 1)
    items = [Item.of([row]) for row in rows]
    layout = Layout(packed=False, max_tokens=1, pad_id=world.tokenizer.pad_token_id)
    return response_states(world.model, layout, items, layers, "endpoint", world.end_ids)[0]


def build(run: RunDir, work: Path, *overrides: str, ranks: Ranks | None = None) -> RunDir:
    """The stage alone, into work/out; a run folder in which its files can be read."""
    if work.joinpath("out").exists():
        shutil.rmtree(work / "out")
    (work / "out").mkdir(parents=True)
    cfg = compose_config([*SMALL, *overrides])
    rows = build_pairs.run(Job(cfg, run, work / "out", ranks or Ranks()))
    assert rows.read == rows.written + rows.quarantined
    shutil.copytree(work / "out", work / "run" / "build_pairs", dirs_exist_ok=True)
    return RunDir(work / "run")


@pytest.fixture(scope="module")
def built(run, tmp_path_factory) -> RunDir:
    return build(run, tmp_path_factory.mktemp("built"))


def by_prompt(rows: list[dict], key: str = "id") -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for row in rows:
        found.setdefault(row[key], []).append(row)
    return found


def test_eight_samples_are_four_pairs_and_the_upper_half_is_chosen(built):
    samples = by_prompt(artifacts.read_rows(built.samples))
    pairs = by_prompt(
        [{**row, "of": row["id"].rpartition("-")[0]} for row in artifacts.read_rows(built.built_pairs)], "of"
    )
    assert len(samples) == len(pairs) == 12
    for name, many in samples.items():
        assert [row["sample"] for row in many] == list(range(8))
        ranked = sorted(many, key=lambda row: row["score"])
        found = [(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in pairs[name]]
        wanted = [(up["text"], low["text"]) for up, low in zip(ranked[4:], ranked[:4], strict=True)]
        assert found == [(up, low) for up, low in wanted if up != low]
        lowest, highest = (
            f(row[key] for row in pairs[name]) for f, key in ((min, "chosen_score"), (max, "rejected_score"))
        )
        assert lowest >= highest


def test_margin_and_confidence_are_the_gap_and_what_it_is_worth(run, built):
    alpha = HybridReward.load(run.hybrid_reward).alpha
    for row in artifacts.read_rows(built.built_pairs):
        gap = row["chosen_score"] - row["rejected_score"]
        assert gap > 0 and row["margin"] == row["margin_raw"] == gap
        assert row["confidence"] == pytest.approx(1 / (1 + np.exp(-alpha * gap)))


def test_scores_are_those_of_the_reward_one_sample_at_a_time(run, built, world):
    reward = HybridReward.load(run.hybrid_reward)
    for row in artifacts.read_rows(built.samples)[::17]:
        rendered = world.format.render(row["prompt"], [text_message("assistant", row["text"])])
        assert row["score"] == pytest.approx(reward.score(states_of(world, rendered)).item(), abs=1e-4)


def test_datasets_and_trl_read_the_pairs(built):
    rows = load_dataset("parquet", data_files=str(built.built_pairs), split="train")
    assert is_conversational(rows[0])
    columns = {"prompt", "chosen", "rejected", "margin", "margin_raw", "confidence", "chosen_score", "rejected_score"}
    assert columns <= set(rows.column_names)
    assert [message["role"] for row in rows for side in ("prompt", "chosen") for message in row[side]] == [
        "user", "assistant",
    ] * len(rows)  # fmt: skip
    assert set(rows["source"]) == {"samples"} and set(rows["harmful"]) == {True, False}


def test_the_counts_are_those_of_the_rows(built):
    counts = artifacts.read_json(built.build_counts)
    pairs = artifacts.read_rows(built.built_pairs)
    assert (counts["prompts"], counts["samples"], counts["pairs"]) == (12, 96, len(pairs))
    assert counts["unfinished_share"] == np.mean([not row["finished"] for row in artifacts.read_rows(built.samples)])
    values = [
        [row[f"{side}_helpfulness"] - row[f"{side}_severity"] for side in ("chosen", "rejected")] for row in pairs
    ]
    assert counts["chosen_is_truly"]["better"] == pytest.approx(np.mean([chosen > other for chosen, other in values]))
    assert sum(counts["chosen_is_truly"].values()) == pytest.approx(1.0)


def test_a_killed_stage_goes_on_and_writes_the_same_bytes(run, tmp_path):
    first = build(run, tmp_path)
    whole = {path.name: path.read_bytes() for path in first.stage("build_pairs").iterdir()}
    (kept,) = run.sampled.iterdir()
    batches = sorted((kept / "samples").iterdir())
    for path in [*batches[1::2], sorted((tmp_path / "scores").iterdir())[0]]:
        path.unlink()
    batches[0].write_bytes(batches[0].read_bytes()[:100])
    again = build(run, tmp_path)
    assert {path.name: path.read_bytes() for path in again.stage("build_pairs").iterdir()} == whole
    assert set(whole) == {"pairs.parquet", "samples.parquet", "build.json", "quarantine.jsonl"}


def test_another_scorer_ranks_the_samples_that_are_there_and_other_settings_sample_anew(
    run, tmp_path, monkeypatch, capsys
):
    settings = ["build_pairs.prompts=4", "sampling.n=2"]
    first = build(run, tmp_path, *settings)
    monkeypatch.setattr(candidates, "generate_samples", lambda *given: pytest.fail("it is sampled again"))
    again = build(run, tmp_path, *settings, "build_pairs.scorer=judge", "build_pairs.pairing=best_worst")
    assert [row["text"] for row in artifacts.read_rows(again.samples)] == [
        row["text"] for row in artifacts.read_rows(first.samples)
    ]
    assert "samples that are there from an earlier run are used" in capsys.readouterr().out
    monkeypatch.undo()
    for other in ("sampling.temperature=0.7", "seed=1", "build_pairs.prompts=5"):
        (before,) = run.sampled.iterdir()
        build(run, tmp_path / other, *settings, other)
        assert [path for path in run.sampled.iterdir() if path != before], other
        assert len(list(run.sampled.iterdir())) == 1, "the last ones alone are kept"


def test_another_reward_model_makes_other_pairs_of_the_same_samples(run, tmp_path):
    overrides = ["build_pairs.scorer=reward_model", "reward_model.margins=[legend,none]"]
    found = {
        margins: build(run, tmp_path / margins, *overrides, f"build_pairs.reward_model={margins}")
        for margins in ("legend", "none")
    }
    samples = [[row["text"] for row in artifacts.read_rows(one.samples)] for one in found.values()]
    assert samples[0] == samples[1]
    pairs = [artifacts.read_rows(one.built_pairs) for one in found.values()]
    texts = [{(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in rows} for rows in pairs]
    assert len(texts[0] & texts[1]) < len(texts[0]) / 2
    for row in pairs[0]:
        assert row["confidence"] == pytest.approx(1 / (1 + np.exp(row["rejected_score"] - row["chosen_score"])))


def test_what_ranks_the_samples_is_part_of_the_key(tmp_path, world_folder):
    """A reward model trained otherwise, another scorer, another hybrid reward: the stage is not up to date."""
    stages = "stages=[induce,annotate,train_rm,fit_reward,build_pairs]"

    def key(*overrides: str) -> str:
        steps = plan(compose_config(["+recipe=end_to_end", stages, *overrides]), RunDir(tmp_path))
        return next(step.manifest.key for step in steps if step.stage == "build_pairs")

    by_model = "build_pairs.scorer=reward_model"
    assert key(by_model) != key(by_model, "trainer.learning_rate=0.01") != key(by_model)
    assert key(by_model) == key(by_model, "reward.margin=2"), "the hybrid reward is not read"
    by_hybrid = "build_pairs.scorer=hybrid"
    assert key(by_hybrid) != key(by_hybrid, "reward.margin=2")
    assert key(by_hybrid) == key(by_hybrid, "trainer.learning_rate=0.01"), "nor is the reward model here"
    assert len({key(f"build_pairs.scorer={scorer}") for scorer in ("hybrid", "reward_model", "judge")}) == 3


def test_the_released_settings_sample_and_each_of_them_matters(run, tmp_path):
    released = ["sampling=released", "build_pairs.prompts=4"]
    settings = compose_config([*SMALL, *released]).sampling
    # top_p is lowered: of eight tokens that are nearly alike, 0.95 leaves out none
    others = {"temperature": 1.0, "top_k": 0, "top_p": 0.5, "repetition_penalty": 1.0}
    assert [settings[name] for name in others] == [1.4, 8, 0.95, 1.2]  # sample.py of the released code
    found = build(run, tmp_path / "released", *released)
    samples = artifacts.read_rows(found.samples)
    assert len(samples) == 4 * 8 and all(row["text"] for row in samples)
    pairs = artifacts.read_rows(found.built_pairs)
    assert pairs and {row["id"].rpartition("-")[0] for row in pairs} <= {row["id"] for row in samples}
    for name, value in others.items():
        other = artifacts.read_rows(build(run, tmp_path / name, *released, f"sampling.{name}={value}").samples)
        assert [row["text"] for row in other] != [row["text"] for row in samples], name
    cooler = artifacts.read_rows(build(run, tmp_path / "cooler", *released, "build_pairs.temperature=1.0").samples)
    assert cooler == artifacts.read_rows(RunDir(tmp_path / "temperature" / "run").samples), "of these samples alone"


def test_the_judge_ties_and_ties_are_no_pairs(run, tmp_path):
    found = build(run, tmp_path, "build_pairs.scorer=judge", "sampling.n=2", "build_pairs.prompts=30")
    counts, pairs = artifacts.read_json(found.build_counts), artifacts.read_rows(found.built_pairs)
    assert counts["tied"] > 0 and counts["tied"] + counts["alike"] + len(pairs) == 30
    assert counts["chosen_is_truly"] == {"better": 1.0, "equal": 0.0, "worse": 0.0}
    assert all(row["confidence"] is None for row in pairs)


def test_prompts_with_samples_all_alike_are_counted(run, tmp_path, capsys):
    with pytest.raises(UserError, match="no prompt gave a pair"):
        build(run, tmp_path, "sampling.top_k=1")
    assert "12 with samples all alike" in capsys.readouterr().out


def test_a_sample_that_was_cut_off_is_in_no_pair_unless_asked_for(run, world, tmp_path, capsys):
    cut = ["sampling.max_new_tokens=12"]
    found = build(run, tmp_path / "a", *cut)
    finished = {row["text"] for row in artifacts.read_rows(found.samples) if row["finished"]}
    counts = artifacts.read_json(found.build_counts)
    texts = {
        row[side][0]["content"] for row in artifacts.read_rows(found.built_pairs) for side in ("chosen", "rejected")
    }
    assert texts <= finished and 0.5 < counts["unfinished_share"] < 1 and counts["too_few_finished"] > 0
    assert "of them cut off" in capsys.readouterr().out
    asked_for = build(run, tmp_path / "b", *cut, "build_pairs.unfinished=true")
    more = artifacts.read_json(asked_for.build_counts)
    assert more["pairs"] > counts["pairs"] and counts["unfinished_in_pairs"] == 0 < more["unfinished_in_pairs"]
    said = capsys.readouterr().out
    assert f"{more['unfinished_in_pairs']} answers in pairs were cut off and are used as they are" in said
    reward = HybridReward.load(run.hybrid_reward)
    row = next(row for row in artifacts.read_rows(found.samples) if not row["finished"])
    whole = world.format.render(row["prompt"], [text_message("assistant", row["text"])])[0]
    without_end = type(whole)(whole.ids[:-1], whole.prompt_length, False)
    assert row["score"] == pytest.approx(reward.score(states_of(world, [without_end])).item(), abs=1e-4)


def test_what_was_cut_off_may_end_with_its_last_whole_sentence(run, world, tmp_path, capsys):
    found = build(run, tmp_path, "sampling.max_new_tokens=12", "build_pairs.unfinished=sentence")
    rows = artifacts.read_rows(found.samples)
    cut = [row for row in rows if row["cut_to"] is not None]
    assert cut and all(not row["finished"] and row["text"].startswith(row["cut_to"]) for row in cut)
    assert all(row["cut_to"].endswith(".") and row["cut_to"] != row["text"] for row in cut)
    pairs = artifacts.read_rows(found.built_pairs)
    marked = {
        row[side][0]["content"] for row in pairs for side in ("chosen", "rejected") if row[f"{side}_cut"]
    }  # fmt: skip
    assert marked and marked <= {row["cut_to"] for row in cut}
    counts = artifacts.read_json(found.build_counts)
    assert counts["cut_in_pairs"] == sum(row["chosen_cut"] + row["rejected_cut"] for row in pairs)
    assert "answers in pairs end with their last whole sentence" in capsys.readouterr().out
    reward, row = HybridReward.load(run.hybrid_reward), cut[0]
    as_in_the_pair = world.format.render(row["prompt"], [text_message("assistant", row["cut_to"])])
    assert row["score"] == pytest.approx(reward.score(states_of(world, as_in_the_pair)).item(), abs=1e-4)


def test_a_stage_killed_after_its_pilot_goes_on_and_writes_the_same_bytes(run, tmp_path, capsys):
    given = ["build_pairs.prompts=36", "sampling.n=2"]
    first = build(run, tmp_path, *given)
    assert "16 prompts tried first: " in capsys.readouterr().out
    whole = {path.name: path.read_bytes() for path in first.stage("build_pairs").iterdir()}
    assert [row["id"] for row in artifacts.read_rows(first.samples)[::2]] == [
        row["id"] for row in world_pairs(60, 20, Drawing(0))[0].rows[:36]
    ]
    (kept,) = run.sampled.iterdir()
    shutil.rmtree(kept / "samples")
    shutil.rmtree(tmp_path / "scores")
    again = build(run, tmp_path, *given)
    assert {path.name: path.read_bytes() for path in again.stage("build_pairs").iterdir()} == whole


def test_prompts_are_asked_once_and_never_those_of_an_evaluation(run, world, tmp_path, monkeypatch):
    rows = world_pairs(60, 10, Drawing(0))[0].rows[:12]
    rows[3] = {**rows[3], "prompt": rows[1]["prompt"]}
    rows[4] = {**rows[4], "prompt": text_message("user", "  WHAT is\nthis ?")}
    rows[5] = {**rows[5], "prompt": text_message("user", "rats " * 300)}
    monkeypatch.setattr(build_pairs, "_training_rows", lambda job: (rows, {"what is this"}))
    found = build(run, tmp_path)
    counts = artifacts.read_json(found.build_counts)
    assert {name: counts[name] for name in ("prompts", "repeated", "in_evaluation", "unreadable")} == {
        "prompts": 9, "repeated": 1, "in_evaluation": 1, "unreadable": 1,
    }  # fmt: skip
    line = json.loads((found.stage("build_pairs") / "quarantine.jsonl").read_text())
    assert line["reason"].startswith(f"{rows[5]['id']}: its 303 tokens")
    asked = Counter(row["id"] for row in artifacts.read_rows(found.samples))
    assert set(asked) == {row["id"] for i, row in enumerate(rows) if i not in (3, 4, 5)}


def test_prompts_that_differ_in_signs_alone_are_not_repeated(world, monkeypatch):
    """An evaluation of signs alone takes no other prompt of signs along."""
    texts = ["2+2?", "2-2?", "2+2?", "!!", "??", "what is this?", "What is this"]
    rows = [{"id": f"p{i}", "source": "test", "prompt": text_message("user", text)} for i, text in enumerate(texts)]
    evaluation = {prompt_text(text_message("user", text)) for text in ("...", "What is THIS?")}
    monkeypatch.setattr(build_pairs, "_training_rows", lambda job: (rows, evaluation))
    asked, _, counts = build_pairs._questions(Job(compose_config(["+recipe=cdpo"]), None, None, None), world)
    assert [row["id"] for row in asked.rows] == ["p0", "p1", "p3", "p4"]
    assert (counts["repeated"], counts["in_evaluation"]) == (1, 2)


def test_normal_text_has_words_alone():
    assert (
        prompt_text(text_message("user", "What’s\tTHIS?! ")) == prompt_text(text_message("user", "what’s this")) != ""
    )
    assert prompt_text(text_message("user", "ﬁne")) == "fine"
    assert prompt_text(text_message("user", "fi\u200bne \ufeffday")) == "fine day"  # with characters nobody sees
    assert prompt_text(text_message("user", "a b")) != prompt_text(text_message("user", "ab"))
