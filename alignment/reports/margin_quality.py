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
        "direction": calibration["direction"],
        "shrinkage": calibration["shrinkage"],
        "halves": calibration["halves"],
        "baselines": heldout["baselines"],
        "labels": calibration.get("labels"),
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
            if name == "length_correlation" and (
                ends := (annotation["baselines"] or {}).get("length_correlation_ci95")
            ):
                cell = with_interval(annotation[name], ends, form)
            table.add_row(label, cell, counted(annotation["gaps"] if name == "spearman_binned" else n))
    if (ranked := annotation["ranked_right"]) is not None:
        table.add_row("ranked as labelled, %", percent(ranked), counted(n))
    shrinkage = "" if annotation["shrinkage"] is None else f", shrinkage {annotation['shrinkage']:g}"
    table.add_row("read in layer", f"{annotation['layer']} ({annotation['direction']}{shrinkage})", "")
    table.add_row("answers cut at annotator.max_length, all pairs", str(annotation["truncated"]), "")
    return table


def baselines_table(annotation: dict) -> Table:
    """What simpler things would do on the same pairs, and how far the direction can be trusted."""
    baselines, n = annotation["baselines"], annotation["pairs"]
    table = Table("what margins must beat, held-out pairs", "", "pairs", caption=few(n))
    if baselines is not None:
        length, random = baselines["length"], baselines["random"]
        table.add_row(f"the {length['safer']} answer is safer (the better sign), %", percent(length), counted(n))
        table.add_row(
            "by the answers' token embeddings alone (layer 0), %", percent(baselines["token_embeddings"]), counted(n)
        )
        table.add_row(
            f"by {random['directions']} random directions in that layer, mean, %", percent(random), counted(n)
        )
        lowest, highest = (share(end) for end in random["range"])
        table.add_row("the worst and the best of them, %", f"{lowest} to {highest}", counted(n))
        for kind in KNOWN:
            if (explained := baselines["explained"][kind]) is not None:
                label = f"of the variance of the {kind} gap, more than a constant margin explains, %"
                table.add_row(label, percent(explained), counted(explained["pairs"]))
        margins = baselines["margins"]
        spread = f"{number(margins['mean'], 'z.2f')}, {number(margins['std'], 'z.2f')}"
        table.add_row("margins: mean, standard deviation", spread, counted(n))
    if (halves := annotation["halves"]) is not None:
        cosine = with_interval(halves["mean"], halves["range"], "z.2f")
        label = f"cosine of directions from halves of the questions (range of {halves['halvings']} halvings)"
        table.add_row(label, cosine, counted(halves["pairs"]))
    if (labels := annotation["labels"]) is not None and labels["gain"] is not None:
        without = labels["without"]
        label = f"without labels (layer {without['layer']}, {without['direction']}), ranked as labelled, %"
        table.add_row(label, percent(without["ranked_right"]), counted(n))
        gain = percent(labels["gain"], signed=True)
        table.add_row(f"what {labels['pairs']} labels bought, percentage points", gain, counted(n))
    return table
