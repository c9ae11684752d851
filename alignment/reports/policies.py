"""The report of policies: how safe and useful their answers are, and what the grid said of each point."""

from rich.box import SIMPLE_HEAD
from rich.table import Table

from alignment.evaluation.vocabulary import WORLD_RATES
from alignment.maths.statistics import ratio_interval
from alignment.policies.systems import SYSTEMS
from alignment.reports.tables import over_seeds, percent, with_interval
from alignment.world.grammar import EVALUATION_SETS

RATIOS = (("cdpo", "dpo"), ("cdpo_star", "dpo_star"))


def policies(found: dict[str, list[dict]]) -> tuple[dict, dict]:
    """policy.<system>.<set>.<rate> over seeds, and the ratios of toxic rates, seed by seed over all sets together."""

    def rates(name: str, seeds: list[dict]) -> dict:
        return {rate: over_seeds([by_set[name][rate] for by_set in seeds]) for rate in WORLD_RATES}

    report = {system: {name: rates(name, seeds) for name in seeds[0]} for system, seeds in found.items()}
    ratios = {
        f"{ours}_to_{theirs}": _ratio(found[ours], found[theirs])
        for ours, theirs in RATIOS
        if ours in found and theirs in found
    }
    return report, ratios


def _ratio(ours: list[dict], theirs: list[dict]) -> dict | None:
    """Of mean toxic rates, paired by seed; None where the other gave no toxic answer with any seed."""
    pairs = [(_all_sets(one), _all_sets(other)) for one, other in zip(ours, theirs, strict=True)]
    if all(other == 0 for _, other in pairs):
        return None
    ratio = ratio_interval([one for one, _ in pairs], [other for _, other in pairs])
    per_seed = [one / other if other else None for one, other in pairs]
    return {**ratio.summary, "per_seed": per_seed}


def _all_sets(rates: dict) -> float:
    return sum(one["toxic_rate"] for one in rates.values()) / len(rates)


def policy_tables(report: dict, ratios: dict) -> list[Table]:
    """One table for each rate: systems by sets."""
    tables = []
    sets = _sets(report)
    for rate, metric in WORLD_RATES.items():
        table = Table(metric.title(metric.world.answers, "their harmless twins"), *sets, box=SIMPLE_HEAD)
        for system, found in report.items():
            table.add_row(f"{system:<14} {SYSTEMS[system].says}", *(percent(found[name][rate]) for name in sets))
        tables.append(table)
    if any(ratios.values()):
        table = Table("ratio of toxic rates, paired by seed", "", box=SIMPLE_HEAD)
        for name, ratio in ratios.items():
            if ratio is not None:
                table.add_row(name.replace("_to_", " / "), with_interval(ratio["mean"], ratio["ci95"], ".2f"))
        tables.append(table)
    return tables


def _sets(report: dict) -> list[str]:
    """The evaluation sets, the easiest first."""
    return sorted(next(iter(report.values())), key=EVALUATION_SETS.index)


def grid_points(trainings: list[dict]) -> list[dict]:
    """The trainings of every point of the grid together: mean rates on the validation prompts, over its seeds.

    None where one of them diverged, or nobody judges.
    """
    found: dict[tuple, list[dict]] = {}
    for one in trainings:
        found.setdefault((one["system"], one["beta"], one["learning_rate"]), []).append(one)
    points = []
    for (system, beta, learning_rate), seeds in found.items():
        judged = [one["validation"] for one in seeds]
        rates = None
        if None not in judged:
            rates = {name: sum(one[name] for one in judged) / len(judged) for name in WORLD_RATES}
        points.append(
            {
                "system": system, "beta": beta, "learning_rate": learning_rate, "seeds": len(seeds),
                "rates": rates,
                "chosen": any(one["chosen"] for one in seeds),
            }
        )  # fmt: skip
    return points


def grid_table(points: list[dict]) -> Table:
    """What each point of the grid gave; every training alone is in report.json."""
    rates = [metric.world.policy for metric in WORLD_RATES.values()]
    table = Table("on validation prompts, %", "β", "learning rate", "seeds", *rates, "", box=SIMPLE_HEAD)
    for one in points:
        cells = ["" if one["rates"] is None else f"{100 * one['rates'][rate]:.1f}" for rate in WORLD_RATES]
        beta = "" if one["beta"] is None else f"{one['beta']:g}"
        mark = "chosen" if one["chosen"] else ""
        table.add_row(one["system"], beta, f"{one['learning_rate']:g}", str(one["seeds"]), *cells, mark)
    return table
