"""What a table says of hybrid.json."""

from alignment.reports.fitted_reward import hybrid, hybrid_tables
from alignment.reports.tables import as_text

QUALITY = {
    "gate": "uniform", "pooling": "endpoint", "pairs": {"train": 10, "heldout": 8, "objects": 40, "same": 50},
    "hard": 0.5, "soft": 0.625,
    "true": None, "alpha": 2.0, "pair_accuracy": {"sigmoid": 0.5, "uniform": 0.625},
    "ece": {"hybrid": 0.1234, "one": 0.5}, "saturated_share": {"hybrid": 0.25, "one": 0.0},
    "layers": [
        {"layer": 0, "precision": None, "accuracy": 0.5, "pair_accuracy": 0.375, "gate_weight": 0.2},
        {"layer": 3, "precision": 0.75, "accuracy": 0.625, "pair_accuracy": 0.875, "gate_weight": 0.8},
    ],
    "scoring": {"seconds": 1.0},
    "clean": {"objects": {"sigmoid": 1.0, "uniform": 0.9}, "same": {"sigmoid": 0.7, "uniform": 0.8}},
    "ci95": {"pair_accuracy": [0.25, 0.875], "layers": [{"precision": None, "pair_accuracy": [0.125, 0.5]},
                                                     {"precision": [0.5, 0.9], "pair_accuracy": [0.5, 1.0]}]},
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
        "pairs ranked right, % held out, n = 8* same, n = 50 objects, n = 40",
        "sigmoid 50.0 70.0 100.0", "uniform < 62.5 [25.0, 87.5] 80.0 90.0",
    ]  # fmt: skip
    assert "gate <: the one in use" in gates[3] and "fewer than 30" in " ".join(gates[3:])
    assert layers[1:3] == ["0 37.5 [12.5, 50.0] 50.0 0.200", "3 87.5 [50.0, 100.0] 62.5 75.0 [50.0, 90.0] 0.800"]
    assert "each layer alone on 8 held-out pairs" in layers[3] and "Precision:" in " ".join(layers[3:])
    assert confidences == [
        "confidence pairs calibration error saturated, %",
        "hybrid 8* 0.123 25.0",
        "one 8* 0.500 0.0",
    ]


def test_without_sets_of_true_labels_there_is_one_column_and_nothing_to_explain():
    gates, *_ = shown({**QUALITY, "clean": {}})
    assert gates[:3] == ["pairs ranked right, % held out, n = 8*", "sigmoid 50.0", "uniform < 62.5 [25.0, 87.5]"]
    assert "true ones" not in " ".join(gates)
