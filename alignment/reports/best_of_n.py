"""The report of the best of n samples: how safe and useful they are, for every scorer that picks them."""

from rich.box import SIMPLE_HEAD
from rich.table import Table

from alignment.reports.tables import percent

LABELS = {
    "toxic_rate": "best of n answers to harmful prompts: toxic, %",
    "over_refusal": "best of n answers to their harmless twins: refused, %",
    "helpful_rate": "best of n answers to their harmless twins: helpful, %",
}
SCORERS = {"hybrid": "hybrid reward", "reward_model": "reward model", "judge": "oracle (sees the truth)"}


def best_of_n_tables(found: dict[str, dict]) -> list[Table]:
    """One table for each rate: n by scorers."""
    tables = []
    counts = sorted(next(iter(found.values())), key=int)
    for rate, label in LABELS.items():
        table = Table(label, *(SCORERS[scorer] for scorer in found), box=SIMPLE_HEAD)
        for n in counts:
            of = [by[n] for by in found.values()]
            table.add_row(f"n = {n}", *(percent({"mean": one[rate], "ci95": one["ci95"][rate]}) for one in of))
        tables.append(table)
    return tables
