"""The report of stage annotate: how good the margins of held-out pairs are."""

from rich.table import Table

from alignment.reports.tables import counted, few, number, percent, share, with_interval

KNOWN = ("severity", "helpfulness", "given")  # gaps that may be known; the first that is gets the interval


def annotation(calibration: dict) -> dict:
    """The headline figures of the held-out pairs; calibration.json has the rest, and the runner adds the seconds."""
    heldout = calibration["heldout"]
    gap = next((kind for kind in KNOWN if heldout[kind]), None)
    first = {} if gap is None else heldout[gap]
    return {
        "layer": calibration["layer"],
        "pairs": heldout["in_scope"],
        "gap": gap,
        "gaps": first.get("pairs"),
        **{f"spearman_{kind}": (heldout[kind] or {}).get("spearman") for kind in KNOWN},
        **{name: first.get(name) for name in ("spearman_binned", "spearman_size", "spearman_ci95")},
        "ranked_right": heldout["ranked_right"],
        "negative_share": heldout["distribution"]["negative_share"] if heldout["distribution"] else None,
        "length_correlation": heldout["length_correlation"],
        "truncated": sum(calibration[part]["truncated"] for part in ("train", "heldout")),
    }


def annotation_table(annotation: dict) -> Table:
    """What kind of number each is stands beside it: percent of pairs, or a rank correlation from -1 to 1."""
    n = annotation["pairs"]
    table = Table("margins of held-out pairs", "", "pairs", caption=few(n))
    for kind, label in {
        "severity": "Spearman with the true severity gap",
        "helpfulness": "Spearman with the true helpfulness gap",
        "given": "Spearman with the margins that came with the data",
    }.items():
        if annotation[f"spearman_{kind}"] is not None:
            first = kind == annotation["gap"]
            ends = annotation["spearman_ci95"] if first and annotation["spearman_ci95"] else [None, None]
            cell = with_interval(annotation[f"spearman_{kind}"], ends, "z.2f")
            table.add_row(label, cell, counted(annotation["gaps"]) if first else "")
    for name, label, form in (
        ("spearman_binned", "the same of the binned margins", "z.2f"),
        ("length_correlation", "Spearman with the length difference", "z.2f"),
        ("negative_share", "below zero, %", "%"),
    ):
        if annotation[name] is not None:
            cell = share(annotation[name]) if form == "%" else number(annotation[name], form)
            table.add_row(label, cell, counted(annotation["gaps"] if name == "spearman_binned" else n))
    if (ranked := annotation["ranked_right"]) is not None:
        table.add_row("ranked as labelled, %", percent(ranked), counted(n))
    table.add_row("read in layer", str(annotation["layer"]), "")
    table.add_row("answers cut at annotator.max_length, all pairs", str(annotation["truncated"]), "")
    return table
