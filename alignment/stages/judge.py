"""Stage judge: every answer of a file with the verdict of one judge, or of several, and how far they can be believed.

The file that is asked for gets the rows of the one that was given, in their order, and the verdict's columns; one whose
response is empty has a row too, and no judge is asked about it. Judges are held against people's labels first, if there
is a set of them (judge.calibration): one that agrees too little ends the run before it has cost anything.
"""

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from omegaconf import DictConfig

from alignment.data.answer_files import Answer, read_answers, refuse_columns, refuse_kind, write_answers
from alignment.evaluation.judging import calibrated
from alignment.judges.batched import judge_all
from alignment.judges.choice import chosen, load_judge, require_ready
from alignment.judges.health import kappa
from alignment.judges.verdicts import WORDS, Verdict
from alignment.runs import artifacts
from alignment.runs.manifest import Rows, hash_file
from alignment.runs.ranks import Ranks
from alignment.runs.run_files import QUARANTINE, RunDir
from alignment.types import UserError

INPUT, OUTPUT = "judge.input", "judge.output"
COLUMNS = (("verdict", pa.string()), ("category", pa.string()), ("score", pa.float64()), ("reason", pa.string()))

EMPTY = Verdict(None, None, reason="the response is empty", unparsed=True)


def run(cfg: DictConfig, run: RunDir, out: Path, ranks: Ranks) -> Rows:
    settings, work = cfg.judge, out.parent
    names = chosen(settings)
    answers, rows = read_answers(INPUT, settings.input)
    added = {name: _columns(name, alone=len(names) == 1) for name in names}
    refuse_columns(INPUT, settings.input, answers, [column for columns in added.values() for column, _ in columns])
    ranks.from_main(lambda: _require_free(run, Path(settings.output)))
    if not answers:
        first = "".join(f": {row['reason']}" for row in rows.quarantined[:1])
        raise UserError(INPUT, f"{settings.input} has no row that can be judged{first}", "give prompt and response")
    schema = pa.schema([field for columns in added.values() for field in columns])
    refuse_kind(Path(settings.output).suffix, Path(settings.input), [one.row for one in answers], schema)
    ranks.from_main(lambda: require_ready(settings, names))
    labelled, agreed = calibrated(settings, names, cfg.seed, run, ranks)
    verdicts: dict[str, list[Verdict]] = {}
    found: dict[str, dict] = {}
    for name in names:
        verdicts[name], of = _said(settings, name, answers, work / name, ranks)
        found[name] = {**of, "health": agreed.get(name)}
    if ranks.main:
        written = [
            {**one.row, **{key: value for name in names for key, value in _values(added[name], verdicts[name][i])}}
            for i, one in enumerate(answers)
        ]
        prompts = [one.prompt for one in answers]
        summary = {
            "rows": len(answers), "quarantined": len(rows.quarantined), "judges": found,
            "calibration": None if labelled is None else {
                "set": settings.calibration, "rows": len(labelled.rows), "quarantined": len(labelled.quarantined),
            },
            "kappa": {
                f"{one} and {other}": kappa(verdicts[one], verdicts[other], prompts, cfg.seed)
                for i, one in enumerate(names) for other in names[i + 1 :]
            },
        }  # fmt: skip
        artifacts.write_lines(
            out / QUARANTINE, rows.quarantined + (labelled.quarantined if labelled is not None else [])
        )
        output = Path(settings.output)
        copy = out / f"{run.judged_answers.name}{output.suffix}"
        write_answers(copy, output.suffix, Path(settings.input), written, schema)
        with artifacts.atomic_file(output) as file:
            shutil.copyfile(copy, file)
        artifacts.write_json(out / run.judged.name, {**summary, "sha256": hash_file(copy)})
        thoughts = sum(one.has_thoughts for one in answers)
        without = f" ({thoughts} of them without the thoughts before them)" if thoughts else ""
        ranks.say(f"  {len(answers)} answers judged{without}: {settings.output}")
    return Rows(rows.read, len(answers), len(rows.quarantined))


def _said(
    settings: DictConfig, name: str, answers: Sequence[Answer], work: Path, ranks: Ranks
) -> tuple[list[Verdict], dict]:
    """The verdicts of one judge, and what it is and counted. It is in memory here alone: guards are large."""
    judge = load_judge(name, settings[name])
    asked = [one for one in answers if one.response]
    said, counts = judge_all(judge, [one.prompt for one in asked], [one.response for one in asked], work, ranks)
    following = iter(said)
    verdicts = [next(following) if one.response else EMPTY for one in answers]
    counts["empty"] = len(answers) - len(asked)
    return verdicts, {
        "record": judge.record, "verdicts": _counted(verdicts), "counts": dict(sorted(counts.items())),
        "spent": getattr(judge, "spent", None),
    }  # fmt: skip


def _require_free(run: RunDir, path: Path) -> None:
    """What stands at the place of the output may be replaced only if this run put it there."""
    if path.is_dir():
        raise UserError(OUTPUT, f"{path} is a folder", "name a file")
    if not path.exists():
        return
    try:
        own = artifacts.read_json(run.judged)["sha256"] == hash_file(path)
    except (FileNotFoundError, ValueError, KeyError):
        own = False
    if not own:
        raise UserError(OUTPUT, f"{path} is there, and this run didn't write it", "remove it, or name another file")


def _columns(name: str, alone: bool) -> list[tuple[str, pa.DataType]]:
    """Of several judges, each has its own, under its name."""
    return [(column if alone else f"{name}_{column}", kind) for column, kind in COLUMNS]


def _values(columns: list[tuple[str, pa.DataType]], verdict: Verdict) -> list[tuple[str, object]]:
    values = (verdict.word, verdict.category, verdict.score, verdict.reason)
    return [(column, value) for (column, _), value in zip(columns, values, strict=True)]


def _counted(verdicts: list[Verdict]) -> dict[str, int]:
    counts = Counter(verdict.word for verdict in verdicts)
    return {word: counts[word] for word in WORDS if counts[word]}
