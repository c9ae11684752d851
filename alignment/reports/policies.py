"""The report of policies: how safe and useful their answers are, and how each point of the grid did."""

from collections.abc import Iterable, Mapping

from rich.table import Table

from alignment.evaluation.vocabulary import METRICS, WORLD_RATES, mean_rates
from alignment.maths.statistics import ratio_interval, wilson_interval
from alignment.policies.systems import SYSTEMS
from alignment.reports.tables import counted, few, over_seeds, percent, share, with_interval
from alignment.world.grammar import EVALUATION_SETS

RATIOS = (("cdpo", "dpo"), ("cdpo_star", "dpo_star"))


def prompts_by_rate(answers: Iterable[Mapping]) -> dict[tuple[str, str], int]:
    """How many prompts of a set each of the world's rates is of, whoever judges its answers beside the oracle.

    answers: rows of evaluate's answers.
    """
    prompts = {(row["set"], row["id"], row["asks"]) for row in answers}
    return {
        (name, rate): sum(of == name and asks in metric.asks for of, _, asks in prompts)
        for name in {name for name, _, _ in prompts}
        for rate, metric in WORLD_RATES.items()
    }


def policies(evaluation: dict[str, list[dict]], prompts: Mapping[tuple[str, str], int]) -> tuple[dict, dict]:
    """The rates of every system and set over seeds, and the ratios of toxic rates, each paired by seed.

    evaluation: of every system, for each seed, the rates by set. prompts: how many each set has that a rate is of, by
    set and rate; each has one answer with each seed.
    """

    def summary(seeds: list[dict], name: str, rate: str) -> dict:
        rates, n = [by_set[name][rate] for by_set in seeds], prompts[name, rate]
        return over_seeds(rates, n, wilson_interval(rates[0] * n, n))

    report = {
        system: {name: {rate: summary(seeds, name, rate) for rate in WORLD_RATES} for name in seeds[0]}
        for system, seeds in evaluation.items()
    }
    ratios = {
        f"{ours}_to_{theirs}": _toxic_ratio(evaluation[ours], evaluation[theirs])
        for ours, theirs in RATIOS
        if ours in evaluation and theirs in evaluation
    }
    return report, ratios


def _toxic_ratio(ours: list[dict], theirs: list[dict]) -> dict | None:
    """The ratio of toxic rates, paired by seed; None if the second system gave no toxic answer with any seed."""
    own, other = ([_toxic_rate(by_set) for by_set in seeds] for seeds in (ours, theirs))
    if not any(other):
        return None
    per_seed = [rate / base if base else None for rate, base in zip(own, other, strict=True)]
    return {**ratio_interval(own, other).summary, "per_seed": per_seed}


def _toxic_rate(by_set: dict) -> float:
    """The mean over all sets."""
    return sum(rates["toxic_rate"] for rates in by_set.values()) / len(by_set)


def policy_tables(report: dict, ratios: dict) -> list[Table]:
    """A table for each rate, with a row for every system and a column for every evaluation set, the easiest first."""
    tables = []
    sets = sorted(next(iter(report.values())), key=EVALUATION_SETS.index)
    for rate, metric in WORLD_RATES.items():
        first = next(iter(report.values()))
        counts = {name: first[name][rate]["n"] for name in sets}
        heads = [f"{name}, n = {counted(count)}" for name, count in counts.items()]
        table = Table(metric.title(metric.world.answers, "their harmless twins"), *heads, caption=few(*counts.values()))
        for system, by_set in report.items():
            table.add_row(f"{system:<14} {SYSTEMS[system].says}", *(percent(by_set[name][rate]) for name in sets))
        tables.append(table)
    if any(ratios.values()):
        table = Table("ratio of toxic rates, paired by seed", "")
        for name, ratio in ratios.items():
            if ratio is not None:
                table.add_row(name.replace("_to_", " / "), with_interval(ratio["mean"], ratio["ci95"], ".2f"))
        tables.append(table)
    return tables


def grid_points(trainings: list[dict]) -> list[dict]:
    """Every point of the grid, with the mean rates of its trainings on the validation prompts.

    They are None where one of the trainings diverged, or there is no judge.
    """
    trained: dict[tuple, list[dict]] = {}
    for training in trainings:
        point = training["system"], training["beta"], training["learning_rate"]
        trained.setdefault(point, []).append(training)
    return [
        {
            "system": system, "beta": beta, "learning_rate": learning_rate, "seeds": len(seeds),
            "rates": mean_rates([training["validation"] for training in seeds]),
            "chosen": any(training["chosen"] for training in seeds),
        }
        for (system, beta, learning_rate), seeds in trained.items()
    ]  # fmt: skip


def grid_table(points: list[dict], prompts: str) -> Table:
    """The mean rates of every point of the grid. prompts: what was asked, in words. report.json has every training."""
    rates = next((list(point["rates"]) for point in points if point["rates"]), [])
    worlds = all(rate in WORLD_RATES for rate in rates)
    heads = [WORLD_RATES[rate].world.policy if worlds else METRICS[rate].says for rate in rates]
    table = Table(f"on {prompts}, %", "β", "learning rate", "seeds", *heads, "")
    for point in points:
        cells = [share(point["rates"][rate]) if point["rates"] else "" for rate in rates]
        beta = "" if point["beta"] is None else f"{point['beta']:g}"
        mark = "chosen" if point["chosen"] else ""
        table.add_row(point["system"], beta, f"{point['learning_rate']:g}", str(point["seeds"]), *cells, mark)
    return table
