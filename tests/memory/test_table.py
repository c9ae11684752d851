"""What run.plan=true prints of memory, what it refuses, and what it says would do."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig

from alignment.launching import commands, local, slurm
from alignment.memory import costs, fitting, planned_texts, table
from alignment.memory.estimates import Estimator
from alignment.memory.machine import Machine, machine
from alignment.models.fit_heads import fitting_bytes
from alignment.plan import plan
from alignment.run import run_recipe
from alignment.runs.run_files import RunDir
from alignment.settings.compose import compose_config
from alignment.types import UserError
from tests import small_recipe
from tests.conftest import byte_tokenizer

GIGABYTE = 10**9


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A Llama of 1.1B parameters, wide and low: its configuration and a tokenizer, no weights."""
    folder = tmp_path_factory.mktemp("planned")
    tokenizer = byte_tokenizer("llama3")
    LlamaConfig(
        vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=4, num_attention_heads=32,
        num_key_value_heads=32, max_position_embeddings=4096,
    ).save_pretrained(folder)  # fmt: skip
    tokenizer.save_pretrained(folder)
    words = "one two three four five six seven eight nine ten eleven twelve".split()
    with open(folder / "pairs.jsonl", "w") as file:
        for i in range(100):
            text = " ".join(words[j % 12] for j in range(i, i + 20 + i % 40))
            file.write(json.dumps({"prompt": f"{i} {text}", "chosen": f"{text}.", "rejected": f"{text}?"}) + "\n")
    return folder


def composed(folder: Path, *more: str):
    given = ["model=local", f"model.path={folder}", "data=file", f"data.path={folder / 'pairs.jsonl'}"]
    return compose_config(["+recipe=cdpo", *given, *more])


def estimator(cfg, gigabytes: float | None, ranks: int = 1, gpu: bool = True) -> Estimator:
    there = None if gigabytes is None else int(gigabytes * GIGABYTE)
    return Estimator(cfg, RunDir(Path(cfg.run.dir)), Machine(ranks, gpu, gpu, there))


def test_prompts_of_sets_and_of_the_data_are_counted(folder):
    """Of each set as many as are asked; of the data as many as there are pairs kept from training, or the world's."""
    cfg = composed(folder, "evaluation.sets=[data,xstest,alpaca_eval]", "evaluation.prompts=40")
    assert planned_texts.asked_prompts(cfg, cfg.evaluation.sets, 10) == 10 + 40 + 40
    assert planned_texts.asked_prompts(cfg, ["data"], 100) == 40
    world = compose_config(["+recipe=best_of_n", "evaluation.prompts=40"])
    assert planned_texts.asked_prompts(world, ["data"], 10) == 3 * 40


def test_every_stage_with_a_model_has_a_row(folder, tmp_path):
    cfg = composed(folder, f"run.dir={tmp_path}")
    run = RunDir(tmp_path)
    text, refusal = table.report(cfg, run, plan(cfg, run), 1)
    rows = [line.split()[0] for line in text.splitlines() if line.strip()]
    for stage in ("fit_reward", "build_pairs", "train_cdpo", "evaluate"):
        assert rows.count(stage) == 2
    assert "report" not in rows
    assert refusal is not None and str(refusal).startswith("train_cdpo")  # 16 bytes a parameter, on a small machine


def test_adapters_need_no_reference_and_little_else(folder):
    whole, adapters = (composed(folder, *more) for more in ([], ["lora=adapters"]))
    found = estimator(whole, None)
    full, small = found.estimate("train_cdpo", whole), found.estimate("train_cdpo", adapters)
    assert full.memory.reference == full.memory.weights and small.memory.reference == 0
    assert small.memory.optimiser < full.memory.optimiser / 50
    assert small.shape.trainable < small.shape.parameters


@pytest.mark.parametrize(
    "gigabytes, ranks, more, keys",
    [
        (36, 1, [], ["policy.per_device_batch_size"]),
        (28, 8, ["launch=ddp", "launch.processes=8"], ["policy.activation_checkpointing"]),
        (20, 8, ["launch=ddp", "launch.processes=8"], ["launch"]),
        (24, 1, [], ["lora"]),
        (16, 1, [], ["policy.per_device_batch_size", "lora"]),
    ],
)
def test_the_smallest_change_fits_and_is_a_setting_that_exists(folder, gigabytes, ranks, more, keys):
    cfg = composed(folder, *more)
    found = estimator(cfg, gigabytes, ranks)
    assert found.estimate("train_cdpo", cfg).memory.peak > gigabytes * GIGABYTE
    change = fitting.smallest_change(cfg, "train_cdpo", found)
    assert change is not None and [one.partition("=")[0] for one in change] == keys
    again = composed(folder, *more, *change)  # as a user would give it
    assert found.estimate("train_cdpo", again).memory.peak <= gigabytes * GIGABYTE
    assert again == fitting.changed(cfg, change)


