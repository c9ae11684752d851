"""Trains the policies of a stage: every system over the same grid, and the best point by validation with every seed.

A finished candidate is published in the stage's work folder and never trained again; an unfinished one goes on at its
last checkpoint. Once the stage is published, only the facts about their training are kept of the other points.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from math import inf
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from alignment.data.columns import Loaded as LoadedRows
from alignment.evaluation.answers import VALIDATION, answer, rates, validation_prompts
from alignment.evaluation.vocabulary import mean_rates
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

REFUSAL_ALLOWED = 0.05  # how far a useful policy's over-refusal may be above the base model's
LOSS_ALLOWED = 0.10  # how far its helpful rate may be below


def train_systems(stage: str, cfg: DictConfig, run: RunDir, out: Path, ranks: Ranks) -> Rows:
    """Trains this stage's systems out of `policy.systems`; writes policies, logs and the table of all trainings."""
    training = _training(cfg, run, ranks)
    done = run.finished(out)
    systems = trained_by(stage, list(cfg.policy.systems))
    pairs = {star: _pairs(stage, cfg, run, star, ranks) for star in {SYSTEMS[system].star for system in systems}}
    rows = {star: loaded.rows for star, loaded in pairs.items()}
    workers = _side_by_side(stage, cfg, training, systems, rows, done)
    trainings: dict[str, dict] = {}

    def trained(candidate: Candidate) -> dict:
        """The facts about a candidate's training, which it gets first unless it is finished."""
        folder = done / candidate.name
        if not ranks.from_main(lambda: damage(folder) is None):
            with workers.here():
                _make(cfg, training, rows, done, candidate, ProgressBar(candidate.name))
        trainings[candidate.name] = artifacts.read_json(folder / "training.json")
        return trainings[candidate.name]

    left_out: dict[bool, dict[str, str]] = {star: {} for star in pairs}  # id and reason, the same for every candidate
    chosen: list[Candidate] = []
    for system in systems:
        best = _best_point(cfg, system, trained, training, done, ranks)
        for candidate in [replace(best, seed=seed) for seed in cfg.policy.seeds]:
            facts = trained(candidate)
            if facts["diverged"]:
                raise StageFailed(candidate.name, "its weights are no finite numbers", "lower policy.learning_rate")
            left_out[SYSTEMS[system].star] |= dict(facts["left_out"])
            chosen.append(candidate)
    if ranks.main:
        for candidate in chosen:
            policy = run.policy(stage, candidate.system, candidate.seed)
            _keep(done / candidate.name, out / run.inside(policy).parent)
        names = {candidate.name for candidate in chosen}
        table = [{"name": name, "chosen": name in names, **facts} for name, facts in trainings.items()]
        artifacts.write_json(out / run.trainings(stage).name, table)
    return _set_aside(pairs, left_out, out, ranks)


def _side_by_side(
    stage: str, cfg: DictConfig, training: Training, systems: list[str], rows: dict[bool, list[dict]], done: Path
) -> Workers:
    """Trains side by side, if there are several workers, the candidates that are trained however validation ends."""
    ranks = training.ranks
    candidates = [candidate for system in systems for candidate in _certain(cfg, system)]
    missing = ranks.from_main(lambda: [each for each in candidates if damage(done / each.name) is not None])
    workers = Workers.of(cfg.run.workers, cfg.model.name == "world", len(missing), ranks)
    if workers.count > 1:
        work = partial(_make_beside, cfg, replace(training, ranks=Ranks(beside=True)), rows, done, missing)
        side_by_side(work, len(missing), workers, "policies", stage)
    return workers


def _certain(cfg: DictConfig, system: str) -> list[Candidate]:
    """The candidates that are trained in any case: those that judge the points of a grid, or a single point's seeds."""
    points = grid(system, list(cfg.policy.beta), list(cfg.policy.learning_rate), 0)
    seeds = list(cfg.policy.seeds)[: cfg.policy.grid_seeds if len(points) > 1 else None]
    return [replace(point, seed=seed) for point in points for seed in seeds]


def _make_beside(
    cfg: DictConfig,
    training: Training,
    rows: dict[bool, list[dict]],
    done: Path,
    candidates: list[Candidate],
    number: int,
    progress: Progress,
) -> None:
    """Trains one of the candidates in a process of its own."""
    _make(cfg, training, rows, done, candidates[number], progress)


