"""The report of stage fit_reward: how good the hybrid reward is on pairs kept from training."""

from rich.table import Table

from alignment.reports.tables import share
from alignment.world.grammar import EVALUATION_SETS

REPORTED = (
    "gate", "pooling", "pairs", "hard", "soft", "true", "alpha", "pair_accuracy", "ece", "saturated_share", "layers",
    "scoring", "clean",
)  # fmt: skip


def hybrid(quality: dict) -> dict:
    """The part of hybrid.json that is reported. Labels have the noise of the data, those of `clean` have none."""
    return {name: quality[name] for name in REPORTED}


def hybrid_tables(report: dict) -> list[Table]:
    sets = sorted(report["clean"], key=EVALUATION_SETS.index)
    gates = Table(f"{report['pairs']['heldout']} held-out pairs ranked as labelled, %", "", *sets)
    for gate, accuracy in report["pair_accuracy"].items():
        mark = " *" if gate == report["gate"] else ""
        gates.add_row(f"{gate}{mark}", share(accuracy), *(share(report["clean"][name][gate]) for name in sets))
    if sets:
        gates.caption = (
            "* is used; the first column has the noisy labels of the data, the named evaluation sets have true ones"
        )
    layers = Table("layer", "precision", "accuracy", "pairs ranked right", "gate weight")
    for layer in report["layers"]:
        shares = [share(layer[name]) for name in ("precision", "accuracy", "pair_accuracy")]
        layers.add_row(str(layer["layer"]), *shares, f"{layer['gate_weight']:.3f}")
    confidences = Table("confidence", "calibration error", "saturated, %")
    for name, error in report["ece"].items():
        confidences.add_row(name, f"{error:.3f}", share(report["saturated_share"][name]))
    return [gates, layers, confidences]