def test_what_no_setting_makes_fit_is_said(folder):
    cfg = composed(folder)
    found = estimator(cfg, 1)
    with pytest.raises(UserError, match=r"train_cdpo: it takes about .* nothing that could be set here makes it fit"):
        fitting.require_fit(cfg, [found.estimate("train_cdpo", cfg)], found)


@pytest.mark.parametrize("name", ["ddp", "slurm", "inline"])
def test_every_change_is_a_setting_that_exists(folder, name):
    launch = [f"launch={name}"] + (["launch.processes=2"] if name != "inline" else [])
    cfg = composed(folder, *launch, "packing=off")
    known: dict[str, list[str]] = {}
    for stage in ("induce", "annotate", "train_rm", "train_dpo", "train_cdpo", "build_pairs", "evaluate"):
        for alternatives in fitting._changes(cfg, stage, Machine(2, True, True, 1)):
            for override in alternatives:
                known.setdefault(override.partition("=")[0], []).append(override)
    assert {"packing", "policy.per_device_batch_size", "lora", "model.dtype", "sampling.batch_tokens"} <= set(known)
    assert ("launch" in known, "launch.layout" in known) == (name == "ddp", name == "slurm")
    for which in (0, -1):  # of each key the first value that is tried, and the last
        some = [found[which] for found in known.values()]
        kept = [one for one in launch if one.partition("=")[0] not in known]
        questions = f"annotator.contrast.questions={folder / 'pairs.jsonl'}"
        given = ["model=local", f"model.path={folder}", "data=file", f"data.path={folder / 'pairs.jsonl'}", questions]
        compose_config(["+recipe=end_to_end", *given, *kept, *some])


def test_on_slurm_memory_is_what_the_settings_say(folder):
    cfg = composed(folder, "launch=slurm", "launch.nodes=2")
    assert machine(cfg, 1) == Machine(16, True, True, None)
    cfg = composed(folder, "launch=slurm", "launch.gpu_memory_gb=80", "launch.layout=zero3")
    there = machine(cfg, 1)
    assert there.memory == 80 * GIGABYTE and there.layout(cfg, "train_cdpo") == "zero3"
    assert there.layout(cfg, "evaluate") == "ddp"
    with pytest.raises(UserError, match=r"launch.gpu_memory_gb: it would have no effect"):
        composed(folder, "launch=slurm", "launch.gpus=0", "launch.processes=2", "launch.gpu_memory_gb=80")


def test_a_plan_for_another_machines_gpus_needs_no_slurm(folder):
    other = ["launch.gpu_memory_gb=80", "run.plan=true"]
    there = machine(composed(folder, "launch=zero2", "launch.processes=8", *other), 1)
    assert there == Machine(8, True, True, 80 * GIGABYTE)
    assert machine(composed(folder, *other), 1) == Machine(1, True, True, 80 * GIGABYTE, inline=True)
    with pytest.raises(UserError, match=r"launch.processes: nothing says how many GPUs the other machine has"):
        composed(folder, "launch=zero2", *other)
    with pytest.raises(UserError, match=r"launch.gpu_memory_gb: it is for a plan .*; add run.plan=true"):
        composed(folder, "launch.gpu_memory_gb=80")


def test_models_disk_and_time_by_hand(folder):
    given = ["policy.systems=[base,dpo,cdpo]", "policy.seeds=[0,1]", "policy.save_dtype=bfloat16"]
    cfg = composed(folder, *given, "stages=[fit_reward,train_dpo,train_cdpo]")
    found = estimator(cfg, None)
    estimate = found.estimate("train_cdpo", cfg)
    one = costs.costs(cfg, estimate, found.machine, torch.bfloat16, 1e12)
    parameters = estimate.shape.parameters
    assert (one.models, one.kept) == (2, 2) and one.model == 2 * parameters
    assert one.checkpoint == 12 * parameters, "weights and AdamW's two states, in float32"
    assert one.seconds == pytest.approx((2 + 4 + 2) * parameters * estimate.total / 1e12), "with the reference"
    read = found.estimate("fit_reward", cfg)
    assert costs.costs(cfg, read, found.machine, torch.float32, 1e12).seconds == pytest.approx(
        2 * read.shape.parameters * read.total / 1e12
    )
    lora = composed(folder, "lora=adapters", *given, "stages=[fit_reward,train_dpo,train_cdpo]")
    small = costs.costs(lora, estimator(lora, None).estimate("train_cdpo", lora), found.machine, torch.bfloat16, 1e12)
    assert small.checkpoint < one.checkpoint / 20 and small.seconds < one.seconds
    text = costs.costs_text([one], found.machine, folder / "not" / "there")
    assert "trains 2 models (train_cdpo)" in text and "at 100 TFLOP/s a GPU: a third or three times as much" in text
    assert f"take {4 * parameters / 1e9:.1f}" in text or f"take {4 * parameters / 1e9:.2f}" in text
    assert "up to" in text and not costs.costs_text([replace(one, models=0)], found.machine, folder).count("disk")


