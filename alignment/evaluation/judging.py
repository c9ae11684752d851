"""The verdicts of judges on answers. The same answer to the same prompt is judged once, whichever systems gave it."""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from alignment.data.columns import Loaded
from alignment.evaluation.vocabulary import KINDS
from alignment.judges.batched import judge_all
from alignment.judges.choice import JUDGES, WITH_THRESHOLD, chosen, load_judge, version
from alignment.judges.corrections import OWN, is_of
from alignment.judges.verdicts import Judge, Verdict
from alignment.models.source import known_as, model_source, source_at
from alignment.runs import artifacts
from alignment.runs.manifest import versions
from alignment.runs.ranks import Ranks
from alignment.runs.run_files import RunDir
from alignment.types import Message

DEFAULT = "refusal"
VERDICT_FIELDS = [  # of files of verdicts, after what says which answer each is of
    ("judge", pa.string()), ("verdict", pa.string()), ("category", pa.string()), ("score", pa.float64()),
    ("reason", pa.string()), ("toxic", pa.bool_()), ("refusal", pa.string()), ("severity", pa.int64()),
    ("helpfulness", pa.int64()), ("refused", pa.bool_()), ("helpful", pa.bool_()), ("unparsed", pa.bool_()),
]  # fmt: skip


def judges_of(settings: Mapping[str, Any], world: bool) -> list[str]:
    """The chosen judges of answers to the world's prompts, or to others.

    Other prompts mean nothing to the oracle; without another judge DEFAULT judges them.
    """
    names = chosen(settings)
    return names if world else [name for name in names if JUDGES[name].kind != "oracle"] or [DEFAULT]


def asked_judges(cfg: Mapping[str, Any]) -> list[str]:
    """All that judge what a scorecard asks, by the settings."""
    worlds = dict.fromkeys(name == "data" and cfg["data"]["name"] == "world" for name in cfg["evaluation"]["sets"])
    return list(dict.fromkeys(name for world in worlds for name in judges_of(cfg["judge"], world)))


def is_judged(cfg: Any) -> Callable[[dict], bool]:
    """Whether a labelled row is an answer of a model that the run evaluates, or that its policies began as."""
    after = cfg["scorecard"]["after"]
    sources = [model_source(cfg["model"]), *([] if after is None else [source_at(after, "scorecard.after")])]
    models = [known_as(source)[0] for source in sources]
    return lambda row: is_of(row["source"], models)


def calibrated(
    settings: Mapping[str, Any],
    names: Sequence[str],
    seed: int,
    run: RunDir,
    ranks: Ranks,
    own: Callable[[dict], bool],
) -> tuple[Loaded | None, dict[str, dict]]:
    """The labelled set, if there is one, and every judge's health on it; StageFailed if one agrees too little.

    own: whether a labelled row is an answer of a model that is judged, which rates aren't corrected with.
    One judge is loaded at a time. Its health is kept in the run folder, so that it is checked against labels once.
    """
    if settings["calibration"] is None:
        return None, {}
    from alignment.judges.calibration import calibration_rows  # here, since rules.py imports this module
    from alignment.judges.health import require_agreement

    labelled = calibration_rows(settings["calibration"], settings["folder"], settings["calibration_rows"], seed)
    for row in labelled.rows:
        row[OWN] = own(row)
    records = ranks.from_main(lambda: artifacts.read_json_if_intact(run.judge_health))
    for name in names:
        key = _key(settings, name, labelled, seed)
        if records.get(name, {}).get("key") != key:
            work = run.work(f"calibration-{name}", key)
            records[name] = {"key": key, "health": _health(settings, name, labelled, seed, work, ranks)}
            if ranks.main:
                artifacts.write_json(run.judge_health, records)
                for finished in work.parent.glob(f"calibration-{name}-*"):  # under other settings, too
                    shutil.rmtree(finished, ignore_errors=True)
        require_agreement(name, records[name]["health"], settings["minimum_agreement"], settings["calibration"])
    return labelled, {name: records[name]["health"] for name in names}


def _health(
    settings: Mapping[str, Any], name: str, labelled: Loaded, seed: int, work: Path, ranks: Ranks
) -> dict[str, Any]:
    from alignment.judges.health import health, position_bias, require_agreement
    from alignment.judges.seen_prompts import unseen_rows

    judge = load_judge(name, settings.get(name) or {"name": name})
    rows = unseen_rows(name, settings.get(name) or {}, labelled.rows)
    prompts, responses = ([row[column] for row in rows] for column in ("prompt", "response"))
    verdicts, _ = judge_all(judge, prompts, responses, work, ranks)
    report = {"set": settings["calibration"], **health(verdicts, rows, seed)}
    if JUDGES[name].kind in WITH_THRESHOLD:
        report["threshold"] = judge.record["threshold"]
    if JUDGES[name].fitted_on == settings["calibration"]:
        for kind in KINDS.keys() & report.keys():
            report[kind]["errors"]["why_not"] = "it was fitted on these labels, and errs less there than elsewhere"
    require_agreement(name, report, settings["minimum_agreement"], settings["calibration"])  # position_bias asks anew
    if pairs := settings["position_pairs"]:
        report["position"] = ranks.from_main(lambda: position_bias(judge, rows, pairs, seed))
    return report


def _key(settings: Mapping[str, Any], name: str, labelled: Loaded, seed: int) -> str:
    """A hash of all that a judge's health depends on: what the judge is, the labels, the draw."""
    own = dict(settings.get(name) or {})
    about = [name, own, version(name, own), settings["position_pairs"], seed, versions(), labelled.rows]
    return hashlib.sha256(json.dumps(about, default=str).encode()).hexdigest()


def judged(
    judge: Judge, prompts: Sequence[list[Message]], answers: Sequence[str], work: Path, ranks: Ranks
) -> tuple[list[Verdict], Counter[str]]:
    """A verdict on every answer, and what the judge counted.

    The same answer to the same prompt is judged once: it can't be judged differently because another model gave it.
    """
    texts = [json.dumps(pair) for pair in zip(prompts, answers, strict=True)]
    first: dict[str, int] = {}  # where each is met first
    for i, text in enumerate(texts):
        first.setdefault(text, i)
    places = list(first.values())
    verdicts, counts = judge_all(judge, [prompts[i] for i in places], [answers[i] for i in places], work, ranks)
    by_text = dict(zip(first, verdicts, strict=True))
    return [by_text[text] for text in texts], counts


def verdict_columns(judge: str, verdict: Verdict) -> dict:
    """A verdict as columns of verdicts.parquet."""
    derived = {"refused": verdict.refused, "helpful": verdict.helpful}
    return {"judge": judge, "verdict": verdict.word, **asdict(verdict), **derived}
