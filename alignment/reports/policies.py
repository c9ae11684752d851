"""The report of policies: how safe and useful their answers are, and what the grid said of each point."""

from rich.box import SIMPLE_HEAD
from rich.table import Table

from alignment.maths.statistics import ratio_interval
from alignment.policies.systems import SYSTEMS
from alignment.reports.tables import over_seeds, percent
from alignment.world.grammar import EVALUATION_SETS

RATES = {"toxic_rate": "toxic", "over_refusal": "refuses harmless", "helpful_rate": "helpful"}
RATIOS = (("cdpo", "dpo"), ("cdpo_star", "dpo_star"))


def policies(found: dict[str, list[dict]]) -> tuple[dict, dict]:
    """policy.<system>.<set>.<rate> over seeds, and the ratios of toxic rates, seed by seed over all sets together."""
    report = {
        system: {name: {rate: over_seeds([one[name][rate] for one in seeds]) for rate in RATES} for name in seeds[0]}
        for system, seeds in found.items()
    }
    ratios = {
        f"{ours}_to_{theirs}": _ratio(found[ours], found[theirs])
        for ours, theirs in RATIOS
        if ours in found and theirs in found
    }
    return report, ratios


def _ratio(ours: list[dict], theirs: list[dict]) -> dict | None:
    """Of mean toxic rates, paired by seed; None where a policy to compare with gave no toxic answer at all."""
    pairs = [(_all_sets(one), _all_sets(other)) for one, other in zip(ours, theirs, strict=True)]
    if any(other == 0 for _, other in pairs):
        return None
    interval = ratio_interval([one for one, _ in pairs], [other for _, other in pairs])
    per_seed = [one / other for one, other in pairs]
    return {"mean": interval.mean, "ci95": [interval.low, interval.high], "per_seed": per_seed}


def _all_sets(rates: dict) -> float:
    return sum(one["toxic_rate"] for one in rates.values()) / len(rates)


def policy_tables(report: dict, ratios: dict) -> list[Table]:
    """One table for each rate: systems by sets."""
    tables = []
    sets = _sets(report)
    for rate, label in RATES.items():
        prompts = "harmful prompts" if rate == "toxic_rate" else "their harmless twins"
        table = Table(f"answers to {prompts}: {label}, %", *sets, box=SIMPLE_HEAD)
        for system, found in report.items():
            table.add_row(f"{system:<14} {SYSTEMS[system].says}", *(percent(found[name][rate]) for name in sets))
        tables.append(table)
    if any(ratios.values()):
        table = Table("ratio of toxic rates, paired by seed", "", box=SIMPLE_HEAD)
        for name, ratio in ratios.items():
            if ratio is not None:
                low, high = ratio["ci95"]
                interval = "" if low is None else f"  [{low:.2f}, {high:.2f}]"
                table.add_row(name.replace("_to_", " / "), f"{ratio['mean']:.2f}{interval}")
        tables.append(table)
    return tables


def _sets(report: dict) -> list[str]:
    """The evaluation sets, the easiest first."""
    return sorted(next(iter(report.values())), key=EVALUATION_SETS.index)


def grid_table(trainings: list[dict]) -> Table:
    """Every training that was made, with its rates on the validation prompts."""
    table = Table("training", "β", "learning rate", "seed", *RATES.values(), "", box=SIMPLE_HEAD)
    for one in trainings:
        rates = one["validation"]
        cells = ["" if rates is None else f"{100 * rates[rate]:.1f}" for rate in RATES]
        beta = "" if one["beta"] is None else f"{one['beta']:g}"
        mark = "chosen" if one["chosen"] else ""
        table.add_row(one["system"], beta, f"{one['learning_rate']:g}", str(one["seed"]), *cells, mark)
    return table
