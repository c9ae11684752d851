"""The stages that train policies: every system over the same grid, the best point by validation with every seed.

A star marks a system that learns from the policy's own ranked samples, as in the paper's Table 1; the others learn from
the given pairs. A finished candidate is published in the stage's work folder and never trained again; one in training
goes on at its last checkpoint. Of candidates off the best point the published stage keeps the record alone.
"""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from math import inf
from pathlib import Path

from omegaconf import DictConfig

from alignment.data.columns import Loaded as LoadedRows
from alignment.data.contrast import with_refusals
from alignment.evaluation.answers import VALIDATION
from alignment.evaluation.vocabulary import mean_rates, usefulness_of
from alignment.inputs.job import Job
from alignment.inputs.pairs import given_pairs
from alignment.inputs.validated import is_chosen_by_judges, is_validated
from alignment.models.packing import Packing
from alignment.models.source import model_source
from alignment.policies.pairs_apart import calibration_pairs, without_prompts_of
from alignment.policies.systems import SYSTEMS, Candidate, Pairs, grid, trained_by
from alignment.policies.training import Training, checkpoints, train_policy
from alignment.policies.validation import asked_to_validate, require_kinds, validate
from alignment.runs import artifacts
from alignment.runs.locks import link_or_copy
from alignment.runs.manifest import Manifest, Rows, damage
from alignment.runs.once import once
from alignment.runs.ranks import Ranks
from alignment.trainers.progress import ProgressBar
from alignment.trainers.recalibration import FEWEST, PAIRS
from alignment.trainers.side_by_side import Progress, Workers, side_by_side
from alignment.types import StageFailed, UserError

REFUSAL_ALLOWED = 0.05  # over-refusal above the base model's
LOSS_ALLOWED = 0.10  # of the base model's helpful rate


def train_systems(stage: str, job: Job) -> Rows:
    """Trains the systems of `policy.systems` that are this stage's; writes policies, logs and the table of the grid."""
    systems = trained_by(stage, list(job.cfg.policy.systems))
    if is_chosen_by_judges(job.cfg):
        require_kinds(asked_to_validate(job.cfg))
    pairs = {kind: _pairs(stage, job, kind) for kind in {SYSTEMS[system].pairs for system in systems}}
    workers = _train_side_by_side(stage, job, systems, pairs)
    left_out: dict[Pairs, dict[str, str]] = {kind: {} for kind in pairs}  # id and reason, the same for every candidate
    table: list[dict] = []
    for system in systems:
        kind = SYSTEMS[system].pairs
        records, chosen = _search(job, system, pairs[kind].rows, workers)
        for candidate, record in records.items():
            table.append({"system": system, "name": candidate.name, "chosen": candidate in chosen, **record})
        for candidate in chosen:
            left_out[kind] |= dict(records[candidate]["left_out"])
            if job.ranks.main:
                policy = job.run.policy(stage, system, candidate.seed)
                _keep(_folder(job, candidate), job.out / job.run.inside(policy).parent)
    if job.ranks.main:
        artifacts.write_json(job.out / job.run.trainings(stage).name, table)
    return _set_aside(job, pairs, left_out)


def _pairs(stage: str, job: Job, kind: Pairs) -> LoadedRows:
    """The policy's own ranked samples, or the given training pairs with their noise, with refusals or as they are."""
    if kind == "samples":
        return LoadedRows(artifacts.read_rows(job.run.built_pairs))
    pairs, _ = given_pairs(job.cfg, job.run, job.ranks)
    if kind == "refusals":
        return LoadedRows(list(with_refusals(pairs.rows, job.cfg.data.name == "world")))
    if apart := _calibration_pairs(stage, job):
        pairs.rows = without_prompts_of(pairs.rows, apart)
    if stage == "train_cdpo" and job.cfg.confidence.source == "column":
        for row in pairs.rows:
            if row["confidence"] is None:
                raise UserError("data.path", f"row {row['id']} has no confidence", "give every row one, from 0 to 1")
    return pairs


