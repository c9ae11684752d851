"""The experiment on policies: its splits share nothing, its labels are turned round as said, its tables are right."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import real_policies
from benchmarks.real_policies import STARRED, STARRED_SEEDS, Cell, cells
from benchmarks.real_policies_answers import drawn, page, shown
from benchmarks.real_policies_inputs import FLIPS, SEEDS, SHARES, flipped, part_of
from benchmarks.real_policies_table import (
    aligned,
    corrected,
    costs,
    differences,
    guard_errors,
    interval,
    read,
    table,
    trainings,
)


def test_every_policy_of_the_protocol_is_there_once():
    names = [cell.name for cell in cells()]
    given = len(SEEDS) * (2 + 2 * len(FLIPS) + 2)
    assert len(names) == len(set(names)) == given + len(STARRED) * len(STARRED_SEEDS)
    assert Cell("cdpo", 0.25, 3).name == "cdpo-flips-25-seed-3" and Cell("base", 0.0, 0).stage is None


def test_groups_fall_into_their_parts_by_the_shares():
    parts = [part_of(group) for group in range(20_000)]
    for name, share in SHARES.items():
        assert parts.count(name) / len(parts) == pytest.approx(share, abs=0.01)


def test_exactly_a_quarter_of_the_labels_is_turned_round_and_each_seed_draws_its_own():
    pairs = [{"prompt": str(i), "chosen": f"c{i}", "rejected": f"r{i}"} for i in range(40)]
    wrong = {seed: [p["chosen"].startswith("r") for p in flipped(pairs, 0.25, "policy", seed)] for seed in (0, 1)}
    assert sum(wrong[0]) == sum(wrong[1]) == 10 and wrong[0] != wrong[1]
    assert flipped(pairs, 0.25, "policy", 0) == flipped(pairs, 0.25, "policy", 0)
    assert flipped(pairs, 0.0, "policy", 0) == pairs
    assert all({p["chosen"], p["rejected"]} == {f"c{p['prompt']}", f"r{p['prompt']}"} for p in flipped(pairs, 1, "", 0))


def record(system: str, seed: int, toxic: list[int | None], flips: float = 0.0) -> dict:
    said = {str(i): [value, None, 0.5, "harmful"] for i, value in enumerate(toxic)}
    refused = {str(i): [None, 1, None, "harmful"] for i in range(len(toxic))} | {"h": [None, 0, None, "harmless"]}
    return {
        "cell": {"system": system, "flips": flips, "seed": seed},
        "seconds": 60,
        "training": [],
        "verdicts": {"probe": {"a": said}, "words": {"a": said}, "refusal": {"a": refused}},
        "useful": {"alpaca_eval": {"h": [1, 6.0, 1.0, 0.0]}},
        "answers": {f"a/{i}": [10, 0] for i in range(len(toxic))},
    }


@pytest.fixture
def results(tmp_path: Path) -> Path:
    records = [
        record("base", 0, [1, 1, 0, 0]), record("base", 1, [1, 1, 1, 0]), record("dpo", 0, [1, 0, 0, None]),
        record("cdpo", 0, [0, 0, 0, 0]), record("cdpo", 1, [1, 0, 0, 0]), record("dpo", 1, [1, 1, 0, 0]),
    ]  # fmt: skip
    for one in records:
        cell = Cell(**one["cell"])
        (tmp_path / f"{cell.name}.json").write_text(json.dumps(one))
    return tmp_path


def test_tables_are_means_over_seeds_and_prompts_and_differences_are_paired(results):
    found = read(results)
    lines = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in table(found)[2:]}
    assert lines["base"][3].startswith("62.5 [") and lines["cdpo"][3].startswith("12.5 [")
    assert lines["dpo"][3].startswith("42.9 ["), "three of seven: one answer can't be judged"
    assert lines["base"][5].startswith("100.0 ") and lines["base"][6].startswith("0.0 ")
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in differences(found)[2:]}
    assert rows["cdpo minus base"][3].startswith("-50.0 [")
    # by hand: (0-1, 0-0, 0-0, unknown) and (1-1, 0-1, 0, 0): -2 of 7
    assert rows["cdpo minus dpo"][3].startswith(f"-{200 / 7:.1f} [")


def test_what_trainings_cost_is_said_where_it_is_known(results):
    found = read(results)
    assert costs(found)[2:] == [] and trainings(found, 0.25) == []
    found["dpo", 0.0][0]["stages"] = {"train_dpo": {"seconds": 60.0, "bytes": 10**9, "gpu_bytes": 0}}
    found["dpo", 0.0][1]["stages"] = {"train_dpo": {"seconds": 120.0, "bytes": 2 * 10**9, "gpu_bytes": 0}}
    assert costs(found)[2:] == ["| dpo | 0% | 2 | 1.5 | 2.0 |"]


def test_an_interval_is_over_prompts_and_seeds():
    alike = np.array([[1.0, 0.0] * 50] * 5)
    mean, low, high = interval(alike)
    assert mean == 0.5 and low == pytest.approx(0.40, abs=0.03) and high == pytest.approx(0.60, abs=0.03)
    apart = np.array([[1.0] * 100, [0.0] * 100])  # all that differs are the seeds
    assert interval(apart) == (0.5, 0.0, 1.0)
    with pytest.raises(ValueError, match="different prompts"):
        aligned({0: {"a": 1.0}, 1: {"b": 1.0}}, [0, 1])


def test_a_rate_is_corrected_by_the_formula():
    folds = {"answers": 1000, "harmful": 500, "sensitivity": {"mean": 0.8}, "specificity": {"mean": 0.9}}
    table = [[60, 1, 1, 0, 0], [40, 1, 0, 0, 0], [100, 0, 0, 1, 1]]
    errors = guard_errors({"folds": folds, "calibration": {"set": "other", "toxic": {"errors": {"by_prompt": table}}}})
    values = np.array([[1.0] * 45 + [0.0] * 55])
    assert corrected(values, errors["folds"])[0] == pytest.approx((0.45 + 0.9 - 1) / 0.7)
    assert corrected(values, errors["other"])[0] == pytest.approx(0.45 / 0.6)


def test_answers_are_drawn_by_a_seed_and_toxic_ones_are_left_out():
    words = " ".join(f"w{i}" for i in range(90))
    asked = {("a", str(i)): {"prompt": f"p{i}", "answer": words, "asks": "harmful"} for i in range(30)}
    asked |= {("h", str(i)): {"prompt": f"<b>h{i}", "answer": "", "asks": "harmless"} for i in range(9)}
    verdicts = {
        "probe": {"a": {str(i): [i % 2, None, 0.5, "harmful"] for i in range(30)}},
        "words": {}, "refusal": {"a": {str(i): [None, 1, None, "harmful"] for i in range(30)}},
    }  # fmt: skip
    lines = page({"base": asked, "cdpo_star": asked}, {"base": verdicts, "cdpo_star": verdicts})
    assert lines == page({"base": asked, "cdpo_star": asked}, {"base": verdicts, "cdpo_star": verdicts})
    text = "\n".join(lines)
    assert text.count("harmful, `a`") == 12 and text.count("harmless, `h`: &lt;b>h") == 8
    for name in (name for name in drawn(asked) if name[0] == "a"):
        toxic, shown_words = int(name[1]) % 2, shown(words, verdicts, name)
        assert ("w7" in shown_words) is not bool(toxic) and "w61" not in shown_words
        assert shown_words.endswith(f"[{84 if toxic else 30} more words{', left out' if toxic else ''}]")
    assert "guard: safe; words: cannot say; refusal judge: refuses" in text and "(nothing)" in text


def test_figures_are_of_ids_and_numbers_alone():
    for file in real_policies.RESULTS.glob("*-seed-*.json"):
        kept = json.loads(file.read_text())
        assert '"/' not in file.read_text(), "a path of a machine"
        for of_judge in kept["verdicts"].values():
            for of_set in of_judge.values():
                for verdict in of_set.values():
                    assert all(value is None or isinstance(value, int | float) for value in verdict[:3])
                    assert verdict[3] in ("harmful", "harmless", "unknown")
