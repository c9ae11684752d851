"""The report of the best of n samples: how safe and useful they are, for every scorer that picks them."""

from rich.table import Table

from alignment.evaluation.vocabulary import WORLD_RATES
from alignment.reports.tables import counted, few, percent

SCORERS = {"hybrid": "hybrid reward", "reward_model": "reward model", "judge": "oracle (sees the truth)"}


def best_of_n_tables(report: dict[str, dict]) -> list[Table]:
    """A table for each rate, with a row for every n and a column for every scorer."""
    tables = []
    scorers = [scorer for scorer in SCORERS if scorer in report]
    for rate, metric in WORLD_RATES.items():
        n_prompts = report[scorers[0]][min(report[scorers[0]], key=int)]["prompts"][rate]
        title = f"{metric.title(metric.world.answer)} (n = {counted(n_prompts)} prompts)"
        table = Table(title, *(SCORERS[scorer] for scorer in scorers), caption=few(n_prompts))
        for n in sorted(report[scorers[0]], key=int):
            picked = [report[scorer][n] for scorer in scorers]
            cells = [percent({"mean": rates[rate], "ci95": rates["ci95"][rate]}) for rates in picked]
            table.add_row(f"best of {n}", *cells)
        tables.append(table)
    return tables
