"""The benchmark of the guard of words, on toys: what it finds is no test's business, that it compares as it says is."""

import csv
import json
import random
from pathlib import Path

import pytest

from benchmarks import word_floor

WORDS = "please do it as one would at home in the morning with a friend and some time".split()


@pytest.fixture
def sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("alignment.maths.statistics.bootstrap.__defaults__", (50,))
    drawing = random.Random(0)
    rows = [("question", "answer", "label")]
    for i in range(120):
        asked = " ".join(drawing.sample(WORDS, 5))
        rows.append(
            (f"{asked} {i}", f"{drawing.choice(['mix', 'cut'])} {i} {'fuse wire' if i % 2 else 'I cannot'}", i % 2)
        )
    (tmp_path / "beavertails").mkdir()
    with (tmp_path / "beavertails/Safe-RLHFmini.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    (tmp_path / "alpaca_eval").mkdir()
    harmless = [{"instruction": f"write {i} poems", "output": f"a fuse wire poem {i}"} for i in range(30)]
    (tmp_path / "alpaca_eval/alpaca-7b.model_outputs.json").write_text(json.dumps(harmless))
    return str(tmp_path)


def test_the_floor_is_measured_on_new_prompts_and_on_harmless_ones(sets: str):
    found = word_floor.measure(sets, ("alpaca_eval",))
    assert found["answer"]["auroc"]["mean"] > 0.95 > 0.7 > found["prompt"]["auroc"]["mean"]
    assert found["apart"]["n"] == found["with harmless"]["n"] == 120
    assert found["not learned from"]["alpaca_eval"] == {
        **found["not learned from"]["alpaca_eval"],
        "mean": 1.0,
        "n": 30,
    }
    assert found["learned from"]["alpaca_eval"]["mean"] < 0.2
