"""The scorecard: every number with its interval, and the rows of a file that it is the mean of.

A number is the mean of a column over the rows that its filters leave (as pyarrow takes them: read_table(file,
filters=...)), null aside. A difference is the mean over answers of both models to the same prompt with the same seed.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from alignment.data.rewardbench import overall_score, section_scores
from alignment.evaluation.gates import checked
from alignment.evaluation.vocabulary import METRICS, Metric
from alignment.maths.paired import RESAMPLES, mcnemar, paired_difference, wilson_interval
from alignment.maths.statistics import rate_interval, t_interval

BOOTSTRAP_SEED = 0


def scorecard(folder: Path, record: dict, gates: Mapping[str, float | None]) -> dict:
    """folder: of evaluate's files; record: what was asked of whom (its record.json)."""
    systems = [one["name"] for one in record["systems"]]
    before, later = systems[0], systems[1:]
    numbers, differences = [], []
    for name, metric in METRICS.items():
        file = folder / f"{metric.file}.parquet"
        if not file.exists():
            continue
        table = pq.read_table(file)
        for which, filters in _parts(table, metric):
            mine = table.filter(pq.filters_to_expression(filters)) if filters else table
            for system in dict.fromkeys(mine["system"].to_pylist()):
                entry = {"metric": name, "system": system, **which, "decoding": metric.decoding}
                rows = {"file": f"{folder.name}/{file.name}", "column": metric.column}
                rows["filters"] = [["system", "==", system], *filters]
                number = _number(mine, metric, system)
                if number is not None:
                    gated = system != before or not later
                    numbers.append({**entry, **number, "gated": gated, "rows": rows})
                if system in later and (found := _difference(mine, metric, before, system)) is not None:
                    rows = {**rows, "filters": [["system", "in", [before, system]], *filters]}
                    rows["paired_by"] = ["id", "seed"]
                    differences.append({**entry, "before": before, **found, "gated": True, "rows": rows})
    return {
        **record,
        "bootstrap": {"resamples": RESAMPLES, "seed": BOOTSTRAP_SEED, "over": "prompts"},
        "numbers": numbers,
        "differences": differences,
        "sections": _sections(folder),
        "gates": checked(gates, numbers, differences),
    }


def _sections(folder: Path) -> list[dict]:
    """Of every set of pairs with RewardBench's subsets, the averages that its leaderboard shows: weighted, so no means
    of rows, but of those of its subsets, which are among the numbers."""
    file = folder / "rankings.parquet"
    by_set: dict[tuple[str, str], dict[str, list[bool]]] = {}
    for row in pq.read_table(file).to_pylist() if file.exists() else []:
        by_set.setdefault((row["set"], row["system"]), {}).setdefault(row["subset"], []).append(row["right"])
    found = []
    for (name, system), right in by_set.items():
        counts = {subset: len(many) for subset, many in right.items()}
        sections = section_scores({subset: sum(many) / len(many) for subset, many in right.items()}, counts)
        if sections:
            found.append({"set": name, "system": system, "sections": sections, "score": overall_score(sections)})
    return found


def _parts(table: pa.Table, metric: Metric) -> Iterator[tuple[dict, list[list]]]:
    """Every set and judge, whole and then by category; what it is, and the filters that leave its rows."""
    asks = [["asks", "in", list(metric.asks)]] if metric.asks else []
    table = table.filter(pq.filters_to_expression(asks)) if asks else table
    columns = ["set", "judge"] if "judge" in table.column_names else ["set"]
    for group in _distinct(table, columns):
        filters = [*([column, "==", value] for column, value in zip(columns, group, strict=True)), *asks]
        which = {"judge": None, **dict(zip(columns, group, strict=True)), "category": None}
        if not metric.alone:
            yield which, filters
        if metric.by is None:
            continue
        mine = table.filter(pq.filters_to_expression(filters))
        categories = [one for (one,) in _distinct(mine, [metric.by]) if one is not None]
        for category in sorted(categories) if len(categories) > 1 or metric.alone else []:
            yield {**which, "category": category}, [*filters, [metric.by, "==", category]]


def _distinct(table: pa.Table, columns: list[str]) -> list[tuple]:
    return list(dict.fromkeys(zip(*(table[column].to_pylist() for column in columns), strict=True)))


def _values(table: pa.Table, metric: Metric, system: str) -> dict[tuple[str, int], float | None]:
    """(prompt, seed) -> value."""
    mine = table.filter(pq.filters_to_expression([["system", "==", system]]))
    keys = zip(mine["id"].to_pylist(), mine["seed"].to_pylist(), strict=True)
    return dict(zip(keys, mine[metric.column].cast(pa.float64()).to_pylist(), strict=True))


def _number(table: pa.Table, metric: Metric, system: str) -> dict | None:
    """None where the judge can't say it of any answer."""
    values = _values(table, metric, system)
    known = {key: value for key, value in values.items() if value is not None}
    if not known:
        return None
    prompts: dict[str, list[float]] = {}
    for (prompt, _), value in known.items():
        prompts.setdefault(prompt, []).append(value)
    shares = np.array([np.mean(one) for one in prompts.values()])
    if metric.rate and len(known) == len(prompts):
        how, interval = "Wilson", wilson_interval(int(sum(known.values())), len(known))
    elif metric.rate:
        how, interval = "normal over prompts, two hits and two misses added", rate_interval(shares)
    else:
        how, interval = "Student's t over prompts", t_interval(list(shares))
    return {
        "value": float(np.mean(list(known.values()))),
        "interval": [interval.low, interval.high],
        "interval_is": how,
        "n": len(known),
        "prompts": len(prompts),
        "unknown": len(values) - len(known),
    }


def _difference(table: pa.Table, metric: Metric, before: str, after: str) -> dict | None:
    one, other = _values(table, metric, before), _values(table, metric, after)
    both = [key for key, value in one.items() if value is not None and other.get(key) is not None]
    if not both:
        return None
    old, new = (np.array([values[key] for key in both], dtype=float) for values in (one, other))
    number = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompt for prompt, _ in both))}
    places = np.array([number[prompt] for prompt, _ in both])
    interval = paired_difference(old, new, places, np.random.default_rng(BOOTSTRAP_SEED))
    found = {
        "value": interval.mean,
        "interval": [interval.low, interval.high],
        "interval_is": "bootstrap over prompts",
        "n": len(both),
        "prompts": len(number),
        "unpaired": len(one.keys() | other.keys()) - len(both),
    }
    if metric.rate:
        only = {"only_before": int(np.sum(old > new)), "only_after": int(np.sum(new > old))}
        alone = len(both) == len(number)  # several answers to a prompt are no independent ones
        found |= only | {"mcnemar_p": mcnemar(*only.values()) if alone else None}
    return found