def test_of_upper_blocks_little_trains_and_lower_states_are_read_once(folder):
    """The whole model is held and saved; a checkpoint has what trains; the states of every token lie on disk."""
    whole = composed(folder, "stages=[train_rm]", "reward_model.margins=[none]")
    upper = composed(folder, "stages=[train_rm]", "reward_model.margins=[none]", "trainer.upper_blocks=1")
    found, machine = estimator(upper, None), estimator(upper, None).machine
    full, part = found.estimate("train_rm", whole), found.estimate("train_rm", upper)
    assert part.memory.weights == full.memory.weights and part.shape.parameters == full.shape.parameters
    assert part.memory.optimiser == 8 * part.shape.trainable < full.memory.optimiser / 4
    assert part.memory.activations < full.memory.activations and full.once == 0 < part.once
    one = costs.costs(upper, part, machine, torch.bfloat16, 1e12)
    assert one.model == 2 * part.shape.parameters and one.checkpoint == 12 * part.shape.trainable
    assert one.states == 2 * part.once * part.shape.width
    frozen = part.shape.parameters - part.shape.trainable
    assert one.seconds == pytest.approx((6 * part.shape.trainable * part.total + 2 * frozen * part.once) / 1e12)
    assert costs._disk([one])[1] == one.model + 3 * one.checkpoint + 2 * one.states
    changes = [override for kind in fitting._changes(upper, "train_rm", machine) for override in kind]
    assert changes and all(change.startswith("trainer.per_device_batch_size=") for change in changes)


def test_pairs_of_other_sets_count_where_they_are_scored_and_where_lower_states_lie(folder, tmp_path):
    """Of forty longer pairs two are longer than the model's context, and nobody reads them."""
    where, texts = tmp_path / "hh_rlhf" / "harmless-base", []
    for i in range(40):
        turns = f"\n\nHuman: {i} {'why ' * 200}\n\nAssistant: "
        texts.append({"chosen": turns + "no " * (5000 if i < 2 else 300), "rejected": turns + "yes"})
    where.mkdir(parents=True)
    with gzip.open(where / "test.jsonl.gz", "wt") as file:
        file.write("".join(f"{json.dumps(text)}\n" for text in texts))
    given = ["stages=[train_rm]", "reward_model.margins=[none]", "trainer.upper_blocks=1", "trainer.max_length=256"]
    alone = composed(folder, *given, f"data.folder={tmp_path}")
    both = composed(folder, *given, f"data.folder={tmp_path}", "reward_model.transfer=[hh_harmless]")
    own, more = (estimator(cfg, None).estimate("train_rm", cfg) for cfg in (alone, both))
    (others,) = planned_texts.transferred(both, 4096)
    assert others.count == 38 and 1000 < others.longest <= 4096 and not planned_texts.transferred(alone, 4096)
    assert more.once - own.once == round(38 * others.mean) and more.total == own.total
    assert more.memory.around > own.memory.around, "their texts are longer than those of the training"
    one, two = (costs.costs(both, each, machine(both, 1), torch.bfloat16, 1e12) for each in (own, more))
    assert two.states - one.states == 2 * (more.once - own.once) * more.shape.width and two.seconds > one.seconds


def test_fitting_a_reward_counts_beside_the_states(folder, monkeypatch):
    """On a GPU the products of answers are its own, and one layer's states the host's; else all is the host's."""
    cfg = composed(folder, "stages=[fit_reward]")
    monkeypatch.setattr("alignment.memory.estimates.fitting_bytes", lambda *sizes: (0, 0))
    without = {gpu: estimator(cfg, None, gpu=gpu).estimate("fit_reward", cfg).memory for gpu in (True, False)}
    monkeypatch.setattr("alignment.memory.estimates.fitting_bytes", lambda *sizes: (1000, 20))
    counted = {gpu: estimator(cfg, None, gpu=gpu).estimate("fit_reward", cfg).memory for gpu in (True, False)}
    more = {gpu: (one.hidden - without[gpu].hidden, one.host - without[gpu].host) for gpu, one in counted.items()}
    assert more == {True: (20, 1000), False: (1020, 0)}


