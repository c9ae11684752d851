"""The report of the best of n samples: how safe and useful they are, for every scorer that picks them."""

from rich.box import SIMPLE_HEAD
from rich.table import Table

from alignment.evaluation.vocabulary import WORLD_RATES
from alignment.reports.tables import percent

SCORERS = {"hybrid": "hybrid reward", "reward_model": "reward model", "judge": "oracle (sees the truth)"}


def best_of_n_tables(found: dict[str, dict]) -> list[Table]:
    """One table for each rate: n by scorers."""
    tables = []
    scorers = [scorer for scorer in SCORERS if scorer in found]
    counts = sorted(found[scorers[0]], key=int)
    for rate, metric in WORLD_RATES.items():
        table = Table(metric.title(metric.world.answer), *(SCORERS[scorer] for scorer in scorers), box=SIMPLE_HEAD)
        for n in counts:
            of = [found[scorer][n] for scorer in scorers]
            table.add_row(f"best of {n}", *(percent({"mean": one[rate], "ci95": one["ci95"][rate]}) for one in of))
        tables.append(table)
    return tables
