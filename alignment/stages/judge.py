"""Stage judge: every answer of a file with the verdict of one judge, or of several, and how far they can be believed.

The output has the rows of the input, in their order, with columns for the verdicts. A row with an empty response stays
in it, and no judge is asked about it. Judges are first held against people's labels, if there is a set of them
(judge.calibration): one that agrees too little ends the run before it has cost anything.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa

from alignment.data.answer_files import Answer, present, read_answers, refuse_kind, write_answers
from alignment.data.same_prompts import prompt_text
from alignment.evaluation.judging import calibrated
from alignment.inputs.job import Job
from alignment.judges.batched import judge_all
from alignment.judges.choice import chosen, load_judge, require_ready
from alignment.judges.corrections import corrections, is_of
from alignment.judges.health import kappa
from alignment.judges.verdicts import WORDS, Verdict
from alignment.maths.statistics import rate_interval
from alignment.runs import artifacts
from alignment.runs.manifest import Rows, hash_file
from alignment.runs.run_files import QUARANTINE
from alignment.types import UserError

INPUT, OUTPUT = "judge.input", "judge.output"
COLUMNS = {"verdict": pa.string(), "category": pa.string(), "score": pa.float64(), "reason": pa.string()}
EMPTY = Verdict(None, None, reason="the response is empty", unparsed=True)


def run(job: Job) -> Rows:
    settings, ranks = job.cfg.judge, job.ranks
    names, output = chosen(settings), Path(settings.output)
    answers, rows = read_answers(INPUT, settings.input, settings.columns)
    columns = _added_columns(names, answers, settings.input)
    schema = pa.schema([field for added in columns.values() for field in zip(added, COLUMNS.values(), strict=True)])
    ranks.from_main(lambda: _require_free(job.run.judged, output))
    if not answers:
        reason = "".join(f": {row['reason']}" for row in rows.quarantined[:1])
        remedy = "give prompt and response, or say what yours are called: judge.columns={prompt:...,response:...}"
        raise UserError(INPUT, f"{settings.input} has no row that can be judged{reason}", remedy)
    refuse_kind(output.suffix, Path(settings.input), [answer.row for answer in answers], schema)
    ranks.from_main(lambda: require_ready(settings, names))
    labelled, health = calibrated(settings, names, job.cfg.seed, job.run, ranks, _is_judged(answers))
    verdicts: dict[str, list[Verdict]] = {}
    judges: dict[str, dict] = {}
    for name in names:
        verdicts[name], judges[name] = _judged(job, name, answers)
        judges[name]["health"] = health.get(name)
        judges[name]["rates"] = _rates(name, verdicts[name], answers, health)
    if ranks.main:
        judged_rows = [dict(answer.row) for answer in answers]
        for name in names:
            for row, verdict in zip(judged_rows, verdicts[name], strict=True):
                values = (verdict.word, verdict.category, verdict.score, verdict.reason)
                row.update(zip(columns[name], values, strict=True))
        prompts = [answer.prompt for answer in answers]
        summary = {
            "rows": len(answers), "quarantined": len(rows.quarantined), "judges": judges,
            "calibration": None if labelled is None else {
                "set": settings.calibration, "rows": len(labelled.rows), "quarantined": len(labelled.quarantined),
            },
            "kappa": {
                f"{first} and {second}": kappa(verdicts[first], verdicts[second], prompts, job.cfg.seed)
                for first, second in combinations(names, 2)
            },
        }  # fmt: skip
        unlabelled = [] if labelled is None else labelled.quarantined
        artifacts.write_lines(job.out / QUARANTINE, rows.quarantined + unlabelled)
        copy = job.out / f"{job.run.judged_answers.name}{output.suffix}"
        write_answers(copy, output.suffix, Path(settings.input), judged_rows, schema)
        with artifacts.atomic_file(output) as file:
            shutil.copyfile(copy, file)
        artifacts.write_json(job.out / job.run.judged.name, {**summary, "sha256": hash_file(copy)})
        thoughts = sum(answer.has_thoughts for answer in answers)
        without = f" ({thoughts} of them without the thoughts before them)" if thoughts else ""
        ranks.say(f"  {len(answers)} answers judged{without}: {settings.output}")
        if kept := present(answers, list(COLUMNS)):
            ranks.say(f"  the file's own {', '.join(kept)} stayed; verdicts are in {', '.join(schema.names)}")
    return Rows(rows.read, len(answers), len(rows.quarantined))


def _added_columns(names: list[str], answers: Sequence[Answer], path: str) -> dict[str, list[str]]:
    """The columns of each judge. Several judges have names of their own (refusal_verdict, ...), and so has a single
    one where the file has a column of that name already, which stays as it is."""
    bare = len(names) == 1 and not present(answers, list(COLUMNS))
    columns = {name: [column if bare else f"{name}_{column}" for column in COLUMNS] for name in names}
    if taken := present(answers, [column for added in columns.values() for column in added]):
        raise UserError(INPUT, f"{path} has a column {taken[0]} already", f"rename it: {taken[0]} is what is added")
    return columns


def _is_judged(answers: Sequence[Answer]) -> Callable[[dict], bool]:
    """Whether a labelled row is one of these answers, or of a model that the file's column `model` names."""
    texts = {(prompt_text(answer.prompt), answer.response) for answer in answers}
    models = {answer.row["model"] for answer in answers if isinstance(answer.row.get("model"), str)}
    return lambda row: is_of(row["source"], models) or (prompt_text(row["prompt"]), row["response"]) in texts