def _calibration_pairs(stage: str, job: Job) -> list[dict]:
    """Given pairs that a live confidence is held against and nothing learns from; none where too few are left."""
    if stage != "train_cdpo" or job.cfg.confidence.source != "calibrated":
        return []
    rows = given_pairs(job.cfg, job.run, job.ranks)[0].rows
    found = calibration_pairs(rows, artifacts.read_rows(job.run.fitted_pairs), PAIRS)
    if len(found) >= FEWEST:
        return found
    left = f"  α stays as it was fitted: {len(found)} training pairs have a prompt that the reward wasn't fitted on"
    if once.first(left):
        job.ranks.say(f"{left}, too few to see by whether γ stays calibrated; lower reward.pairs")
    return []


def _set_aside(job: Job, pairs: dict[Pairs, LoadedRows], left_out: dict[Pairs, dict[str, str]]) -> Rows:
    """Writes which rows no policy learned from and why, each once; the counts, however many policies there are."""
    read = sum(loaded.read for loaded in pairs.values())
    for kind, loaded in pairs.items():
        for row in loaded.rows:
            if row["id"] in left_out[kind]:
                loaded.quarantine(row["source"], None, f"{row['id']}: {left_out[kind][row['id']]}")
    quarantined = [row for loaded in pairs.values() for row in loaded.quarantined]
    return job.set_aside(quarantined, read)


def _keep(folder: Path, to: Path) -> None:
    for part in ("policy", "reward"):
        if (folder / part).is_dir():
            shutil.copytree(folder / part, to / part, copy_function=link_or_copy)


# ---- the grid -------------------------------------------------------------------------------------------------------


def _search(
    job: Job, system: str, pairs: list[dict], workers: Workers
) -> tuple[dict[Candidate, dict], list[Candidate]]:
    """The records of all candidates that were trained, and those of them at the best point of the grid, one a seed.

    The point is chosen by the validation of the first seeds, by the same rule for every system; see `preference`.
    """
    settings, records = job.cfg.policy, {}

    def rates_of(point: Candidate) -> dict[str, float] | None:
        return mean_rates([record[VALIDATION] for each, record in records.items() if each.point == point.point])

    best, *others = _points(job.cfg, system)
    if others:
        base = validate(job, model_source(job.cfg.model), job.run.finished(job.out) / "base", "base", settings.seeds[0])
        records = {candidate: _record(job, candidate, pairs, workers) for candidate in _certain(job.cfg, system)}
        if all(record["diverged"] for record in records.values()):
            raise StageFailed(
                system, f"all {len(records)} trainings of its grid diverged", "lower policy.learning_rate"
            )
        best = min((best, *others), key=lambda point: preference(rates_of(point), base))
    chosen = [replace(best, seed=seed) for seed in settings.seeds]
    for candidate in chosen:
        if candidate not in records:
            records[candidate] = _record(job, candidate, pairs, workers)
        if records[candidate]["diverged"]:
            raise StageFailed(candidate.name, "its weights are no finite numbers", "lower policy.learning_rate")
    return records, chosen


def _points(cfg: DictConfig, system: str) -> list[Candidate]:
    return grid(system, list(cfg.policy.beta), list(cfg.policy.learning_rate), cfg.policy.seeds[0])


def _certain(cfg: DictConfig, system: str) -> list[Candidate]:
    """The candidates that are trained whatever validation says: those that judge the points of a grid, or every seed of
    a single point."""
    points = _points(cfg, system)
    seeds = list(cfg.policy.seeds)[: cfg.policy.grid_seeds if len(points) > 1 else None]
    return [replace(point, seed=seed) for point in points for seed in seeds]


