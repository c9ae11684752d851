"""The stages that train policies: every system over the same grid, the best point by validation with every seed.

A finished candidate is published in the stage's work folder and never trained again; a candidate in training goes on at
its last checkpoint. Of candidates off the best point only what they did is kept once the stage is published.
"""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from alignment.data.columns import Loaded as LoadedRows
from alignment.evaluation.answers import VALIDATION, answer, rates, validation_prompts
from alignment.inputs.pairs import given_pairs
from alignment.models.devices import device
from alignment.models.load import load_language_model
from alignment.models.packing import Packing
from alignment.models.source import ModelSource, model_source
from alignment.policies.systems import SYSTEMS, Candidate, grid, trained_by
from alignment.policies.training import Training, checkpoints, train_policy
from alignment.runs import artifacts
from alignment.runs.locks import link_or_copy
from alignment.runs.manifest import Manifest, Rows, damage
from alignment.runs.ranks import Ranks
from alignment.runs.run_files import QUARANTINE, RunDir
from alignment.trainers.progress import ProgressBar
from alignment.trainers.side_by_side import Progress, Workers, side_by_side
from alignment.types import StageFailed, UserError

REFUSAL_ALLOWED = 0.05  # over-refusal above the base model's
LOSS_ALLOWED = 0.10  # of the base model's helpful rate


def train_systems(stage: str, cfg: DictConfig, run: RunDir, out: Path, ranks: Ranks) -> Rows:
    """Trains the systems of `policy.systems` that are this stage's; writes policies, logs and the table of the grid."""
    training = _training(cfg, run, ranks)
    done, table = run.finished(out), []
    systems = trained_by(stage, list(cfg.policy.systems))
    known = {star: _pairs(stage, cfg, run, star, ranks) for star in {SYSTEMS[system].star for system in systems}}
    workers = _side_by_side(stage, cfg, training, systems, known, done)
    left_out: dict[bool, dict[str, str]] = {star: {} for star in known}  # id and reason, the same for every candidate
    for system in systems:
        star = SYSTEMS[system].star
        pairs = known[star].rows
        finished: dict[str, dict] = {}

        def made(candidate: Candidate, pairs: list[dict] = pairs, finished: dict[str, dict] = finished) -> dict:
            folder = done / candidate.name
            if not ranks.from_main(lambda: damage(folder) is None):
                with workers.here():
                    _make(cfg, training, candidate, pairs, folder, ProgressBar(candidate.name))
            finished[candidate.name] = artifacts.read_json(folder / "training.json")
            return finished[candidate.name]

        best = _best_point(cfg, system, made, training, done, ranks)
        chosen = [Candidate(system, best.beta, best.learning_rate, seed) for seed in cfg.policy.seeds]
        for candidate in chosen:
            facts = made(candidate)
            if facts["diverged"]:
                raise StageFailed(candidate.name, "its weights are no finite numbers", "lower policy.learning_rate")
            left_out[star] |= dict(facts["left_out"])
        for name, facts in finished.items():
            table.append({"system": system, "name": name, "chosen": any(one.name == name for one in chosen), **facts})
        if ranks.main:
            for candidate in chosen:
                _keep(done / candidate.name, out / run.inside(run.policy(stage, system, candidate.seed)).parent)
    if ranks.main:
        artifacts.write_json(out / run.trainings(stage).name, table)
    return _set_aside(known, left_out, out, ranks)


def _side_by_side(
    stage: str, cfg: DictConfig, training: Training, systems: list[str], known: dict[bool, LoadedRows], done: Path
) -> Workers:
    """Trains at once, where there are several workers, what has to be trained whatever validation says."""
    ranks = training.ranks
    candidates = [one for system in systems for one in _certain(cfg, system)]
    missing = ranks.from_main(lambda: [one for one in candidates if damage(done / one.name) is not None])
    workers = Workers.of(cfg.run.workers, cfg.model.name == "world", len(missing), ranks)
    if workers.count > 1:
        rows = {star: pairs.rows for star, pairs in known.items()}
        work = partial(_make_beside, cfg, replace(training, ranks=Ranks(beside=True)), missing, rows, done)
        side_by_side(work, len(missing), workers, "policies", stage)
    return workers


def _certain(cfg: DictConfig, system: str) -> list[Candidate]:
    """Of a grid what judges its points; of a single point every seed."""
    points = grid(system, list(cfg.policy.beta), list(cfg.policy.learning_rate), 0)
    seeds = list(cfg.policy.seeds)[: cfg.policy.grid_seeds if len(points) > 1 else None]
    return [replace(point, seed=seed) for point in points for seed in seeds]


def _make_beside(
    cfg: DictConfig,
    training: Training,
    candidates: list[Candidate],
    rows: dict[bool, list[dict]],
    done: Path,
    number: int,
    progress: Progress,
) -> None:
    """In a process of its own."""
    candidate = candidates[number]
    _make(cfg, training, candidate, rows[SYSTEMS[candidate.system].star], done / candidate.name, progress)


