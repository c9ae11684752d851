"""The report of stage annotate: how good the margins of held-out pairs are."""

from rich.table import Table

from alignment.reports.tables import interval, with_interval

KNOWN = ("severity", "helpfulness", "given")  # gaps that may be known; the first that is gets the interval


def annotation(calibration: dict) -> dict:
    """The headline figures of the held-out pairs; calibration.json has the rest, and the runner adds the seconds."""
    heldout = calibration["heldout"]
    first = next((heldout[kind] for kind in KNOWN if heldout[kind]), {})
    return {
        "layer": calibration["layer"],
        "pairs": heldout["in_scope"],
        **{f"spearman_{kind}": (heldout[kind] or {}).get("spearman") for kind in KNOWN},
        **{name: first.get(name) for name in ("spearman_binned", "spearman_size", "spearman_ci95")},
        "ranked_right": heldout["ranked_right"],
        "negative_share": heldout["distribution"]["negative_share"] if heldout["distribution"] else None,
        "length_correlation": heldout["length_correlation"],
        "truncated": sum(calibration[part]["truncated"] for part in ("train", "heldout")),
    }


def annotation_table(annotation: dict) -> Table:
    first = next((kind for kind in KNOWN if annotation[f"spearman_{kind}"] is not None), None)
    table = Table("margins of held-out pairs", "")
    for name, label in {
        "layer": "layer",
        "spearman_severity": "Spearman with the true severity gap",
        "spearman_helpfulness": "Spearman with the true helpfulness gap",
        "spearman_given": "Spearman with the margins that came with the data",
        "spearman_binned": "the same of the binned margins",
        "negative_share": "share below zero",
        "length_correlation": "Spearman with the length difference",
        "truncated": "answers cut at annotator.max_length, all pairs",
    }.items():
        if annotation[name] is not None:
            table.add_row(label, str(annotation[name]) if name in ("layer", "truncated") else f"{annotation[name]:.3f}")
        if name == f"spearman_{first}" and annotation["spearman_ci95"] is not None:
            table.add_row("  its interval over prompts", interval(annotation["spearman_ci95"], ".3f"))
    if (ranked := annotation["ranked_right"]) is not None:
        table.add_row("pairs ranked as labelled", with_interval(ranked["mean"], ranked["ci95"], ".3f"))
    return table
