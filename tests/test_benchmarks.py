"""Benchmarks run, on toys: what they find is no test's business."""

import importlib
import io
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from alignment.maths.hybrid import GATES
from alignment.models.packing import Item
from alignment.trainers import margin_rm
from benchmarks import (
    annotation,
    comparisons,
    figure_seven,
    gpu,
    gpu_checks,
    gpu_side,
    growth,
    lengths,
    live_reward,
    machine,
    models,
    reward_fit,
    run,
    sampling,
    training,
)
from benchmarks.comparisons import Plan
from benchmarks.operations import Shape, forward_operations, live_reward_operations, online_operations
from benchmarks.pictures import draw
from benchmarks.turns import Side, Turns
from tests.conftest import REPOSITORY

TOY = models.Size(layers=2, width=32, intermediate=64, heads=4, vocabulary=300, longest=128, tied=True)
SIZE = json.dumps(vars(TOY))
SHORT = (("count", 2), ("longest_answer", 6))
TRAININGS = ("cdpo", "cdpo_unpacked", "dpo", "reward_model")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    models.save(path, TOY)
    return path


def steps(main, folder, **given) -> tuple[dict, list[dict]]:
    """A side on the toy, as `both_steps` has it."""
    return both_steps(main, {"folder": folder, "size": SIZE, "rows": 12, **given})


def both_steps(main, given: dict[str, object]) -> tuple[dict, list[dict]]:
    """What a side says when it is asked for two steps: that it is ready, and of each step what it was."""
    said = io.StringIO()
    argv = [f"{name}={value}" for name, value in given.items()]
    main(argv, io.StringIO("step\n" * 2), said)
    ready, *found = [json.loads(line) for line in said.getvalue().splitlines()]
    return ready, found


# ---- counting -------------------------------------------------------------------------------------------------------


def test_needed_operations_are_those_counted_by_hand():
    """Width 2, one block with a network of 3: 4 * 4 + 3 * 6 = 34 weights; a vocabulary of 5.

    A prompt of 2, answers of 1 and 2: 5 tokens. Keys: 1 + 2 of the prompt; 3; 3 + 4. So 2 * 34 * 5 = 340 operations,
    4 * 2 * 13 = 104 of attention, and 2 * 2 * 5 * 3 = 60 of the head.
    """
    shape = Shape(layers=1, width=2, intermediate=3, vocabulary=5)
    assert forward_operations(shape, 2, [1, 2], head=False) == 340 + 104
    assert forward_operations(shape, 2, [1, 2], head=True) == 340 + 104 + 60
    assert forward_operations(Shape(3, 2, 3, 5), 2, [1, 2], head=True) == 3 * 444 + 60
    # two answers of 1: 4 tokens, keys 3 + 3 + 3; generated with the head, read without
    assert online_operations(shape, 2, 1) == 2 * (2 * 34 * 4 + 4 * 2 * 9) + 2 * 2 * 5 * 2
    # 2 weights; 2 answers of 3 pairs, each scored twice and differentiated once at 2 operations a weight; 12 of AdamW
    assert live_reward_operations(shape, 3) == 6 * 6 * 2 + 12 * 2


def test_the_weights_counted_are_the_models():
    model = training.AutoModelForCausalLM.from_config(models.configuration(TOY))
    block = model.model.layers[0]
    dense = sum(weight.numel() for weight in block.parameters() if weight.ndim == 2)
    assert TOY.shape.dense == dense


def test_the_rate_of_products_is_that_of_its_best_try(monkeypatch):
    ticks = iter([0.0, 5.0, 10.0, 12.0, 20.0, 24.0])
    monkeypatch.setattr(machine.time, "perf_counter", lambda: next(ticks))
    assert machine.matmul_rate(size=10, tries=3) == 2 * 1000 / 2.0


# ---- pairs ----------------------------------------------------------------------------------------------------------


def test_without_the_data_lengths_come_from_the_table(monkeypatch):
    monkeypatch.setattr(lengths, "DIALOGUES", lengths.DATA / "nowhere")
    pairs = lengths.pairs(2000, 300, 1024)
    assert {tuple(map(len, pair.values())) for pair in pairs} == set(lengths.TABLE)
    assert all(pair[side][-1] == 299 for pair in pairs for side in ("chosen_ids", "rejected_ids"))
    assert "table" in lengths.source() and pairs == lengths.pairs(2000, 300, 1024)
    short = lengths.pairs(100, 300, 128)
    assert all(len(pair["prompt_ids"]) + len(pair["rejected_ids"]) <= 128 for pair in short)


