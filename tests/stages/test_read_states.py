"""The stage: every distinct answer once, whatever stops it and on any number of ranks, and what a plan says of it."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from transformers import AutoConfig

from alignment.data.columns import Loaded as LoadedRows
from alignment.inputs.job import Job
from alignment.inputs.pairs import evaluation_pairs, given_pairs
from alignment.memory import costs
from alignment.memory.planned_states import left_to_read, planned_states
from alignment.models import kept_states
from alignment.models.devices import device
from alignment.models.kept_states import KeptStates, StatesMeaning, item_keys, write_states
from alignment.models.load import load_backbone
from alignment.models.packing import Item
from alignment.models.pair_states import whole_pairs
from alignment.models.source import source_at
from alignment.plan import plan
from alignment.runs.manifest import Rows
from alignment.runs.ranks import Ranks
from alignment.runs.run_files import RunDir
from alignment.settings.compose import compose_config
from alignment.stages import STAGES, read_states, takes_states
from alignment.stages.read_states import ANSWERS, distinct_items, drawn_prompts
from alignment.types import UserError
from alignment.world.identity import LANGUAGE_MODEL
from tests.models.test_annotator import annotator

STAGES_SET = "stages=[read_states,induce,annotate,fit_reward]"
SMALL = [
    "+recipe=end_to_end", STAGES_SET, "data.pairs=14", "data.heldout=10", "data.evaluation=10",
    "reward.batch_tokens=400",
]  # fmt: skip


def message(role: str, text: str) -> list[dict]:
    return [{"role": role, "content": text}]


def pair(prompt: int, chosen: int, rejected: int) -> dict:
    sides = {"chosen": chosen, "rejected": rejected}
    prompt = message("user", f"open valve {prompt}")
    return {"id": "1", "prompt": prompt, **{side: message("assistant", f"never {n}.") for side, n in sides.items()}}


def run(folder: Path, *overrides: str) -> tuple[RunDir, Rows]:
    """The stage alone, published by hand."""
    run, out = RunDir(folder / "run"), folder / "work" / "out"
    out.mkdir(parents=True, exist_ok=True)
    rows = read_states.run(Job(compose_config([*SMALL, *overrides, f"run.dir={run.root}"]), run, out, Ranks()))
    run.root.mkdir()
    out.rename(run.stage("read_states"))
    return run, rows


def test_every_distinct_answer_is_read_once_and_prompts_are_shared(tmp_path):
    """Eight answers to one prompt in twelve pairs, one of them to another prompt too, one too long."""
    loaded = annotator(tmp_path).loaded
    given = [pair(1, i % 8, (i + 1) % 8) for i in range(12)] + [pair(2, 0, 9)]
    given[-1]["rejected"][0]["content"] = "never " * 100
    items = distinct_items([LoadedRows(given[:6]), LoadedRows(given[6:])], loaded, 200, 1000)
    assert [len(item.answers) for item in items] == [ANSWERS, 2, 1]
    keys = [key for item in items for key in item_keys(item)]
    assert len(keys) == len(set(keys)) == 9
    for row in given[:-1]:
        texts = loaded.format.render(row["prompt"], [row["chosen"], row["rejected"]])
        assert set(item_keys(Item.of(texts))) <= set(keys)
    (item,) = distinct_items([LoadedRows(given[:3])], loaded, 200, 1000)
    small = distinct_items([LoadedRows(given[:3])], loaded, 200, len(item) - 1)
    assert [len(item.answers) for item in small] == [3, 1], "no more tokens together than a batch has"


def test_a_killed_stage_goes_on_at_its_next_batch_and_writes_the_same(tmp_path, monkeypatch, world_folder):
    calls, at_most = [], [3]
    honest = read_states.response_states

    def reading(backbone, layout, items, *others):
        if len(calls) == at_most[0]:
            raise KeyboardInterrupt
        calls.append(items)
        return honest(backbone, layout, items, *others)

    monkeypatch.setattr(read_states, "response_states", reading)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    at_most[0] = None
    killed, rows = run(tmp_path)
    in_all = len(calls)
    calls.clear()
    undisturbed, _ = run(tmp_path / "undisturbed")
    assert in_all == len(calls) + 1 > 5, "the batch that was computed and not yet written, again"
    for name in ("states", "states_record"):
        assert getattr(killed, name).read_bytes() == getattr(undisturbed, name).read_bytes()
    record = json.loads(killed.states_record.read_text())
    assert rows == Rows(108, 108, 0) and (record["distinct"], record["kept"]) == (108, 108)
    kept = KeptStates.open(killed.states)
    assert kept.meaning.model == source_at("world").fingerprint and len(kept.rows) == 108


def test_two_ranks_write_what_one_writes(tmp_path, two_ranks, world_folder):
    cfg = compose_config(SMALL)
    given = [pair(i // 3, i, i + 1) for i in range(20)]
    meaning = StatesMeaning("world", "float32", "endpoint", 4, 96, "", 256)

    models = [load_backbone(source_at("world"), device()) for _ in two_ranks]  # from_pretrained isn't made for threads

    def written(folder: Path, ranks: Ranks) -> bytes:
        loaded = models[ranks.rank]
        items = distinct_items([LoadedRows(given)], loaded, 256, 400)
        parts = read_states._read(Job(cfg, RunDir(folder), folder / "out", ranks), items, loaded)
        write_states(folder / f"{ranks.rank}.safetensors", parts, meaning)
        return (folder / f"{ranks.rank}.safetensors").read_bytes()

    one = written(tmp_path / "one", Ranks())
    with ThreadPoolExecutor() as pool:
        assert list(pool.map(lambda ranks: written(tmp_path / "two", ranks), two_ranks)) == [one, one]


def test_as_many_whole_prompts_as_fit_are_drawn_by_the_seed():
    counts = {prompt: 1 + prompt % 3 for prompt in range(60)}
    drawn = drawn_prompts(counts, 50, 0)
    assert 48 <= sum(counts[prompt] for prompt in drawn) <= 50 and drawn == drawn_prompts(counts, 50, 0)
    assert drawn != drawn_prompts(counts, 50, 1) and max(drawn) > 40, "not the first ones"
    assert drawn_prompts(counts, sum(counts.values()), 0) == set(counts) and not drawn_prompts({1: 9}, 8, 0)


def test_of_too_many_states_those_to_some_prompts_are_kept(tmp_path, monkeypatch, capsys, world_folder):
    """Both answers of their pairs, and nothing of others."""
    one = 4 * 96 * 2
    monkeypatch.setattr(kept_states, "LIMIT", 21 * one)
    sample, _ = run(tmp_path)
    record, kept = json.loads(sample.states_record.read_text()), KeptStates.open(sample.states)
    assert (record["distinct"], record["kept"], record["prompts_drawn"]) == (108, 20, 10) and len(kept.rows) == 20
    line = (
        f"108 distinct ones (0.00 GB; states.keep=auto keeps 0.00 at most); kept are 20 to 10 of {record['prompts']} p"
    )
    assert line in capsys.readouterr().out
    loaded = load_backbone(source_at("world"), device())
    cfg = compose_config(SMALL)
    parts = [*given_pairs(cfg, sample, Ranks()), *evaluation_pairs(cfg).values()]
    there = [[kept.has([key]) for key in item_keys(item)] for part in parts for item in whole_pairs(part, loaded, 2048)]
    assert sum(map(all, there)) == sum(map(any, there)) == 10


def test_where_none_are_kept_no_model_is_loaded_and_a_line_says_why(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(read_states, "load_backbone", None)
    none, rows = run(tmp_path, "stages=[read_states,fit_reward]")
    line = "  of 108 distinct answers no states are kept: fit_reward alone would take them, and "
    line += "needs no more than its first pairs\n"
    assert capsys.readouterr().out == line and rows.written == 108
    assert not none.states.exists() and json.loads(none.states_record.read_text())["kept"] == 0


def test_stages_take_states_where_they_fit_and_the_run_has_them(tmp_path):
    cfg = compose_config([*SMALL, f"run.dir={tmp_path}"])
    assert takes_states(cfg) == ["annotate", "fit_reward"]
    for key, value, takes in (
        ("reward.pooling", "mean", ["fit_reward"]), ("annotator.prompt", "alpaca", ["fit_reward"]),
        ("annotator.pooling", "last_text", ["fit_reward"]), ("stages", ["annotate", "fit_reward"], []),
    ):  # fmt: skip
        other = OmegaConf.merge(cfg, OmegaConf.from_dotlist([f"{key}={value}"]))
        assert takes_states(other) == takes
    assert STAGES["annotate"].reads_with(other) == ("induce",), "without the stage all is as it was"
    run = RunDir(tmp_path)
    run.stage("read_states").mkdir()
    run.states_record.write_text("{}")
    assert takes_states(other) == ["annotate", "fit_reward"]


def test_who_takes_them_makes_the_stage_anew(tmp_path):
    cfg, keys = compose_config([*SMALL, f"run.dir={tmp_path}"]), []
    for stages in (["annotate", "fit_reward"], ["annotate"], ["fit_reward"], ["train_rm"]):
        cfg.stages = ["read_states", *stages]
        keys.append(plan(cfg, RunDir(tmp_path))[0].manifest.key)
    assert keys[0] == keys[1] and len(set(keys[1:])) == 3, "annotate alone reads all pairs, and shares their answers"


def test_a_plan_says_how_many_states_there_are_and_what_becomes_of_them(tmp_path, monkeypatch):
    """Of pairs that share answers each is counted once."""
    rows = [pair(i // 4, i % 5, i % 5 + 1) for i in range(40)]
    (tmp_path / "pairs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    own = ["model=local", f"model.path={LANGUAGE_MODEL}", "data=file", f"data.path={tmp_path}/pairs.jsonl"]
    given = ["+recipe=end_to_end", STAGES_SET, *own, f"run.dir={tmp_path}/run"]
    distinct = len({(str(row["prompt"]), str(row[side])) for row in rows for side in ("chosen", "rejected")})
    config = AutoConfig.from_pretrained(LANGUAGE_MODEL)
    states = planned_states(compose_config(given), config)
    assert states.answers == distinct < 60 and states.size == distinct * 4 * 96 * 2
    size = f"{states.size / 1e6:,.1f} MB"
    assert states.line == (
        f"  states: {distinct} distinct answers x 4 layers x 96 x 2 bytes = {size}; kept for annotate and fit_reward"
    )
    assert left_to_read(states, "annotate", 7.0) == 0 and left_to_read(states, "train_rm", 7.0) == 7
    monkeypatch.setattr(kept_states, "LIMIT", states.size // 4)
    sample = planned_states(compose_config(given), config)
    quarter = (
        f"{sample.kept / 1e6:,.1f} MB, of prompts drawn by data.seed, kept for annotate and fit_reward, which read t"
    )
    assert sample.line.endswith(f" = {size}; {quarter}he others") and sample.kept == states.size // 4
    assert left_to_read(sample, "annotate", 400.0) == 300 and left_to_read(sample, "train_rm", 400.0) == 400
    none = planned_states(compose_config([*given, "states.keep=none"]), config)
    assert none.line.endswith("; none kept: states.keep=none") and left_to_read(none, "annotate", 7.0) == 7
    assert planned_states(compose_config([*given, "stages=[annotate]"]), config) is None
    assert costs._disk([costs.Costs("train_rm", 2, 2, 10, 5, 0.0)], 100) == (120, 200)


def test_a_recipe_without_the_stage_refuses_its_key():
    with pytest.raises(UserError, match=r"states.keep: it would have no effect: no stage of cdpo reads it"):
        compose_config(["+recipe=cdpo", "states.keep=all"])
