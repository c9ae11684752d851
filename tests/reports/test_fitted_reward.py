"""What a table says of hybrid.json."""

from alignment.reports.fitted_reward import hybrid, hybrid_tables
from alignment.reports.tables import as_text

QUALITY = {
    "gate": "uniform", "pooling": "endpoint", "pairs": {"train": 10, "heldout": 8}, "hard": 0.5, "soft": 0.625,
    "true": None, "alpha": 2.0, "pair_accuracy": {"sigmoid": 0.5, "uniform": 0.625},
    "ece": {"hybrid": 0.1234, "one": 0.5}, "saturated_share": {"hybrid": 0.25, "one": 0.0},
    "layers": [
        {"layer": 0, "precision": None, "accuracy": 0.5, "pair_accuracy": 0.375, "gate_weight": 0.2},
        {"layer": 3, "precision": 0.75, "accuracy": 0.625, "pair_accuracy": 0.875, "gate_weight": 0.8},
    ],
    "scoring": {"seconds": 1.0},
    "clean": {"objects": {"sigmoid": 1.0, "uniform": 0.9}, "same": {"sigmoid": 0.7, "uniform": 0.8}},
    "on_the_way": "what nobody reports",
}  # fmt: skip


def shown(report: dict) -> list[list[str]]:
    texts = [as_text([table]).splitlines() for table in hybrid_tables(report)]
    return [[" ".join(line.split()) for line in text if line.strip() and "─" not in line] for text in texts]


def test_what_was_needed_on_the_way_is_left_out():
    assert hybrid(QUALITY) == {name: value for name, value in QUALITY.items() if name != "on_the_way"}


def test_gates_layers_and_confidences():
    gates, layers, confidences = shown(hybrid(QUALITY))
    assert gates[:3] == [
        "8 held-out pairs ranked as labelled, % same objects", "sigmoid 50.0 70.0 100.0", "uniform * 62.5 80.0 90.0",
    ]  # fmt: skip
    assert "* is used" in gates[3]
    assert layers[1:] == ["0 50.0 37.5 0.200", "3 75.0 62.5 87.5 0.800"], "nothing was called chosen by layer 0"
    assert confidences == ["confidence calibration error saturated, %", "hybrid 0.123 25.0", "one 0.500 0.0"]


def test_without_sets_of_true_labels_there_is_one_column_and_nothing_to_explain():
    gates, *_ = shown({**QUALITY, "clean": {}})
    assert gates == ["8 held-out pairs ranked as labelled, %", "sigmoid 50.0", "uniform * 62.5"]