def test_the_table_has_the_quantiles_of_the_data(shared_data):
    pairs = lengths.pairs(2307, 50257, 1024)
    for column in range(3):
        real = sorted(len(list(pair.values())[column]) for pair in pairs)
        table = sorted(triple[column] for triple in lengths.TABLE)
        for share in (0.1, 0.5, 0.75, 0.9):
            assert table[int(40 * share)] == pytest.approx(real[int(2307 * share)], rel=0.2)
    assert "hh-rlhf" in lengths.source() and lengths.pairs(8, 50257, 1024) == pairs[:8]


def test_real_pairs_are_the_dialogues_cut_at_the_last_answer(shared_data):
    row = {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello you", "rejected": "\n\nHuman: Hi\n\nAssistant: Go"}
    tokenizer = lengths.GPT2TokenizerFast(
        vocab=str(lengths.TOKENIZER / "encoder.json"), merges=str(lengths.TOKENIZER / "vocab.bpe")
    )
    pair = lengths._pair(row, tokenizer, 50257)
    assert tokenizer.decode(pair["prompt_ids"]) == "\n\nHuman: Hi\n\nAssistant:"
    assert tokenizer.decode(pair["chosen_ids"]) == " Hello you<|endoftext|>"
    assert tokenizer.decode(pair["rejected_ids"]) == " Go<|endoftext|>"


def test_any_ids_are_text_and_come_back_from_it():
    tokenizer = models.tokenizer(TOY)
    ids = [5, 298, 0, 17]
    assert tokenizer(models.text(ids)).input_ids == ids and tokenizer.decode(ids) == models.text(ids)
    turns = [{"role": "user", "content": "w1 w2"}, {"role": "assistant", "content": "w3"}]
    assert tokenizer.apply_chat_template(turns, return_dict=False) == [1, 2, 3, 299]


# ---- sides ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRAININGS)
def test_both_trainings_see_the_pairs_of_the_step(folder, tmp_path, name):
    """Every answer of a step's pairs goes through the model, behind the last token of its prompt, and no others do."""
    rows = lengths.pairs(8, TOY.vocabulary, TOY.longest)
    for side in ("ours", "theirs"):
        trainer = training.build(name, side, folder, TOY, 2, rows, tmp_path / side)
        seen: list[list[list[int]]] = []
        trainer.model.model.embed_tokens.register_forward_pre_hook(
            lambda module, args, seen=seen, trainer=trainer: (
                seen.append(args[0].tolist()) if trainer.model.training and torch.is_grad_enabled() else None
            )
        )
        said = io.StringIO()
        turns = Turns(io.StringIO("step\n" * 3), said)
        trainer.add_callback(training.OneStepATurn(turns, trainer, rows, training.needed(name, TOY)))
        before = trainer.model.model.layers[0].mlp.up_proj.weight.clone()
        trainer.train()
        assert not torch.equal(before, trainer.model.model.layers[0].mlp.up_proj.weight)
        found = [json.loads(line) for line in said.getvalue().splitlines()]
        assert [step["pairs"] for step in found] == [[0, 2], [2, 4], [4, 6]] and len(seen) == 3
        for number, batch in enumerate(seen):
            for row, pair in enumerate(rows):
                for piece in behind_their_prompt(pair, ours=side == "ours", whole=name == "reward_model"):
                    there = any(piece == ids[i : i + len(piece)] for ids in batch for i in range(len(ids)))
                    assert there == (row // 2 == number), (side, number, row)
            expected = sum(lengths.length_of(pair) for pair in rows[2 * number : 2 * number + 2])
            assert found[number]["tokens"] == expected and found[number]["units"] == 2


def behind_their_prompt(pair, ours: bool, whole: bool) -> list[list[int]]:
    """Both answers, after the last token before them. What whole texts share is the prompt of our reward trainer."""
    item = Item(pair["prompt_ids"], [pair["chosen_ids"], pair["rejected_ids"]])
    if ours and whole:
        item = margin_rm._pair({side: pair["prompt_ids"] + pair[side] for side in ("chosen_ids", "rejected_ids")})
    return [[item.prompt[-1], *answer] for answer in item.answers]


def test_annotation_finds_the_same_margins_on_both_sides(folder):
    found = [steps(annotation.main, folder, side=side, batch=4)[1] for side in ("ours", "theirs")]
    for one, other in zip(*found, strict=True):
        assert one["margin"] == pytest.approx(other["margin"], rel=1e-4)
        assert all(one[key] == other[key] for key in ("pairs", "units", "tokens", "operations"))


def test_sampling_answers_the_same_prompts_on_both_sides(folder):
    for side in ("ours", "theirs"):
        ready, found = steps(sampling.main, folder, side=side, batch=3, **dict(SHORT))
        assert [step["pairs"] for step in found] == [[0, 3], [3, 6]]
        assert all(step["units"] == 6 and step["operations"] > 0 for step in found)
        assert ready["settings"]["n"] == 2


def test_answers_end_at_a_token_of_the_set(folder):
    """A model that always says w60, which ends an answer: one token, on both sides."""
    prompts = [[5, 6, 7], [8, 9]]
    loaded = training.AutoModelForCausalLM.from_pretrained(folder)
    assert 60 in sampling.end_ids(TOY) and 61 not in sampling.end_ids(TOY)
    assert len(sampling.end_ids(TOY)) == 6 and loaded.config.vocab_size == 300
    answer = sampling.theirs(folder, TOY, 3, 5)
    counts = answer(range(2), prompts)
    assert [len(some) for some in counts] == [3, 3] and all(1 <= count <= 5 for some in counts for count in some)


def test_the_cost_of_the_live_reward_is_measured_inside_a_step(folder, monkeypatch):
    for owner, name, _ in live_reward.PARTS:
        monkeypatch.setattr(owner, name, getattr(owner, name))  # so that they are as before when the test ends
    _, found = steps(live_reward.main, folder, side="live", batch=2, rows=8)
    for step in found:
        assert set(step["inside"]) == {"hooks", "scoring", "backward", "step"}
        assert 0 < sum(step["inside"].values()) < step["seconds"]
        assert step["bytes_held"] > 2 * 2 * 2 * 32 * 4
    _, found = steps(live_reward.main, folder, side="fixed", batch=2, rows=8)
    assert all("inside" not in step for step in found)
    _, found = steps(live_reward.main, folder, side="online", batch=2, tokens=16)
    assert [step["units"] for step in found] == [2, 2]


# ---- results --------------------------------------------------------------------------------------------------------


def entry(name: str, batch: int, ratio: float) -> dict:
    side = {"pairs_per_second": ratio, "peak_bytes": 10**9, "tokens_per_second": 1000, "needed_flops_share": 0.5}
    return {
        "comparison": name, "name": name, "batch": batch, "unit": "pairs", "ours": side,
        "theirs": side | {"pairs_per_second": 1.0}, "speed_ratio": ratio, "memory_ratio": 1.0,
    }  # fmt: skip


def curve(name: str, of: str) -> dict:
    points = [{of: x, "seconds_per_step": x / 2, "peak_bytes": 10**9 + x} for x in (1, 2, 4)]
    memory = {"fixed_bytes": 1e9, "bytes_each": 1.0, "explained": 1.0}
    return {
        "comparison": "growth", "name": name, "batch": 4, "of": of, "points": points, "seconds_exponent": 1.0,
        "memory": memory,
    }  # fmt: skip


def test_the_fit_of_a_reward_is_measured_beside_its_states():
    found = reward_fit.measure(20, layers=1)
    assert found["states_bytes"] == 2 * 20 * 4096 * 4 and found["seconds"] > 0 and set(found["steps"]) == set(GATES)
    assert 0 <= found["bytes_beside_states"] < 2e9 and 0 <= found["right"] <= 1


def test_one_comparison_replaces_its_own_entries_and_keeps_the_others(tmp_path):
    path = tmp_path / "results.json"
    run.keep([entry("dpo", 4, 2.0), entry("cdpo", 16, 3.0), entry("cdpo", 8, 4.0)], path)
    run.keep([entry("cdpo", 8, 5.0)], path)
    results = json.loads(path.read_text())
    assert [(one["name"], one["batch"], one["speed_ratio"]) for one in results["entries"]] == [
        ("cdpo", 8, 5.0), ("cdpo", 16, 3.0), ("dpo", 4, 2.0),
    ]  # fmt: skip
    stamped = [one for one in results["entries"] if "machine" in one]
    assert stamped and all(
        one["machine"]["threads"] > 0 and one["versions"]["trl"].startswith("1.16") for one in stamped
    )
    assert str(REPOSITORY) not in path.read_text()


def test_the_table_and_the_picture_show_every_entry(tmp_path):
    entries = [entry("cdpo", 8, 5.25), entry("sampling", 8, 0.5), curve("growth_pairs", "pairs")]
    head, *rows = run.table(entries).splitlines()
    assert len(head) > 80 and rows[0].split()[:5] == ["cdpo", "8", "5.25", "1.00", "5.25"]
    assert "power 1.00" in rows[2] and len(rows) == 3
    draw(entries, tmp_path / "results.png")
    assert (tmp_path / "results.png").stat().st_size > 10_000
    draw(entries[:1], tmp_path / "one.png")
    draw([], tmp_path / "none.png")
    assert (tmp_path / "one.png").exists() and not (tmp_path / "none.png").exists()


@pytest.mark.parametrize(
    "argv",
    [["onyl=cdpo"], ["only=cdop"], ["cdpo"], ["batch=8"], ["only=cdpo", "batch=x"], ["only=cdpo", "batch=0"]],
)
def test_what_is_not_known_ends_with_one_line(argv, capsys):
    with pytest.raises(SystemExit) as stopped:
        run.main(argv)
    assert stopped.value.code == 2 and len(capsys.readouterr().err.splitlines()) == 1


def test_gpu_benchmarks_say_where_they_belong(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(SystemExit) as stopped:
        gpu.main([])
    assert stopped.value.code == 2 and "no NVIDIA GPU" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        gpu.main(["size=7b"])


# ---- end to end -----------------------------------------------------------------------------------------------------


class Here:
    """A side in this process, which saves the imports: asked for both of its steps before anybody waits for one."""

    def __init__(self, module: str, arguments: dict[str, object], threads: int) -> None:
        ready, self._found = both_steps(importlib.import_module(f"benchmarks.{module}").main, arguments)
        self.baseline_bytes = ready["baseline_bytes"]
        self.settings = ready["settings"] | {"threads": threads, "baseline_bytes": self.baseline_bytes}

    def step(self) -> dict:
        return self._found.pop(0)

    def __enter__(self) -> "Here":
        return self

    def __exit__(self, *error: object) -> None:
        assert error[0] is not None or not self._found


def here_or_in_ranks(module: str, arguments: dict[str, object], threads: int, ranks: int = 1) -> Here | Side:
    return Here(module, arguments, threads) if ranks == 1 else Side(module, arguments, threads, ranks)


def run_here(command: list[str], **settings) -> subprocess.CompletedProcess:
    """python -m benchmarks.gpu_side or gpu_checks in this process; what has a launcher is started."""
    mains = {f"benchmarks.{module.__name__.rpartition('.')[2]}": module.main for module in (gpu_side, gpu_checks)}
    if command[:2] != [sys.executable, "-m"] or command[2] not in mains:
        return subprocess.run(command, **settings)
    mains[command[2]](command[3:])
    return subprocess.CompletedProcess(command, 0)


@pytest.mark.slow
def test_a_comparison_from_beginning_to_end(folder, tmp_path):
    """Both processes, in turn: the cheapest to start."""
    plan = Plan(folder, TOY, 1e9, rounds=2, more=SHORT)
    (found,) = run.run("sampling", 2, plan, tmp_path / "results.json")
    assert found["steps"] == 2 and found["unit"] == "samples" and found["speed_ratio"] > 0
    for side in ("ours", "theirs"):
        assert found[side]["peak_bytes"] > found[side]["settings"]["baseline_bytes"] > 10**7
        assert found[side]["settings"]["threads"] == machine.threads()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["annotation", "live_reward", "ranks"])
def test_every_other_kind_of_comparison_from_beginning_to_end(folder, tmp_path, name, monkeypatch):
    """Trainings differ from sampling in what a side does, which is tested above; growth is of one side alone. Sides in
    this process, but two ranks."""
    for module in (comparisons, figure_seven, growth):
        monkeypatch.setattr(module, "Side", here_or_in_ranks)
    monkeypatch.setattr(growth, "IN_RANKS", (("training", 4, 1), ("annotation", 4, 1)))
    monkeypatch.setattr(figure_seven, "MEASURED", (64,))
    plan = Plan(folder, TOY, 1e9, rounds=1, more=SHORT)
    entries = run.run(name, 4, plan, tmp_path / "results.json")
    names = {one["name"] for one in entries}
    assert names == {
        "live_reward": {"live_reward", "live_reward_by_length"},
        "ranks": {"ranks_training", "ranks_annotation"},
    }.get(name, {name})  # fmt: skip
    table = run.table(json.loads((tmp_path / "results.json").read_text())["entries"])
    assert all(one["name"] in table for one in entries if "speed_ratio" in one)


@pytest.mark.slow
def test_a_point_of_growth_is_measured(folder):
    plan = Plan(folder, TOY, 1e9, rounds=1)
    point = growth._point(plan.arguments("ours", 2, name="cdpo", tokens=64), steps=2, warm_up=1)
    assert point["tokens_per_step"] == 2 * 64 and point["seconds_per_step"] > 0
    assert point["peak_bytes"] > point["baseline_bytes"] > 10**7


def test_growth_finds_the_power_of_time_and_the_line_of_memory(monkeypatch, tmp_path):
    """Planted: time goes by the square of what grows, memory by 3 bytes each over 7."""
    grows = {"growth_pairs": "batch", "growth_tokens": "tokens", "growth_layers": "layers"}

    def point(arguments: dict, steps: int, warm_up: int) -> dict:
        size = arguments["layers"] if "layers" in arguments else arguments.get("tokens", arguments["batch"])
        return {
            "seconds_per_step": 5.0 * size**2,
            "peak_bytes": 7 + 3 * size,
            "baseline_bytes": 1,
            "tokens_per_step": 9,
        }

    def arguments(plan: Plan, side: str, batch: int, **more) -> dict:
        own = {} if plan.size.layers == TOY.layers else {"layers": plan.size.layers}
        return {"batch": batch, **more, **own}

    monkeypatch.setattr(growth, "_point", point)
    monkeypatch.setattr(Plan, "arguments", arguments)
    monkeypatch.setattr(growth, "TOKENS", (64, 128))
    monkeypatch.setattr(growth, "LAYERS", (3, 4, 6))
    entries = growth.growth(Plan(tmp_path, TOY, 1e9, rounds=1))
    assert [one["name"] for one in entries] == list(grows)
    for one in entries:
        assert one["seconds_exponent"] == pytest.approx(2)
        assert one["memory"]["fixed_bytes"] == pytest.approx(7) and one["memory"]["bytes_each"] == pytest.approx(3)
        assert one["memory"]["explained"] == pytest.approx(1)


@pytest.mark.slow
def test_a_side_that_fails_shows_why():
    with pytest.raises(RuntimeError, match="/nowhere"):
        Side("training", {"folder": "/nowhere", "size": SIZE}, threads=1)


@pytest.mark.slow
def test_the_gpu_benchmarks_run_on_a_processor_too(tmp_path, monkeypatch):
    """All but FlexAttention and FSDP2, which accelerate makes plain DDP of here: not to be taken for it."""
    monkeypatch.setattr(gpu, "Side", here_or_in_ranks)
    monkeypatch.setattr(gpu, "subprocess", SimpleNamespace(run=run_here, TimeoutExpired=subprocess.TimeoutExpired))
    small = models.Size(2, 32, 64, 4, 300, 128, tied=False)
    here = gpu.Machine("cpu", small, small, ("sdpa",), rounds=1, warm_up=1)
    results = gpu.run(here, tmp_path / "results.json")
    assert json.loads((tmp_path / "results.json").read_text()) == results
    said = {entry: one["result"] for entry, one in results["said"].items()}
    only_there = {"operations", "step", "answers", "generators", "flex", "reward fit", "4 bits", "fsdp2"}
    assert {entry for entry, result in said.items() if result == "not run"} == only_there
    assert {entry for entry, result in said.items() if result == "pass"} == {
        "copies", "noise", "head", "packed rows in float32", "packed rows in bfloat16",
        *(f"{method}, {side}, sdpa" for method in ("lora", "full") for side in ("ours", "theirs")),
    }  # fmt: skip
    assert [one["name"] for one in results["entries"]] == ["cdpo 7B lora sdpa", "cdpo 7B full sdpa"]
    assert results["exactness"]["float32_equal"] and results["exactness"]["mean_size"] > 0.1
    assert results["fsdp2"]["furthest"] < 1e-4 and not results["fsdp2"]["equal"]
