"""Rates of policies over seeds and their ratio, by hand."""

import pytest

from alignment.reports.policies import grid_points, grid_table, policies, policy_tables, prompts_by_rate
from alignment.reports.tables import as_text


def rates(toxic: float, refused: float = 0.0, helpful: float = 1.0) -> dict:
    return {"toxic_rate": toxic, "over_refusal": refused, "helpful_rate": helpful}


FOUND = {
    "base": [{"objects": rates(0.8), "same": rates(0.6, 0.1, 0.9)}] * 2,
    "dpo": [{"objects": rates(0.5), "same": rates(0.3)}, {"objects": rates(0.4), "same": rates(0.4)}],
    "cdpo": [{"objects": rates(0.2), "same": rates(0.2)}, {"objects": rates(0.1), "same": rates(0.1)}],
}
PROMPTS = {(name, rate): 10 for name in ("same", "objects") for rate in rates(0.0)}


def lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines() if line.strip() and "─" not in line]


def test_rates_over_seeds_and_the_ratio_of_toxic_ones():
    """Toxic over both sets: DPO 0.4 and 0.4, confidence DPO 0.2 and 0.1; ratios 1/2, 1/4 and, of means, 0.15 / 0.4."""
    report, ratios = policies(FOUND, PROMPTS)
    assert report["dpo"]["same"]["toxic_rate"]["mean"] == pytest.approx(0.35)
    assert report["dpo"]["same"]["toxic_rate"]["per_seed"] == [0.3, 0.4]
    tenth = report["base"]["same"]["over_refusal"]
    assert (tenth["mean"], tenth["n"], tenth["per_seed"]) == (0.1, 10, [0.1, 0.1])
    assert tenth["ci95"] == pytest.approx([0.0179, 0.4042], abs=1e-4), "seeds that agree: Wilson's of one in ten"
    assert list(ratios) == ["cdpo_to_dpo"]
    assert ratios["cdpo_to_dpo"]["mean"] == pytest.approx(0.375)
    assert ratios["cdpo_to_dpo"]["per_seed"] == pytest.approx([0.5, 0.25])


def test_the_prompts_of_a_rate_are_known_whoever_judged():
    """The oracle judges the world's rates, and need not be among the judges of the scorecard (judge=refusal)."""
    answers = [
        {"set": name, "id": f"{asks}-{i}", "asks": asks, "system": system, "seed": seed}
        for name in ("same", "objects") for system in FOUND for seed in (0, 1)
        for asks, count in (("harmful", 4), ("harmless", 3)) for i in range(count)
    ]  # fmt: skip
    report, _ = policies(FOUND, prompts_by_rate(answers))
    counts = {rate: summary["n"] for rate, summary in report["base"]["same"].items()}
    assert counts == {"toxic_rate": 4, "over_refusal": 3, "helpful_rate": 3}


def test_there_is_no_ratio_to_a_policy_that_is_never_toxic():
    harmless = {**FOUND, "dpo": [{"same": rates(0.0)}] * 2}
    report, ratios = policies(harmless, PROMPTS)
    assert ratios == {"cdpo_to_dpo": None}
    assert "ratio" not in as_text(policy_tables({"base": report["base"]}, ratios))
    once = {**FOUND, "dpo": [{"same": rates(0.0)}, {"same": rates(0.5)}]}
    assert policies(once, PROMPTS)[1]["cdpo_to_dpo"]["per_seed"] == [None, pytest.approx(0.2)]


def test_a_table_for_each_rate_with_the_easiest_set_first():
    one_seed = {name: seeds[:1] for name, seeds in FOUND.items()}
    text = as_text(policy_tables(*policies(one_seed, PROMPTS)))
    shown = [line for line in lines(text) if not line.startswith(("* fewer than 30", "percents"))]
    assert text.count("* fewer than 30") == 3
    assert shown == [
        "harmful prompts: toxic answers, % same, n = 10* objects, n = 10*",
        "base the model as it is 60.0 [31.3, 83.2] 80.0 [49.0, 94.3]",
        "dpo DPO, given pairs 30.0 [10.8, 60.3] 50.0 [23.7, 76.3]",
        "cdpo confidence DPO, given pairs 20.0 [5.7, 51.0] 20.0 [5.7, 51.0]",
        "their harmless twins: refusals, % same, n = 10* objects, n = 10*",
        "base the model as it is 10.0 [1.8, 40.4] 0.0 [0.0, 27.8]",
        "dpo DPO, given pairs 0.0 [0.0, 27.8] 0.0 [0.0, 27.8]",
        "cdpo confidence DPO, given pairs 0.0 [0.0, 27.8] 0.0 [0.0, 27.8]",
        "their harmless twins: helpful answers, % same, n = 10* objects, n = 10*",
        "base the model as it is 90.0 [59.6, 98.2] 100.0 [72.2, 100.0]",
        "dpo DPO, given pairs 100.0 [72.2, 100.0] 100.0 [72.2, 100.0]",
        "cdpo confidence DPO, given pairs 100.0 [72.2, 100.0] 100.0 [72.2, 100.0]",
        "ratio of toxic rates, paired by seed",
        "cdpo / dpo 0.50",
    ]


def training(beta: float | None, seed: int, toxic: float | None, chosen: bool = False) -> dict:
    return {
        "system": "sft" if beta is None else "dpo", "beta": beta, "learning_rate": 1e-4, "seed": seed,
        "validation": None if toxic is None else rates(toxic, 0.1), "chosen": chosen,
    }  # fmt: skip


def test_points_of_the_grid_are_means_over_their_seeds():
    trainings = [
        training(0.1, 0, 0.2, chosen=True), training(0.1, 1, 0.4), training(0.2, 0, 0.3), training(0.2, 1, None),
        training(None, 0, 0.5),
    ]  # fmt: skip
    first, diverged, tuned = grid_points(trainings)
    assert first["rates"] == pytest.approx(rates(0.3, 0.1)) and first["seeds"] == 2 and first["chosen"]
    assert diverged["rates"] is None and not diverged["chosen"]
    assert (tuned["system"], tuned["beta"], tuned["seeds"]) == ("sft", None, 1)
    assert lines(as_text([grid_table([first, diverged, tuned], "200 validation prompts")])) == [
        "on 200 validation prompts, % β learning rate seeds toxic refuses harmless helpful",
        "dpo 0.1 0.0001 2 30.0 10.0 100.0 chosen",
        "dpo 0.2 0.0001 2",
        "sft 0.0001 1 50.0 10.0 100.0",
    ]
