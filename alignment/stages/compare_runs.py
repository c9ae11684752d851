"""Stage compare_runs: several finished runs beside each other, what they answered paired by prompt and seed.

Of each run it takes the system that was evaluated last. Their answers and verdicts go into files as stage evaluate has
them, in which a system is a run: the scorecard of these is the comparison.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from alignment.inputs.compared import compared_runs
from alignment.inputs.job import Job
from alignment.maths.paired import paired_difference
from alignment.reports.compare import headlines
from alignment.runs import artifacts
from alignment.runs.manifest import Rows
from alignment.runs.run_files import RunDir

MERGED = ("answers", "verdicts", "usefulness")  # files of evaluate that are put together


def run(job: Job) -> Rows:
    if not job.ranks.main:
        return Rows(0, 0, 0)
    runs = compared_runs(job.cfg)
    evaluated = {name: run for name, run in runs.items() if run.answers.exists()}
    records = {name: artifacts.read_json(run.evaluation_record) for name, run in evaluated.items()}
    found: dict[str, Any] = {
        "runs": [_told(name, run) for name, run in runs.items()],
        "reward_models": _reward_models({name: run for name, run in runs.items() if run.reward_scores.exists()}),
        "record": None,
        "notes": [f"{name} evaluated no policy" for name in runs if name not in evaluated],
    }
    if len(evaluated) > 1:
        last = {name: record["systems"][-1] for name, record in records.items()}
        for file in MERGED:
            if (merged := _merged(evaluated, last, file)) is not None:
                pq.write_table(merged, job.out / f"{file}.parquet")
        first = next(iter(records.values()))
        judges = {judge: told for record in reversed(records.values()) for judge, told in record["judges"].items()}
        systems = [{**last[name], "name": name} for name in evaluated]
        found["record"] = {**first, "systems": systems, "judges": judges}
        found["notes"] += _sampled_otherwise(records)
        found["notes"] += _unpaired(pq.read_table(job.out / "answers.parquet"))
    artifacts.write_json(job.out / job.run.comparison.name, found)
    return Rows(len(runs), len(runs), 0)


def _told(name: str, run: RunDir) -> dict:
    """What a run is, and its headline figures: name, figure as it is written, n."""
    figures = [[figure, text, n] for figure, (text, n) in headlines(run).items()]
    return {"name": name, "recipe": artifacts.read_json(run.report)["recipe"], "figures": figures}


def _merged(runs: Mapping[str, RunDir], last: Mapping[str, dict], file: str) -> pa.Table | None:
    """The rows of each run's last system under the run's name; None where no run has such a file."""
    tables = []
    for name, run in runs.items():
        path = run.stage("evaluate") / f"{file}.parquet"
        if not path.exists():
            continue
        table = pq.read_table(path)
        rows = table.filter(pc.field("system") == last[name]["name"])
        place = rows.column_names.index("system")
        tables.append(rows.set_column(place, "system", pa.array([name] * len(rows), pa.string())))
    return pa.concat_tables(tables, promote_options="default") if tables else None


def _sampled_otherwise(records: Mapping[str, dict]) -> list[str]:
    """A line for each run that sampled with other settings than the first: their noise isn't the same."""
    (first, told), *others = records.items()
    wanted, lines = told["decoding"]["sampled"], []
    for name, record in others:
        own = record["decoding"]["sampled"]
        differ = [
            key for key in sorted(wanted.keys() | own.keys()) if key != "seeds" and wanted.get(key) != own.get(key)
        ]
        if differ:
            pairs = ", ".join(f"{key} {own.get(key)} for {wanted.get(key)}" for key in differ)
            lines.append(f"{name} was sampled otherwise than {first}: {pairs}")
    return lines


def _unpaired(answers: pa.Table) -> list[str]:
    """A line for each set of which a run shares no prompt and seed with the first: nothing of it is paired."""
    keys: dict[tuple[str, str], set] = {}
    for row in answers.select(["system", "set", "id", "seed"]).to_pylist():
        keys.setdefault((row["system"], row["set"]), set()).add((row["id"], row["seed"]))
    first = answers["system"][0].as_py()
    return [
        f"{name} and {first} share no prompt and seed of {of_set}: their figures there are unpaired"
        for (name, of_set), own in keys.items()
        if name != first and not own & keys.get((first, of_set), set())
    ]


def _reward_models(runs: Mapping[str, RunDir]) -> list[dict]:
    """How many more pairs each later run's reward models rank right than the first run's, on pairs that both scored."""
    by_run = {name: _rights(run) for name, run in runs.items()}
    if len(by_run) < 2:
        return []
    (first, before), *others = by_run.items()
    found = []
    for name, after in others:
        for margins in dict.fromkeys(key[0] for key in before):
            shared = [key for key in before if key[0] == margins and key in after]
            if not shared:
                continue
            old, new = (np.array([of_run[key] for key in shared], dtype=float) for of_run in (before, after))
            prompts = np.unique([key[-1] for key in shared], return_inverse=True)[1]
            difference = paired_difference(old, new, prompts, np.random.default_rng(0))
            found.append({"before": first, "after": name, "margins": margins, "n": len(shared), **difference.summary})
    return found


def _rights(run: RunDir) -> dict[tuple, bool]:
    """Of each pair that a reward model scored, by margins, seed, set, id and prompt, whether it ranked it right."""
    rows = artifacts.read_rows(run.reward_scores)
    names = ("margins", "seed", "set", "id", "prompt_hash")
    return {tuple(row[name] for name in names): row["chosen_score"] > row["rejected_score"] for row in rows}