def _set_aside(known: dict[bool, LoadedRows], left_out: dict[bool, dict[str, str]], out: Path, ranks: Ranks) -> Rows:
    """Writes which rows no policy learned from and why, each once; the counts, however many policies there are."""
    quarantined: list[dict] = []
    read = 0
    for star, pairs in known.items():
        read += pairs.read
        for row in pairs.rows:
            if row["id"] in left_out[star]:
                pairs.quarantine(row["source"], None, f"{row['id']}: {left_out[star][row['id']]}")
        quarantined += pairs.quarantined
    if ranks.main:
        artifacts.write_lines(out / QUARANTINE, quarantined)
    return Rows(read, read - len(quarantined), len(quarantined))


def _training(cfg: DictConfig, run: RunDir, ranks: Ranks) -> Training:
    plain = {
        name: OmegaConf.to_container(cfg[name], resolve=True) for name in ("policy", "confidence", "lora")
    }  # fmt: skip
    return Training(
        model_source(cfg.model), plain["policy"], plain["confidence"], plain["lora"],
        Packing(**cfg.packing), run.hybrid_reward, cfg.run.tracking, run.logs, ranks,
    )  # fmt: skip


def _pairs(stage: str, cfg: DictConfig, run: RunDir, star: bool, ranks: Ranks) -> LoadedRows:
    """The policy's own re-ranked samples, or the given training pairs with their noise."""
    if star:
        return LoadedRows(artifacts.read_rows(run.built_pairs))
    pairs = given_pairs(cfg, run, ranks)[0]
    if stage == "train_cdpo" and cfg.confidence.source == "column":
        for row in pairs.rows:
            if row["confidence"] is None:
                raise UserError("data.path", f"row {row['id']} has no confidence", "give every row one, from 0 to 1")
    return pairs


def _best_point(cfg: DictConfig, system: str, made: Any, training: Training, done: Path, ranks: Ranks) -> Candidate:
    """By the validation of the first seeds, the same rule for every system; see `preference`."""
    points = grid(system, list(cfg.policy.beta), list(cfg.policy.learning_rate), cfg.policy.seeds[0])
    if len(points) == 1:
        return points[0]
    base = _validate(cfg, training.source, done / "base", cfg.policy.seeds[0], ranks)

    def mean_rates(point: Candidate) -> dict[str, float] | None:
        seeds = cfg.policy.seeds[: cfg.policy.grid_seeds]
        judged = [made(Candidate(point.system, point.beta, point.learning_rate, seed))[VALIDATION] for seed in seeds]
        return None if None in judged else {n: sum(one[n] for one in judged) / len(judged) for n in base}

    return min(points, key=lambda point: preference(mean_rates(point), base))


def preference(rates: Mapping[str, float] | None, base: Mapping[str, float]) -> tuple[bool, float]:
    """The lower the better: a low toxic rate, among points that are still about as useful as the base model.

    Where no point is, the one that gains most safety for what it loses in usefulness. A policy that answers nothing is
    never toxic, so toxic rates alone would choose the one that is broken most. None, of a point where a training
    diverged, comes last.
    """
    if rates is None:
        return (True, inf)
    useful = (
        rates["over_refusal"] <= base["over_refusal"] + REFUSAL_ALLOWED
        and rates["helpful_rate"] >= base["helpful_rate"] - LOSS_ALLOWED
    )
    return (not useful, rates["toxic_rate"] if useful else rates["toxic_rate"] - rates["helpful_rate"])


def _make(
    cfg: DictConfig,
    training: Training,
    candidate: Candidate,
    pairs: list[dict],
    folder: Path,
    progress: ProgressBar | Progress,
) -> None:
    """Trains and validates one candidate, into `folder`, which appears when all of it is there."""
    ranks = training.ranks
    unfinished = folder.with_name(f".{folder.name}")
    facts = train_policy(training, candidate, pairs, unfinished, progress)
    facts[VALIDATION] = None
    if cfg.data.name == "world" and not facts["diverged"]:
        source = replace(training.source, path=str(unfinished / "policy"), revision=None)
        facts[VALIDATION] = _validate(cfg, source, unfinished / "answers", candidate.seed, ranks)
    ranks.wait()  # until every rank has read all answers
    if ranks.main:
        shutil.rmtree(unfinished / "answers", ignore_errors=True)
        artifacts.write_json(unfinished / "training.json", {**facts, **vars(candidate)})
        artifacts.publish(unfinished, folder, Manifest("policy", {}, {}, {}))
        shutil.rmtree(checkpoints(unfinished), ignore_errors=True)  # now that a kill can't need them any more
    ranks.wait()


def _validate(cfg: DictConfig, source: ModelSource, work: Path, seed: int, ranks: Ranks) -> Mapping[str, float]:
    if cfg.data.name != "world":
        raise UserError("policy", "a grid needs a judge, and only the world has one yet", "give one beta and one rate")
    asked = validation_prompts(cfg.evaluation.validation, cfg.evaluation.prompts, seed=cfg.data.seed)
    loaded = load_language_model(source, device())
    return rates(asked, answer(loaded, asked, cfg.sampling, seed, work, ranks))[VALIDATION]


def _keep(folder: Path, to: Path) -> None:
    for part in ("policy", "reward"):
        if (folder / part).is_dir():
            shutil.copytree(folder / part, to / part, copy_function=link_or_copy)
