"""What stage read_answers takes: the states of labelled answers at two places, and those of their prompts alone."""

import json
from pathlib import Path

import pytest
from transformers import LlamaConfig

from alignment.memory import planned_texts, table
from alignment.memory.estimates import Estimator
from alignment.memory.machine import Machine
from alignment.plan import plan
from alignment.runs.run_files import RunDir
from alignment.settings.compose import compose_config
from tests.conftest import byte_tokenizer

LAYERS, WIDTH = 3, 64


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> list[str]:
    """A low model without weights, 20 answers to 10 prompts to learn from and 5 others, each of one byte more."""
    folder = tmp_path_factory.mktemp("planned")
    tokenizer = byte_tokenizer("llama3")
    LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=128, num_hidden_layers=LAYERS,
        num_attention_heads=4, max_position_embeddings=512,
    ).save_pretrained(folder)  # fmt: skip
    tokenizer.save_pretrained(folder)
    sizes = {"fitted": range(20), "tried": range(5)}
    for name, numbers in sizes.items():
        rows = [{"prompt": f"{name} {i % 10}", "response": "y" * (i + 1), "label": i % 2} for i in numbers]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = [{"prompt": f"pair {i}", "chosen": "a", "rejected": "b"} for i in range(40)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    model = ["model=local", f"model.path={folder}", "data=file", f"data.path={folder}/pairs.jsonl"]
    guard = [f"guard.answers=[{folder}/fitted.jsonl]", "guard.harmless=[]", "guard.false_alarms=null"]
    return ["+recipe=guard", *model, *guard, f"guard.transfer=[{folder}/tried.jsonl]", "model.dtype=float32"]


def estimated(given: list[str], *more: str):
    cfg = compose_config([*given, *more])
    return Estimator(cfg, RunDir(Path(cfg.run.dir)), Machine(1, False, False, 10**12)).estimate("read_answers", cfg)


def test_a_plan_has_a_row_for_it(given: list[str], tmp_path: Path) -> None:
    cfg, run = compose_config([*given, f"run.dir={tmp_path}"]), RunDir(tmp_path)
    text, refusal = table.report(cfg, run, plan(cfg, run), 1)
    first = [line.split()[0] for line in text.splitlines() if line.strip()]
    assert first.count("read_answers") == 2 and "not estimated" not in text and refusal is None


def test_answers_and_prompts_are_counted(given: list[str]) -> None:
    found = estimated(given)
    answers, prompts = planned_texts.labelled_answers(compose_config(given), 512)
    assert (answers.count, prompts.count, len(answers.items)) == (25, 10, 25) and found.texts == answers
    tokens = sorted(len(item.answers[0]) for item in answers.items)
    assert [one - tokens[0] for one in tokens] == sorted([*range(20), *range(5)])
    assert found.total == round(25 * answers.mean + 10 * prompts.mean) and found.step == min(4096, found.total)
    cfg = compose_config(given)
    cfg.guard.count = 4
    fewer = planned_texts.labelled_answers(cfg, 512)
    assert (fewer[0].count, fewer[1].count) == (9, 4)


def test_states_are_held_of_every_layer_at_two_places(given: list[str]) -> None:
    """As computed and once more in float32, of all answers of a batch; smaller batches hold fewer."""
    found, small = estimated(given, "packing=off"), estimated(given, "packing=off", "guard.batch_tokens=128")
    longest = found.texts.longest
    at_once = min(4096, round(found.texts.count * found.texts.mean)) // longest
    assert found.memory.hidden == at_once * 2 * LAYERS * WIDTH * (4 + 4)
    assert small.memory.hidden == 128 // longest * 2 * LAYERS * WIDTH * (4 + 4) < found.memory.hidden
    cut = estimated(given, "guard.max_length=32")
    assert cut.texts.longest == 32 < longest


def test_without_a_tokenizer_texts_are_as_long_as_they_may_be(given: list[str], monkeypatch) -> None:
    monkeypatch.setattr("alignment.memory.planned_texts._format", lambda cfg: None)
    found = estimated(given, "guard.max_length=100")
    assert not found.texts.known and found.texts.longest == 100 and found.total == 25 * 100 + 10 * 99
