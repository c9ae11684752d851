"""What judges say of answers: each answer to each prompt once, however many systems and seeds gave it, in batches."""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from alignment.data.columns import Loaded
from alignment.judges.batched import judge_all
from alignment.judges.choice import JUDGES, chosen, load_judge
from alignment.judges.verdicts import Judge, Verdict
from alignment.models.source import source_at
from alignment.runs import artifacts
from alignment.runs.manifest import versions
from alignment.runs.ranks import Ranks
from alignment.runs.run_files import RunDir
from alignment.types import Message

DEFAULT = "refusal"


def judges_of(settings: Mapping[str, Any], world: bool) -> list[str]:
    """Who judges prompts of the world, or other ones, which mean nothing to the oracle: the refusal judge at least."""
    names = chosen(settings)
    return names if world else [name for name in names if JUDGES[name].kind != "oracle"] or [DEFAULT]


def can_say(judge: str) -> frozenset[str]:
    """What gates ask, before anything is computed."""
    return JUDGES[judge].says


def asked_judges(cfg: Mapping[str, Any]) -> list[str]:
    """All that judge what a scorecard asks, by the settings."""
    worlds = dict.fromkeys(name == "data" and cfg["data"]["name"] == "world" for name in cfg["evaluation"]["sets"])
    return list(dict.fromkeys(name for world in worlds for name in judges_of(cfg["judge"], world)))


def calibrated(
    settings: Mapping[str, Any], names: Sequence[str], seed: int, run: RunDir, ranks: Ranks
) -> tuple[Loaded | None, dict[str, dict]]:
    """Every judge's health on the labelled set, if there is one; StageFailed for one that agrees too little.

    One judge is loaded at a time. What was found is kept in the run folder: a judge is held against labels once.
    """
    if settings["calibration"] is None:
        return None, {}
    from alignment.judges.calibration import calibration_rows  # light where it isn't needed: rules.py reads this module
    from alignment.judges.health import require_agreement

    labelled = calibration_rows(settings["calibration"], settings["folder"], settings["calibration_rows"], seed)
    kept = ranks.from_main(lambda: _kept(run.judge_health))
    found: dict[str, dict] = {}
    for name in names:
        key = _key(settings, name, labelled, seed)
        if kept.get(name, {}).get("key") != key:
            work = run.work(f"calibration-{name}", key)
            kept[name] = {"key": key, "health": _health(settings, name, labelled, seed, work, ranks)}
            if ranks.main:
                artifacts.write_json(run.judge_health, kept)
                for done in work.parent.glob(f"calibration-{name}-*"):  # under other settings, too
                    shutil.rmtree(done, ignore_errors=True)
        found[name] = kept[name]["health"]
        require_agreement(name, found[name], settings["minimum_agreement"], settings["calibration"])
    return labelled, found


def _health(
    settings: Mapping[str, Any], name: str, labelled: Loaded, seed: int, work: Path, ranks: Ranks
) -> dict[str, Any]:
    from alignment.judges.health import health, position_bias, require_agreement

    judge = load_judge(name, settings.get(name) or {"name": name})
    prompts, responses = ([row[column] for row in labelled.rows] for column in ("prompt", "response"))
    verdicts, _ = judge_all(judge, prompts, responses, work, ranks)
    found = health(verdicts, labelled.rows, seed)
    require_agreement(name, found, settings["minimum_agreement"], settings["calibration"])
    if settings["position_pairs"]:
        found["position"] = ranks.from_main(
            lambda: position_bias(judge, labelled.rows, settings["position_pairs"], seed)
        )
    return found


def _key(settings: Mapping[str, Any], name: str, labelled: Loaded, seed: int) -> str:
    """Names all that a judge's health depends on: what it is, the labels, the draw."""
    own = dict(settings.get(name) or {})
    source = None if own.get("path") is None else source_at(own["path"], f"judge.{name}.path").fingerprint
    about = [name, own, source, settings["position_pairs"], seed, versions(), labelled.rows]
    return hashlib.sha256(json.dumps(about, default=str).encode()).hexdigest()


def _kept(path: Path) -> dict[str, dict]:
    try:
        return artifacts.read_json(path)
    except (FileNotFoundError, ValueError):
        return {}


def judged(
    judge: Judge, prompts: Sequence[list[Message]], answers: Sequence[str], work: Path, ranks: Ranks
) -> tuple[list[Verdict], Counter[str]]:
    """One verdict each, and what the judge counted. The same answer to the same prompt is judged once: whichever model
    gave it, it can't be judged differently."""
    place: dict[str, int] = {}
    first: list[int] = []  # where each of them is met first
    numbers: list[int] = []
    for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        numbers.append(place.setdefault(json.dumps([prompt, answer]), len(first)))
        if numbers[-1] == len(first):
            first.append(i)
    found, counts = judge_all(judge, [prompts[i] for i in first], [answers[i] for i in first], work, ranks)
    return [found[number] for number in numbers], counts


def verdict_columns(judge: str, verdict: Verdict) -> dict:
    """A verdict as columns of verdicts.parquet."""
    more = {"refused": verdict.refused, "helpful": verdict.helpful}
    return {"judge": judge, "verdict": verdict.word, **asdict(verdict), **more}