def test_a_cross_validation_reads_all_pairs_and_holds_those_of_a_fold_twice(folder, monkeypatch):
    monkeypatch.setattr("alignment.memory.estimates.fitting_bytes", lambda pairs, *sizes: (pairs, 0))
    cfg = composed(folder, "stages=[cross_validate,fit_reward]", "reward.pairs=20")
    all_pairs, some = (estimator(cfg, None, gpu=False).estimate(stage, cfg) for stage in cfg.stages)
    assert all_pairs.texts.count > some.texts.count == 20 and all_pairs.total > some.total
    assert all_pairs.memory.hidden > some.memory.hidden


def test_a_fit_takes_what_it_takes():
    """Products of 2,000 answers in 32 layers, and two layers at a time in float64; narrow states as they are."""
    by_hand = 32 * 4 * 2000**2 + 2 * (32 * 2000 * 4096 + 24 * 2000**2) + 2 * 40 * 2**24
    assert sum(fitting_bytes(1000, 32, 4096, 2)) == by_hand and 1.86e9 < by_hand < 3e9, "more than was measured"
    assert sum(fitting_bytes(250, 32, 4096, 2)) > 1.18e9 and sum(fitting_bytes(500, 32, 4096, 2)) > 1.62e9
    assert fitting_bytes(1000, 4, 96, 2) == (8 * (3 * 4 * 2000 * 96 + 3 * 96**2), 0)


def test_points_of_a_grid_need_room_until_their_stage_is_published():
    points = costs.Costs("train_cdpo", 6, 1, 10, 100, 0.0)
    before = costs.Costs("train_rm", 2, 2, 10, 5, 0.0)
    assert costs._disk([before, points]) == (30, 2 * 10 + 6 * 10 + 3 * 100)
    assert [costs.rounded(seconds) for seconds in (0.1, 59, 61, 8000, 40000, 3e5)] == [
        "1 s", "59 s", "1.0 min", "2.2 h", "12 h", "4 days",
    ]  # fmt: skip


def test_without_a_tokenizer_texts_count_as_long_as_they_may_be(folder, tmp_path):
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    cfg = compose_config(
        ["+recipe=cdpo", "model=local", f"model.path={tmp_path}", "data=file", f"data.path={folder / 'pairs.jsonl'}"]
    )
    found = estimator(cfg, None).estimate("train_cdpo", cfg)
    assert not found.texts.known and found.texts.longest >= cfg.policy.max_length


def test_a_plan_of_the_world_trains_no_model(tmp_path, monkeypatch, capsys):
    """In a cache of its own, where there is none."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in commands.GIVE_BACK:
        monkeypatch.delenv(name, raising=False)
    cfg = compose_config([*small_recipe.SMALL, "run.plan=true", f"run.dir={tmp_path / 'run'}"])
    run_recipe(cfg)
    out = capsys.readouterr().out
    assert "train_rm  run" in out and "495.4k" in out and "at most" in out and "holds on to" in out
    assert not (tmp_path / "cache").exists() and not (tmp_path / "run").exists()


def test_ranks_on_a_cpu_give_back_what_they_free(folder, monkeypatch):
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    assert local._environment(2)["MALLOC_MMAP_THRESHOLD_"] == "1048576"
    given = ["launch=slurm", "launch.gpus=0", "launch.processes=2"]
    assert "export MALLOC_MMAP_THRESHOLD_=1048576" in slurm._setup(composed(folder, *given).launch)
    assert not any("MALLOC" in line for line in slurm._setup(composed(folder, "launch=slurm").launch))
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "7")
    assert local._environment(2)["MALLOC_MMAP_THRESHOLD_"] == "7"  # what is set stays


@pytest.mark.slow
def test_what_cannot_fit_ends_with_2_and_a_remedy(folder, tmp_path):
    done = small_recipe.run(
        tmp_path, "+recipe=cdpo", "run.plan=true", "model=local", f"model.path={folder}", "data=file",
        f"data.path={folder / 'pairs.jsonl'}", "launch=slurm", "launch.gpus=1", "launch.gpu_memory_gb=24", check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr
    assert "repalign: train_cdpo: it takes about" in done.stderr and "lora=adapters" in done.stderr
    assert "memory of the one rank" in done.stdout
