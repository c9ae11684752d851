"""The scorecard: every number with its interval, and the rows of a file that it is the mean of.

A number is the mean of a column over the rows that its filters leave (in the form of pyarrow's read_table(file,
filters=...)), without nulls. A difference is the mean of differences between the answers of two models to the same
prompt with the same seed. Beside both stand those corrected for the errors of a judge that was held against labels,
for whole sets: how a judge errs in a single category is not known.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from alignment.data.rewardbench import overall_score, section_scores
from alignment.evaluation.gates import checked
from alignment.evaluation.vocabulary import METRICS, Metric
from alignment.judges.corrections import Correction, corrections
from alignment.maths.paired import mcnemar, paired_difference
from alignment.maths.statistics import RESAMPLES, Interval, rate_interval, t_interval

BOOTSTRAP_SEED = 0


def scorecard(folder: Path, record: dict, gates: Mapping[str, float | None]) -> dict:
    """folder: the files of stage evaluate; record: its record.json, which says what was asked of whom."""
    systems = [system["name"] for system in record["systems"]]
    before, later = systems[0], systems[1:]
    by_kind = corrections(record["judges"])
    numbers, differences = [], []
    for name, metric in METRICS.items():
        file = folder / f"{metric.file}.parquet"
        if not file.exists():
            continue
        table = pq.read_table(file)
        for part, filters in _parts(table, metric):
            rows_of_part = table.filter(pq.filters_to_expression(filters)) if filters else table
            correction = by_kind.get((part["judge"], metric.errors_of)) if part["category"] is None else None
            for system in dict.fromkeys(rows_of_part["system"].to_pylist()):
                entry = {"metric": name, "system": system, **part, "decoding": metric.decoding}
                rows = {"file": f"{folder.name}/{file.name}", "column": metric.column}
                rows["filters"] = [["system", "==", system], *filters]
                number = _number(rows_of_part, metric, system, correction)
                if number is not None:
                    gated = system != before or not later
                    numbers.append({**entry, **number, "gated": gated, "rows": rows})
                change = _difference(rows_of_part, metric, before, system, correction) if system in later else None
                if change is not None:
                    rows = {**rows, "filters": [["system", "in", [before, system]], *filters]}
                    rows["paired_by"] = ["id", "seed"]
                    differences.append({**entry, "before": before, **change, "gated": True, "rows": rows})
    return {
        **record,
        "bootstrap": {"resamples": RESAMPLES, "seed": BOOTSTRAP_SEED, "over": "prompts"},
        "numbers": numbers,
        "differences": differences,
        "sections": _sections(folder),
        "gates": checked(gates, numbers, differences),
    }


def _sections(folder: Path) -> list[dict]:
    """RewardBench's averages, as its leaderboard shows them, for every set of pairs with its subsets.

    They are weighted, so they are means not of rows, but of the accuracies by subset, which are among the numbers.
    """
    file = folder / "rankings.parquet"
    by_set: dict[tuple[str, str], dict[str, list[bool]]] = {}
    for row in pq.read_table(file).to_pylist() if file.exists() else []:
        by_set.setdefault((row["set"], row["system"]), {}).setdefault(row["subset"], []).append(row["right"])
    averages = []
    for (name, system), by_subset in by_set.items():
        counts = {subset: len(right) for subset, right in by_subset.items()}
        sections = section_scores({subset: sum(right) / len(right) for subset, right in by_subset.items()}, counts)
        if sections:
            averages.append({"set": name, "system": system, "sections": sections, "score": overall_score(sections)})
    return averages


def _parts(table: pa.Table, metric: Metric) -> Iterator[tuple[dict, list[list]]]:
    """The parts that a metric has a number of: every set and judge, whole and by category; and the filters of each."""
    asks = [["asks", "in", list(metric.asks)]] if metric.asks else []
    table = table.filter(pq.filters_to_expression(asks)) if asks else table
    columns = ["set", "judge"] if "judge" in table.column_names else ["set"]
    for group in _distinct(table, columns):
        filters = [*([column, "==", value] for column, value in zip(columns, group, strict=True)), *asks]
        part = {"judge": None, **dict(zip(columns, group, strict=True)), "category": None}
        if not metric.alone:
            yield part, filters
        if metric.by is None:
            continue
        rows_of_group = table.filter(pq.filters_to_expression(filters))
        categories = [category for (category,) in _distinct(rows_of_group, [metric.by]) if category is not None]
        for category in sorted(categories) if len(categories) > 1 or metric.alone else []:
            yield {**part, "category": category}, [*filters, [metric.by, "==", category]]


def _distinct(table: pa.Table, columns: list[str]) -> list[tuple]:
    return list(dict.fromkeys(zip(*(table[column].to_pylist() for column in columns), strict=True)))


def _values(table: pa.Table, metric: Metric, system: str) -> dict[tuple[str, int], float | None]:
    """The system's values by prompt and seed."""
    rows = table.filter(pq.filters_to_expression([["system", "==", system]]))
    keys = zip(rows["id"].to_pylist(), rows["seed"].to_pylist(), strict=True)
    return dict(zip(keys, rows[metric.column].cast(pa.float64()).to_pylist(), strict=True))


