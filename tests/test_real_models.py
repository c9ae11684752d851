"""The tables of docs/real_models.md say what the committed reports say."""

import json

import pytest

from tests.conftest import REPOSITORY

TEXT = (REPOSITORY / "docs/real_models.md").read_text()
PARTS = ("PKU, dev half", "PKU, other half", "hh_harmless", "helm_graded")
DIRECTIONS = {
    "the shorter one": "the shorter answer", "shipped": "shipped", "matched": "matched",
    "labels64": "matched, by 64 labels", "labelled": "labelled", "labelled_uncut": "labelled, uncut",
}  # fmt: skip
SCORERS = {
    "length": "length alone", "layer_0": "token embeddings", "words": "words alone", "last_layer": "last layer",
    "uniform": "mean of all probes", "best_layer": "best layer, by inner choice",
    "joint_ridge": "one ridge, all layers", "softmax_scores": "gate `softmax_scores`",
    "sigmoid_scores": "gate `sigmoid_scores`", "static_softmax": "gate `static_softmax`",
}  # fmt: skip


def percent(summary: dict) -> str:
    return f"{100 * summary['mean']:.1f} [{100 * summary['ci95'][0]:.1f}, {100 * summary['ci95'][1]:.1f}]"


def correlation(summary: dict) -> str:
    return f"{summary['mean']:.2f} [{summary['ci95'][0]:.2f}, {summary['ci95'][1]:.2f}]"


def row(title: str, cells: list[str]) -> str:
    return f"| {title} | {' | '.join(cells)} |"


@pytest.mark.parametrize("name", DIRECTIONS)
def test_directions_rank_as_many_pairs_right_as_the_benchmark_found(name):
    found = json.loads((REPOSITORY / "benchmarks/results/real_margins.json").read_text())["parts"]
    assert row(DIRECTIONS[name], [percent(found[part][name]["ranked_right"]) for part in PARTS]) in TEXT
    if name in ("matched", "labelled"):
        assert row(f"{name} minus shipped", [percent(found[part][f"{name} minus shipped"]) for part in PARTS]) in TEXT
    if name in ("shipped", "matched", "labelled"):
        cells = [correlation(found[part][name]["length"]) for part in PARTS]
        assert row(f"{name}: Spearman with the difference in tokens", cells) in TEXT


@pytest.mark.parametrize("name", SCORERS)
def test_scorers_are_as_good_as_the_cross_validation_found(name):
    report = json.loads((REPOSITORY / "docs/reports/hybrid_reward_smollm2.json").read_text())["cross_validation"]
    found = report["scorers"][name]
    assert (
        row(SCORERS[name], [percent(found[key]) for key in ("pair_accuracy", "auroc", "tpr_at_1_percent_fpr")]) in TEXT
    )


def test_reward_models_rank_as_many_pairs_right_as_the_run_found():
    found = json.loads((REPOSITORY / "docs/reports/legend_rm_smollm2.json").read_text())["reward_model"]
    for kind in ("none", "constant", "random", "shuffled", "legend"):
        for accuracy in (found[kind]["accuracy"], found[kind]["transfer"]["hh_harmless"]):
            assert f" {percent(accuracy)} |" in TEXT
    shipped = json.loads((REPOSITORY / "docs/reports/legend_rm_smollm2_shipped.json").read_text())["reward_model"]
    for accuracy in (shipped["legend"]["accuracy"], shipped["legend"]["transfer"]["hh_harmless"]):
        assert "| Legend as shipped, `annotator=auto` | 3 | " in TEXT and f" {percent(accuracy)} |" in TEXT
