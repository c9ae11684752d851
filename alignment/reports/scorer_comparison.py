"""The report of stage cross_validate: every scorer of answers on all pairs, fitted on other prompts' pairs."""

from rich.table import Table

from alignment.reports.tables import counted, few, percent

SCORERS = {
    "sigmoid_scores": "gate sigmoid_scores", "softmax_scores": "gate softmax_scores",
    "static_softmax": "gate static_softmax", "uniform": "mean of all probes", "best_layer": "best layer",
    "last_layer": "last layer", "joint_ridge": "one ridge, all layers", "layer_0": "token embeddings",
    "words": "words alone", "length": "length alone",
}  # fmt: skip
USED, SIMPLEST = "  <", "  ="  # mark the gate in use, and the best of the simple scorers
MEASURES = {"pair_accuracy": "pairs ranked right, %", "auroc": "AUROC, %", "tpr_at_1_percent_fpr": "TPR at 1% FPR, %"}
AGAINST = {"minus_gate": "the gate in use", "minus_baseline": "the best simple one"}


def comparison_tables(report: dict) -> list[Table]:
    """The scorers, and how far each is from the gate in use and from the best of the simple ones."""
    scorers = [name for name in SCORERS if name in report["scorers"]]
    answers = report["answers"]
    counts = {
        "pair_accuracy": report["pairs"],
        **dict.fromkeys(list(MEASURES)[1:], answers["chosen"] + answers["rejected"]),
    }
    quality = Table(
        f"{report['folds']} folds by prompt",
        *(f"{title}, n = {counted(counts[name])}" for name, title in MEASURES.items()),
    )
    for name in scorers:
        quality.add_row(
            SCORERS[name] + _mark(name, report), *(percent(report["scorers"][name][one]) for one in MEASURES)
        )
    quality.caption = (
        f"{report['pairs']:,} pairs of {report['prompts']:,} prompts, each scored by a fit to other prompts; AUROC and "
        f"TPR are of single answers, {answers['chosen']:,} chosen and {answers['rejected']:,} rejected, each once; "
        f"{answers['on_both_sides']:,} that are both are left out. Intervals: over prompts{_few(counts)}"
    )  # fmt: skip
    differences = Table(
        "minus", *(f"{AGAINST[against]}: {what}" for against in AGAINST for what in ("pairs, %", "AUROC, %"))
    )
    for name in scorers:
        cells = [
            percent(report["scorers"][name][against][measure], signed=True)
            if against in report["scorers"][name]
            else ""
            for against in AGAINST
            for measure in ("pair_accuracy", "auroc")
        ]
        differences.add_row(SCORERS[name] + _mark(name, report), *cells)
    differences.caption = (
        f"over the same drawn prompts.{USED}: the gate in use;{SIMPLEST}: of the simple scorers the one that ranks "
        "most of these pairs right, picked in hindsight"
    )
    return [quality, differences]


def _mark(name: str, report: dict) -> str:
    return USED * (name == report["gate"]) + SIMPLEST * (name == report["best_baseline"])


def _few(counts: dict[str, int]) -> str:
    mark = few(*counts.values())
    return "" if mark is None else f". {mark}"