def _number(table: pa.Table, metric: Metric, system: str, correction: Correction | None) -> dict | None:
    """The mean of a system's values with its interval; None if the judge can't say it of any answer.

    correction: for the errors of its judge, if they are known.
    """
    values = _values(table, metric, system)
    known = {key: value for key, value in values.items() if value is not None}
    if not known:
        return None
    numbers = _numbers_of(prompt for prompt, _ in known)
    answers, count = np.array(list(known.values())), len(set(numbers))
    if metric.rate:
        how = "Wilson" if len(answers) == count else "bootstrap over prompts"
        interval = rate_interval(answers, numbers, np.random.default_rng(BOOTSTRAP_SEED))
    else:
        means = np.bincount(numbers, weights=answers) / np.bincount(numbers)
        how, interval = "Student's t over prompts", t_interval(list(means))
    figure = _figure(float(answers.mean()), interval, how, len(known), count)
    corrected = {"corrected": correction.rate(answers, numbers)} if correction else {}
    return {**figure, **corrected, "unknown": len(values) - len(known)}


def _numbers_of(prompts: Iterable[str]) -> np.ndarray:
    """A number for each prompt, the same for the same one."""
    return np.unique(list(prompts), return_inverse=True)[1]


def _difference(table: pa.Table, metric: Metric, before: str, after: str, correction: Correction | None) -> dict | None:
    """The mean difference between two systems with its interval; None if they have no prompt and seed in common."""
    first, second = _values(table, metric, before), _values(table, metric, after)
    pairs = [key for key, value in first.items() if value is not None and second.get(key) is not None]
    if not pairs:
        return None
    old, new = (np.array([values[key] for key in pairs], dtype=float) for values in (first, second))
    prompts = _numbers_of(prompt for prompt, _ in pairs)
    count = len(set(prompts))
    interval = paired_difference(old, new, prompts, np.random.default_rng(BOOTSTRAP_SEED), metric.rate)
    change = _figure(interval.mean, interval, "bootstrap over prompts", len(pairs), count)
    change["unpaired"] = len(first.keys() | second.keys()) - len(pairs)
    if metric.rate:
        only = {"only_before": int(np.sum(old > new)), "only_after": int(np.sum(new > old))}
        independent = len(pairs) == count  # several answers to one prompt aren't independent
        change |= only | {"mcnemar_p": mcnemar(*only.values()) if independent else None}
    return {**change, **({"corrected": correction.difference(old, new, prompts)} if correction else {})}


def _figure(value: float, interval: Interval, interval_is: str, n: int, prompts: int) -> dict:
    ends = [interval.low, interval.high]
    return {"value": value, "interval": ends, "interval_is": interval_is, "n": n, "prompts": prompts}