def _judged(job: Job, name: str, answers: Sequence[Answer]) -> tuple[list[Verdict], dict]:
    """The verdicts of one judge, what it is, and what it counted. It is in memory here alone: guards are large."""
    judge = load_judge(name, job.cfg.judge[name])
    asked = [answer for answer in answers if answer.response]
    prompts, responses = [answer.prompt for answer in asked], [answer.response for answer in asked]
    given, counts = judge_all(judge, prompts, responses, job.work / name, job.ranks)
    following = iter(given)
    verdicts = [next(following) if answer.response else EMPTY for answer in answers]
    counts["empty"] = len(answers) - len(asked)
    words = Counter(verdict.word for verdict in verdicts)
    return verdicts, {
        "record": judge.record, "verdicts": {word: words[word] for word in WORDS if words[word]},
        "counts": dict(sorted(counts.items())), "spent": getattr(judge, "spent", None),
    }  # fmt: skip


def _rates(name: str, verdicts: Sequence[Verdict], answers: Sequence[Answer], health: dict) -> dict[str, dict]:
    """How often the judge found harm and refusals, of its verdicts that could be read; and corrected for its errors."""
    by_kind = corrections({name: {"health": health.get(name)}})
    prompts = np.unique([prompt_text(answer.prompt) for answer in answers], return_inverse=True)[1]
    rates: dict[str, dict] = {}
    for kind, column in (("toxic", "toxic"), ("refusal", "refused")):
        said = [getattr(verdict, column) for verdict in verdicts]
        read = np.array([value is not None for value in said])
        if read.any():
            values, own = np.array([float(value) for value in said if value is not None]), prompts[read]
            interval = rate_interval(values, own, np.random.default_rng(0))
            rates[kind] = {"value": interval.mean, "interval": [interval.low, interval.high], "n": len(values)}
            if correction := by_kind.get((name, kind)):
                rates[kind]["corrected"] = correction.rate(values, own)
    return rates


def _require_free(record: Path, path: Path) -> None:
    """UserError if the output would replace something that this run didn't write, by the record of what it wrote."""
    if path.is_dir():
        raise UserError(OUTPUT, f"{path} is a folder", "name a file")
    if not path.exists():
        return
    try:
        own = artifacts.read_json(record)["sha256"] == hash_file(path)
    except (FileNotFoundError, ValueError, KeyError):
        own = False
    if not own:
        raise UserError(OUTPUT, f"{path} is there, and this run didn't write it", "remove it, or name another file")