def _set_aside(pairs: dict[bool, LoadedRows], left_out: dict[bool, dict[str, str]], out: Path, ranks: Ranks) -> Rows:
    """Writes which rows no policy learned from and why; each is counted once, however many policies there are."""
    read = sum(loaded.read for loaded in pairs.values())  # before rows are quarantined, which it would count twice
    quarantined: list[dict] = []
    for star, loaded in pairs.items():
        for row in loaded.rows:
            if row["id"] in left_out[star]:
                loaded.quarantine(row["source"], None, f"{row['id']}: {left_out[star][row['id']]}")
        quarantined += loaded.quarantined
    if ranks.main:
        artifacts.write_lines(out / QUARANTINE, quarantined)
    return Rows(read, read - len(quarantined), len(quarantined))


def _training(cfg: DictConfig, run: RunDir, ranks: Ranks) -> Training:
    source = model_source(cfg.model.name, cfg.model.get("path"))
    plain = {
        name: OmegaConf.to_container(cfg[name], resolve=True) for name in ("policy", "confidence", "lora")
    }  # fmt: skip
    return Training(
        source, cfg.model.get("chat_template"), plain["policy"], plain["confidence"], plain["lora"],
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


def _best_point(
    cfg: DictConfig, system: str, trained: Callable[[Candidate], dict], training: Training, done: Path, ranks: Ranks
) -> Candidate:
    """The best point of the grid by the validation of the first seeds, by the same rule for every system."""
    points = grid(system, list(cfg.policy.beta), list(cfg.policy.learning_rate), cfg.policy.seeds[0])
    if len(points) == 1:
        return points[0]
    base = _validate(cfg, training.source, training.template, done / "base", cfg.policy.seeds[0], ranks)

    def rates_of(point: Candidate) -> Mapping[str, float] | None:
        seeds = cfg.policy.seeds[: cfg.policy.grid_seeds]
        return mean_rates([trained(replace(point, seed=seed))[VALIDATION] for seed in seeds])

    return min(points, key=lambda point: preference(rates_of(point), base))


def preference(rates: Mapping[str, float] | None, base: Mapping[str, float]) -> tuple[bool, float]:
    """Orders points, the best first: by toxic rate, among points that are still about as useful as the base model.

    Where no point is as useful, the best gains most safety for the usefulness it loses. A policy that answers nothing
    is never toxic, so toxic rates alone would choose the policy that is broken most. A point without rates, where a
    training diverged, comes last.
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
    rows: dict[bool, list[dict]],
    done: Path,
    candidate: Candidate,
    progress: ProgressBar | Progress,
) -> None:
    """Trains and validates one candidate into its folder in `done`, which appears when it is complete."""
    ranks, folder = training.ranks, done / candidate.name
    unfinished = folder.with_name(f".{folder.name}")
    facts = train_policy(training, candidate, rows[SYSTEMS[candidate.system].star], unfinished, progress)
    facts[VALIDATION] = None
    if cfg.data.name == "world" and not facts["diverged"]:
        source = ModelSource(str(unfinished / "policy"), None, "")
        facts[VALIDATION] = _validate(cfg, source, None, unfinished / "answers", candidate.seed, ranks)
    ranks.wait()  # until every rank has read all answers
    if ranks.main:
        shutil.rmtree(unfinished / "answers", ignore_errors=True)
        artifacts.write_json(unfinished / "training.json", {**facts, **vars(candidate)})
        artifacts.publish(unfinished, folder, Manifest("policy", {}, {}, {}))
        shutil.rmtree(checkpoints(unfinished), ignore_errors=True)  # a published candidate needs none
    ranks.wait()


def _validate(
    cfg: DictConfig, source: ModelSource, template: str | None, work: Path, seed: int, ranks: Ranks
) -> Mapping[str, float]:
    """The rates on the validation prompts; only the world has a judge of them."""
    asked = validation_prompts(cfg.evaluation.validation, cfg.evaluation.prompts, seed=cfg.data.seed)
    loaded = load_language_model(source, "auto", device(), template)
    return rates(asked, answer(loaded, asked, cfg.sampling, seed, work, ranks))[VALIDATION]


def _keep(folder: Path, to: Path) -> None:
    for part in ("policy", "reward"):
        if (folder / part).is_dir():
            shutil.copytree(folder / part, to / part, copy_function=link_or_copy)
