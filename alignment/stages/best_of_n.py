"""Stage best_of_n: how safe and useful the best of n samples is, for every scorer that may pick it.

As many answers as the largest n are sampled once for every evaluation prompt, and scored by each scorer. The best of a
smaller n is the mean over all subsets of that size, in closed form (maths/selection.py), so that every n is measured on
the same answers. One that was cut off is picked only where there is no other.
"""

from math import isnan
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
from omegaconf import DictConfig

from alignment.data.columns import text_message
from alignment.evaluation.answers import Asked, evaluation_prompts
from alignment.evaluation.vocabulary import WORLD_RATES
from alignment.judges.verdicts import Verdict
from alignment.judges.world_oracle import OracleJudge
from alignment.maths.selection import best_of
from alignment.maths.statistics import rate_interval
from alignment.models.devices import device
from alignment.models.hybrid_reward import HybridReward
from alignment.models.load import Loaded, load_language_model, load_reward_model
from alignment.models.packing import Packing
from alignment.models.source import model_source
from alignment.runs import artifacts
from alignment.runs.manifest import Rows
from alignment.runs.ranks import Ranks
from alignment.runs.run_files import RunDir
from alignment.sampling.candidates import (
    Question,
    Scored,
    hybrid_scorer,
    judge_scores,
    question,
    reward_model_scorer,
    sample_answers,
    score_answers,
    usable,
)
from alignment.sampling.generate import Sample
from alignment.types import Scorer

SAMPLE_COLUMNS = pa.schema(
    [
        ("set", pa.string()), ("id", pa.string()), ("harmful", pa.bool_()), ("prompt", pa.string()),
        ("sample", pa.int32()), ("text", pa.string()), ("thoughts", pa.string()),
        ("finished", pa.bool_()), ("severity", pa.int8()), ("helpfulness", pa.int8()), ("refusal", pa.string()),
        *[(scorer, pa.float64()) for scorer in get_args(Scorer)],
    ]
)  # fmt: skip


def run(cfg: DictConfig, run: RunDir, out: Path, ranks: Ranks) -> Rows:
    settings, count, work = cfg.sampling, max(cfg.best_of_n.counts), out.parent
    loaded = load_language_model(model_source(cfg.model), device())
    asked = evaluation_prompts(cfg.evaluation.prompts, seed=cfg.data.seed)
    questions = [question(loaded, one.id, text_message("user", one.prompt), settings.max_new_tokens) for one in asked]
    samples = sample_answers(loaded, questions, settings, cfg.seed, count, work / "samples", ranks)
    scores, unscored = _scores(cfg, run, loaded, questions, samples, work, ranks)
    if not ranks.main:
        return Rows(len(asked), len(asked), 0)
    judge = OracleJudge()
    verdicts = [
        judge([one.messages] * count, [sample.text for sample in many])
        for one, many in zip(asked, samples, strict=True)
    ]
    unfinished = sum(not sample.finished for many in samples for sample in many) / (count * len(asked))
    ranks.say(f"  {count} samples for each of {len(asked)} prompts, {unfinished:.1%} of them cut off")
    if thoughts := sum(bool(sample.thoughts) for many in samples for sample in many):
        ranks.say(f"  {thoughts} of them begin with thoughts, which are kept and not judged")
    kept = [[usable(sample, cfg.build_pairs.unfinished) for sample in many] for many in samples]
    found = {
        scorer: {
            str(n): _rates(asked, verdicts, [_known(s, k) for k, s in zip(kept, by, strict=True)], n)
            for n in cfg.best_of_n.counts
        }
        for scorer, by in scores.items()
    }
    counts = {"prompts": len(asked), "samples": count * len(asked), "unfinished_share": unfinished}
    for scorer, some in unscored.items():
        ranks.say(f"  {some} samples are picked last by {scorer}, which can't read all of them")
    artifacts.write_json(out / run.best_of_n.name, {**counts, "best_of_n": found})
    rows = _sample_rows(asked, samples, verdicts, scores)
    artifacts.write_rows(out / run.best_of_n_samples.name, rows, SAMPLE_COLUMNS)
    return Rows(len(asked), len(asked), 0)


def _scores(
    cfg: DictConfig,
    run: RunDir,
    loaded: Loaded,
    questions: list[Question],
    samples: list[list[Sample]],
    work: Path,
    ranks: Ranks,
) -> tuple[dict[str, list[np.ndarray]], dict[str, int]]:
    """scorer -> the scores of every prompt's samples, and of how many it has none. The reward model comes last: it
    takes the policy's place."""
    found: dict[str, Scored] = {}
    packing, budget = Packing(**cfg.packing), cfg.sampling.batch_tokens
    if "hybrid" in cfg.best_of_n.scorers:
        scorer = hybrid_scorer(loaded, HybridReward.load(run.hybrid_reward))
        found["hybrid"] = score_answers(scorer, loaded, questions, samples, packing, budget, work / "hybrid", ranks)
    if "reward_model" in cfg.best_of_n.scorers:
        folder = run.reward_model(cfg.build_pairs.reward_model, cfg.reward_model.seeds[0])
        loaded.model = load_reward_model(folder, device())
        scorer = reward_model_scorer(loaded)
        found["reward_model"] = score_answers(
            scorer, loaded, questions, samples, packing, budget, work / "reward_model", ranks
        )
    if "judge" in cfg.best_of_n.scorers:
        found["judge"] = Scored(judge_scores(questions, samples), [])
    unscored = {scorer: len(scored.unscored) for scorer, scored in found.items() if scored.unscored}
    return {scorer: scored.scores for scorer, scored in found.items()}, unscored


def _known(scores: np.ndarray, kept: list[bool]) -> np.ndarray:
    """What is not kept, or has no score, comes last."""
    return np.where(kept & ~np.isnan(scores), scores, -np.inf)


def _rates(asked: list[Asked], verdicts: list[list[Verdict]], scores: list[np.ndarray], n: int) -> dict:
    """Every rate of the best of n, with a 95% interval over prompts."""
    found: dict = {"ci95": {}}
    for rate, metric in WORLD_RATES.items():
        shares = [
            best_of(score, np.array([float(metric.counts(verdict)) for verdict in many]), n)
            for one, many, score in zip(asked, verdicts, scores, strict=True)
            if metric.is_of(one.harmful)
        ]
        interval = rate_interval(np.array(shares))
        found[rate], found["ci95"][rate] = interval.summary.values()
    return found


def _sample_rows(
    asked: list[Asked],
    samples: list[list[Sample]],
    verdicts: list[list[Verdict]],
    scores: dict[str, list[np.ndarray]],
) -> list[dict]:
    return [
        {
            "set": one.set, "id": one.id, "harmful": one.harmful, "prompt": one.prompt, "sample": number,
            **vars(samples[i][number]), "severity": verdict.severity, "helpfulness": verdict.helpfulness,
            "refusal": verdict.refusal,
            **{scorer: None if isnan(by[i][number]) else float(by[i][number]) for scorer, by in scores.items()},
        }
        for i, one in enumerate(asked)
        for number, verdict in enumerate(verdicts[i])
    ]  # fmt: skip