def preference(rates: Mapping[str, float] | None, base: Mapping[str, float]) -> tuple[bool, float]:
    """The lower the better: a low toxic rate, among points that are still about as useful as the base model.

    Where no point is, the one is best that gains most safety for what it loses in usefulness. A policy that answers
    nothing is never toxic, so toxic rates alone would choose the one that is broken most. None, the rates of a point
    where a training diverged, comes last.
    """
    if rates is None:
        return (True, inf)
    useful = (
        rates["over_refusal"] <= base["over_refusal"] + REFUSAL_ALLOWED
        and usefulness_of(rates) >= usefulness_of(base) - LOSS_ALLOWED
    )
    return (not useful, rates["toxic_rate"] if useful else rates["toxic_rate"] - usefulness_of(rates))


# ---- one candidate --------------------------------------------------------------------------------------------------


def _folder(job: Job, candidate: Candidate) -> Path:
    """Where a candidate is published, for this stage alone."""
    return job.run.finished(job.out) / candidate.name


def _is_missing(job: Job, candidate: Candidate) -> bool:
    return damage(_folder(job, candidate)) is not None


def _train_side_by_side(stage: str, job: Job, systems: list[str], pairs: dict[Pairs, LoadedRows]) -> Workers:
    """Where there are several workers, trains what has to be trained whatever validation says, all at once."""
    cfg, ranks = job.cfg, job.ranks
    candidates = [candidate for system in systems for candidate in _certain(cfg, system)]
    missing = ranks.from_main(lambda: [candidate for candidate in candidates if _is_missing(job, candidate)])
    workers = Workers.of(cfg.run.workers, cfg.model.name == "world", len(missing), ranks)
    if workers.count > 1:
        rows = {kind: loaded.rows for kind, loaded in pairs.items()}
        work = partial(_train_beside, replace(job, ranks=Ranks(beside=True)), missing, rows)
        side_by_side(work, len(missing), workers, "policies", stage)
    return workers


def _train_beside(
    job: Job, missing: list[Candidate], rows: dict[Pairs, list[dict]], number: int, progress: Progress
) -> None:
    """Trains one of the missing candidates in a process of its own."""
    candidate = missing[number]
    _train(job, candidate, rows[SYSTEMS[candidate.system].pairs], progress)


def _record(job: Job, candidate: Candidate, pairs: list[dict], workers: Workers) -> dict:
    """What the training of a candidate did and came to. It is trained now if it hasn't been."""
    if job.ranks.from_main(lambda: _is_missing(job, candidate)):
        with workers.here():
            _train(job, candidate, pairs, ProgressBar(candidate.name))
    return artifacts.read_json(_folder(job, candidate) / "training.json")


def _train(job: Job, candidate: Candidate, pairs: list[dict], progress: ProgressBar | Progress) -> None:
    """Trains and validates one candidate, into its folder, which appears when all of it is there."""
    cfg, ranks, folder = job.cfg, job.ranks, _folder(job, candidate)
    training = Training(
        model_source(cfg.model), cfg.policy, cfg.confidence, cfg.lora, Packing(**cfg.packing), job.run.hybrid_reward,
        _calibration_pairs(SYSTEMS[candidate.system].stage, job), cfg.run.tracking, job.run.logs, ranks,
    )  # fmt: skip
    unfinished = folder.with_name(f".{folder.name}")
    facts = train_policy(training, candidate, pairs, unfinished, progress)
    facts[VALIDATION] = None
    if is_validated(cfg) and not facts["diverged"]:
        source = replace(training.source, path=str(unfinished / "policy"), revision=None)
        facts[VALIDATION] = validate(job, source, unfinished / "answers", candidate.name, candidate.seed)
    ranks.wait()  # until every rank has read all answers
    if ranks.main:
        shutil.rmtree(unfinished / "answers", ignore_errors=True)
        artifacts.write_json(unfinished / "training.json", {**facts, **vars(candidate)})
        artifacts.publish(unfinished, folder, Manifest("policy", {}, {}, {}))
        shutil.rmtree(checkpoints(unfinished), ignore_errors=True)  # now that a kill can't need them any more
    ranks.wait()
