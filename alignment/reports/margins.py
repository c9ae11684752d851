"""The report of stage annotate: how good the margins of held-out pairs are."""

from rich.box import SIMPLE_HEAD
from rich.table import Table


def annotation(calibration: dict) -> dict:
    """The headline figures of the held-out pairs; calibration.json has the rest, and the runner adds the seconds."""
    heldout = calibration["heldout"]
    known = heldout["severity"] or heldout["helpfulness"] or {}
    return {
        "layer": calibration["layer"],
        "pairs": heldout["in_scope"],
        "spearman_severity": (heldout["severity"] or {}).get("spearman"),
        "spearman_helpfulness": (heldout["helpfulness"] or {}).get("spearman"),
        "spearman_binned": known.get("spearman_binned"),
        "spearman_size": known.get("spearman_size"),
        "negative_share": heldout["distribution"]["negative_share"] if heldout["distribution"] else None,
        "length_correlation": heldout["length_correlation"],
    }


def annotation_table(annotation: dict) -> Table:
    table = Table("margins of held-out pairs", "", box=SIMPLE_HEAD, title_justify="left")
    for name, label in {
        "layer": "layer",
        "spearman_severity": "Spearman with the true severity gap",
        "spearman_helpfulness": "Spearman with the true helpfulness gap",
        "spearman_binned": "the same of the binned margins",
        "negative_share": "share below zero",
        "length_correlation": "Spearman with the length difference",
    }.items():
        if annotation[name] is not None:
            table.add_row(label, str(annotation[name]) if name == "layer" else f"{annotation[name]:.3f}")
    return table
