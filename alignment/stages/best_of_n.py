"""Stage best_of_n: how safe and useful the best of n samples is, for every scorer that may pick it.

Every evaluation prompt is answered as often as the largest n, once for all scorers. The best of a smaller n is the mean
over all subsets of that size, in closed form (maths/selection.py), so that every n is measured on the same answers. An
answer that was cut off is picked only where there is no other.
"""

from math import isnan
from typing import get_args

import numpy as np
import pyarrow as pa

from alignment.evaluation.answers import Asked, as_question, evaluation_prompts
from alignment.evaluation.vocabulary import WORLD_RATES
from alignment.inputs.job import Job
from alignment.judges.verdicts import Verdict
from alignment.judges.world_oracle import OracleJudge
from alignment.maths.selection import best_of
from alignment.maths.statistics import prompt_interval
from alignment.models.devices import device
from alignment.models.load import load_language_model
from alignment.models.own_decoding import with_own_decoding
from alignment.models.source import model_source
from alignment.policies.ranking import score_samples
from alignment.runs import artifacts
from alignment.runs.manifest import Rows
from alignment.sampling.candidates import Scored, sample_answers, usable
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


def run(job: Job) -> Rows:
    cfg, ranks, count = job.cfg, job.ranks, max(job.cfg.best_of_n.counts)
    loaded = load_language_model(model_source(cfg.model), device())
    asked = evaluation_prompts(cfg.evaluation.prompts, seed=cfg.data.seed)
    sampling = with_own_decoding(cfg.sampling, model_source(cfg.model), ranks.say)
    questions = [as_question(loaded, prompt, sampling) for prompt in asked]
    samples = sample_answers(loaded, questions, sampling, cfg.seed, count, job.work / "samples", ranks)
    scored = {
        scorer: score_samples(scorer, job, loaded, questions, samples, job.work / scorer)
        for scorer in get_args(Scorer)  # hybrid comes first: it reads the policy, whose place a reward model takes
        if scorer in cfg.best_of_n.scorers
    }
    if not ranks.main:
        return Rows(len(asked), len(asked), 0)
    oracle, total = OracleJudge(), count * len(asked)
    verdicts = [
        oracle([prompt.messages] * count, [sample.text for sample in answers])
        for prompt, answers in zip(asked, samples, strict=True)
    ]
    unfinished = sum(not sample.finished for answers in samples for sample in answers) / total
    ranks.say(f"  {count} samples for each of {len(asked)} prompts, {unfinished:.1%} of them cut off")
    if thoughts := sum(bool(sample.thoughts) for answers in samples for sample in answers):
        ranks.say(f"  {thoughts} of them begin with thoughts, which are kept and not judged")
    rates: dict[str, dict[str, dict]] = {}
    for scorer, scores in scored.items():
        order = _order(samples, scores, cfg.build_pairs.unfinished)
        rates[scorer] = {str(n): _rates(asked, verdicts, order, n) for n in cfg.best_of_n.counts}
        if scores.unscored:
            ranks.say(f"  {len(scores.unscored)} samples are picked last by {scorer}, which can't read all of them")
    summary = {"prompts": len(asked), "samples": total, "unfinished_share": unfinished, "best_of_n": rates}
    artifacts.write_json(job.out / job.run.best_of_n.name, summary)
    rows = _sample_rows(asked, samples, verdicts, scored)
    artifacts.write_rows(job.out / job.run.best_of_n_samples.name, rows, SAMPLE_COLUMNS)
    return Rows(len(asked), len(asked), 0)


def _order(samples: list[list[Sample]], scored: Scored, unfinished: bool) -> list[np.ndarray]:
    """What samples are picked by: their scores. A sample that can't be used, or has no score, comes last."""
    return [
        np.where([usable(sample, unfinished) for sample in answers] & ~np.isnan(scores), scores, -np.inf)
        for answers, scores in zip(samples, scored.scores, strict=True)
    ]


def _rates(asked: list[Asked], verdicts: list[list[Verdict]], order: list[np.ndarray], n: int) -> dict:
    """Every rate of the best of n, with a 95% interval over prompts."""
    rates: dict = {"ci95": {}, "prompts": {}}
    for name, metric in WORLD_RATES.items():
        shares = [
            best_of(scores, np.array([float(metric.counts(verdict)) for verdict in of_prompt]), n)
            for prompt, of_prompt, scores in zip(asked, verdicts, order, strict=True)
            if metric.is_of(prompt.harmful)
        ]
        random = np.random.default_rng(0)
        interval = prompt_interval(np.array(shares), np.arange(len(shares)), random, (0.0, 1.0))
        rates[name], rates["ci95"][name] = interval.summary.values()
        rates["prompts"][name] = len(shares)
    return rates


def _sample_rows(
    asked: list[Asked], samples: list[list[Sample]], verdicts: list[list[Verdict]], scored: dict[str, Scored]
) -> list[dict]:
    scores = {scorer: of_scorer.scores for scorer, of_scorer in scored.items()}
    return [
        {
            "set": prompt.set, "id": prompt.id, "harmful": prompt.harmful, "prompt": prompt.prompt, "sample": number,
            **vars(sample), "severity": verdict.severity, "helpfulness": verdict.helpfulness,
            "refusal": verdict.refusal,
            **{name: None if isnan(by[i][number]) else float(by[i][number]) for name, by in scores.items()},
        }
        for i, prompt in enumerate(asked)
        for number, (sample, verdict) in enumerate(zip(samples[i], verdicts[i], strict=True))
    ]  # fmt: skip
