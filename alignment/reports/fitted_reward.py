"""The report of stage fit_reward: how good the hybrid reward is on pairs kept from training."""

from rich.box import SIMPLE_HEAD
from rich.table import Table

from alignment.world.grammar import EVALUATION_SETS

WHOLE = ("gate", "pooling", "pairs", "hard", "soft", "true", "alpha", "pair_accuracy", "ece", "saturated_share")
CLEAN, SCORING = "clean", "scoring"


def hybrid(quality: dict) -> dict:
    """hybrid.json without what was needed on the way; labels have the noise of the data, `clean` ones have none."""
    return {name: quality[name] for name in (*WHOLE, "layers", SCORING, CLEAN)}


def hybrid_tables(report: dict) -> list[Table]:
    sets = sorted(report[CLEAN], key=EVALUATION_SETS.index)
    gates = Table(f"{report['pairs']['heldout']} held-out pairs ranked as labelled, %", "", *sets, box=SIMPLE_HEAD)
    for gate, accuracy in report["pair_accuracy"].items():
        mark = " *" if gate == report["gate"] else ""
        clean = [f"{100 * report[CLEAN][name][gate]:.1f}" for name in sets]
        gates.add_row(f"{gate}{mark}", f"{100 * accuracy:.1f}", *clean)
    if report[CLEAN]:
        gates.caption = (
            "* is used; the first column has the noisy labels of the data, the named evaluation sets have true ones"
        )
    layers = Table("layer", "precision", "accuracy", "pairs ranked right", "gate weight", box=SIMPLE_HEAD)
    for one in report["layers"]:
        shares = [one[name] for name in ("precision", "accuracy", "pair_accuracy")]
        cells = ["" if share is None else f"{100 * share:.1f}" for share in shares]
        layers.add_row(str(one["layer"]), *cells, f"{one['gate_weight']:.3f}")
    confidences = Table("confidence", "calibration error", "saturated, %", box=SIMPLE_HEAD)
    for name, error in report["ece"].items():
        confidences.add_row(name, f"{error:.3f}", f"{100 * report['saturated_share'][name]:.1f}")
    return [gates, layers, confidences]
