"""The report of stage fit_reward: how good the hybrid reward is on pairs kept from training."""

from rich.table import Table

from alignment.reports.tables import counted, few, percent, share
from alignment.world.grammar import EVALUATION_SETS

REPORTED = (
    "gate", "pooling", "pairs", "hard", "soft", "true", "alpha", "pair_accuracy", "ece", "saturated_share", "layers",
    "scoring", "clean", "ci95",
)  # fmt: skip
USED = "  <"  # marks the gate in use; a star says that n is small


def hybrid(quality: dict) -> dict:
    """The part of hybrid.json that is reported. Labels have the noise of the data, those of `clean` have none."""
    return {name: quality[name] for name in REPORTED}


def hybrid_tables(report: dict) -> list[Table]:
    sets = sorted(report["clean"], key=EVALUATION_SETS.index)
    counts, ends = report["pairs"], report["ci95"]
    n = counts["heldout"]
    gates = Table(
        "pairs ranked right, %",
        f"held out, n = {counted(n)}",
        *(f"{name}, n = {counted(counts[name])}" for name in sets),
    )
    for gate, accuracy in report["pair_accuracy"].items():
        used = gate == report["gate"]
        cell = percent({"mean": accuracy, "ci95": ends["pair_accuracy"] if used else [None, None]})
        gates.add_row(gate + USED * used, cell, *(share(report["clean"][name][gate]) for name in sets))
    says = [f"gate{USED}: the one in use"]
    if sets:
        says.append("held-out pairs have the data's noisy labels, the named sets true ones")
    gates.caption = "; ".join(filter(None, [*says, few(n, *(counts[name] for name in sets))]))
    layers = Table("layer", "pairs ranked right, %", "answers with the right sign, %", "precision, %", "gate weight")
    for layer, intervals in zip(report["layers"], ends["layers"], strict=True):
        cells = [
            "" if layer[name] is None else percent({"mean": layer[name], "ci95": intervals[name]})
            for name in ("pair_accuracy", "precision")
        ]
        layers.add_row(str(layer["layer"]), cells[0], share(layer["accuracy"]), cells[1], f"{layer['gate_weight']:.3f}")
    layers.caption = (
        f"the probe of each layer alone on {n:,} held-out pairs. Ranked right: the chosen answer scores higher than "
        "the rejected one. Right sign: of all answers, chosen ones above 0 and rejected ones below. Precision: of the "
        "answers above 0, the chosen ones. One answer says less than a comparison of two, so the last two are lower"
    )
    confidences = Table("confidence", "pairs", "calibration error", "saturated, %")
    for name, error in report["ece"].items():
        confidences.add_row(name, counted(n), f"{error:.3f}", share(report["saturated_share"][name]))
    return [gates, layers, confidences]
