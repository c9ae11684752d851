"""Stage best_of_n: how safe and useful the best of n samples is, for every scorer that may pick it.

Every evaluation prompt is answered as often as the largest n, once for all scorers. The best of a smaller n is the mean
over all subsets of that size, in closed form (maths/selection.py), so that every n is measured on the same answers. An
answer that was cut off is picked only where there is no other. The world's answers are judged by its oracle, all others
by the judges of the settings, as in stage evaluate.
"""

import json
from math import isnan
from typing import get_args

import numpy as np
import pyarrow as pa

from alignment.data.columns import readable
from alignment.evaluation.answers import Asked, as_question, evaluation_prompts
from alignment.evaluation.judging import VERDICT_FIELDS, asked_judges, calibrated, is_judged, judged, verdict_columns
from alignment.evaluation.picks import harm_scores, picked_by, rates_of_picks, scores_of_picks
from alignment.evaluation.prompts import all_prompts, asks, heldout_prompts
from alignment.evaluation.vocabulary import WORLD_RATES
from alignment.inputs.job import Job
from alignment.inputs.pairs import given_pairs
from alignment.judges.choice import JUDGES, load_judge
from alignment.judges.verdicts import Verdict
from alignment.judges.world_oracle import OracleJudge
from alignment.maths.selection import best_of
from alignment.maths.statistics import prompt_interval
from alignment.models.devices import device
from alignment.models.load import Loaded, load_language_model
from alignment.models.own_decoding import with_own_decoding
from alignment.models.source import model_source, named
from alignment.policies.ranking import score_samples
from alignment.runs import artifacts
from alignment.runs.manifest import Rows
from alignment.sampling.candidates import Question, Scored, question, sample_answers
from alignment.sampling.generate import Sample
from alignment.types import Picker, Scorer, StageFailed

SAMPLE_COLUMNS = [  # those of the world's oracle stand between what was asked and the scores
    ("set", pa.string()), ("id", pa.string()), ("harmful", pa.bool_()), ("prompt", pa.string()),
    ("sample", pa.int32()), ("text", pa.string()), ("thoughts", pa.string()), ("finished", pa.bool_()),
]  # fmt: skip
ORACLE_COLUMNS = [("severity", pa.int8()), ("helpfulness", pa.int8()), ("refusal", pa.string())]
VERDICT_COLUMNS = pa.schema(
    [("set", pa.string()), ("id", pa.string()), ("asks", pa.string()), ("sample", pa.int32()), *VERDICT_FIELDS]
)


def run(job: Job) -> Rows:
    cfg, ranks, count = job.cfg, job.ranks, max(job.cfg.best_of_n.counts)
    world = cfg.data.name == "world"
    source = model_source(cfg.model)
    loaded = load_language_model(source, device())
    sampling = with_own_decoding(cfg.sampling, source, ranks.say)
    asked, questions, set_aside = _of_world(job, loaded, sampling) if world else _of_data(job, loaded, sampling)
    samples = sample_answers(loaded, questions, sampling, cfg.seed, count, job.work / "samples", ranks)
    scored = {
        scorer: score_samples(scorer, job, loaded, questions, samples, job.work / scorer)
        for scorer in get_args(Picker)  # hybrid comes first: it reads the policy, whose place a reward model takes
        if scorer in cfg.best_of_n.scorers and (world or scorer != "judge")
    }
    loaded = None  # judges may be large
    total = sum(map(len, samples))
    unfinished = sum(not sample.finished for answers in samples for sample in answers) / total
    ranks.say(f"  {count} samples for each of {len(asked)} prompts, {unfinished:.1%} of them cut off")
    if thoughts := sum(bool(sample.thoughts) for answers in samples for sample in answers):
        ranks.say(f"  {thoughts} of them begin with thoughts, which are kept and not judged")
    summary = {"prompts": len(asked), "samples": total, "unfinished_share": unfinished}
    judge = _judged_by_the_oracle if world else _judged
    judge(job, asked, samples, scored, summary)
    for scorer, scores in scored.items():
        if scores.unscored:
            ranks.say(f"  {len(scores.unscored)} samples are picked last by {scorer}, which can't read all of them")
    if world:
        return Rows(len(asked), len(asked), 0)
    return job.set_aside(set_aside, len(asked) + len(set_aside))


def _orders(job: Job, samples: list[list[Sample]], scored: dict[str, Scored]) -> dict[str, list[np.ndarray]]:
    return {name: picked_by(samples, scores, job.cfg.build_pairs.unfinished) for name, scores in scored.items()}


def _sample_rows(asked: list[Asked], samples: list[list[Sample]], scored: dict[str, Scored]) -> list[list[dict]]:
    """By prompt the rows of samples.parquet, without what an oracle says."""
    scores = {scorer: of_scorer.scores for scorer, of_scorer in scored.items()}
    return [
        [
            {
                "set": prompt.set, "id": prompt.id, "harmful": prompt.harmful,
                "prompt": prompt.prompt if isinstance(prompt.prompt, str) else json.dumps(prompt.prompt),
                "sample": number, **vars(sample),
                **{name: None if isnan(by[i][number]) else float(by[i][number]) for name, by in scores.items()},
            }
            for number, sample in enumerate(samples[i])
        ]
        for i, prompt in enumerate(asked)
    ]  # fmt: skip


# ---- the embedded world ---------------------------------------------------------------------------------------------


def _of_world(job: Job, loaded: Loaded, sampling: dict) -> tuple[list[Asked], list[Question], list[dict]]:
    asked = evaluation_prompts(job.cfg.evaluation.prompts, seed=job.cfg.data.seed)
    return asked, [as_question(loaded, prompt, sampling) for prompt in asked], []


def _judged_by_the_oracle(
    job: Job, asked: list[Asked], samples: list[list[Sample]], scored: dict[str, Scored], summary: dict
) -> None:
    if not job.ranks.main:
        return
    oracle, order = OracleJudge(), _orders(job, samples, scored)
    verdicts = [
        oracle([prompt.messages] * len(answers), [sample.text for sample in answers])
        for prompt, answers in zip(asked, samples, strict=True)
    ]
    counts = job.cfg.best_of_n.counts
    rates = {scorer: {str(n): _world_rates(asked, verdicts, order[scorer], n) for n in counts} for scorer in scored}
    artifacts.write_json(job.out / job.run.best_of_n.name, {**summary, "best_of_n": rates})
    rows = [
        {**row, **{column: getattr(verdict, column) for column, _ in ORACLE_COLUMNS}}
        for of_prompt, own in zip(_sample_rows(asked, samples, scored), verdicts, strict=True)
        for row, verdict in zip(of_prompt, own, strict=True)
    ]
    scorers = dict.fromkeys([*get_args(Scorer), *scored])
    columns = [*SAMPLE_COLUMNS, *ORACLE_COLUMNS, *((scorer, pa.float64()) for scorer in scorers)]
    artifacts.write_rows(job.out / job.run.best_of_n_samples.name, rows, pa.schema(columns))


def _world_rates(asked: list[Asked], verdicts: list[list[Verdict]], order: list[np.ndarray], n: int) -> dict:
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


# ---- any other data -------------------------------------------------------------------------------------------------


def _of_data(job: Job, loaded: Loaded, sampling: dict) -> tuple[list[Asked], list[Question], list[dict]]:
    """The prompts of evaluation.sets that the model has room to answer; and which can't be asked, and why."""
    cfg = job.cfg
    count, seed = cfg.evaluation.prompts, cfg.data.seed

    def own() -> list[Asked]:
        return heldout_prompts(given_pairs(cfg, job.run, job.ranks)[1].rows, count, seed=seed)

    prompts, set_aside = all_prompts(cfg.evaluation.sets, cfg.evaluation.folder, count, seed, own)
    fitting = list(
        readable(
            prompts,
            lambda prompt: question(loaded, prompt.id, prompt.messages, sampling["max_new_tokens"]),
            lambda prompt, why: set_aside.append({"source": f"prompt {prompt.id}", "line": None, "reason": why}),
        )
    )
    if not fitting:
        why = set_aside[-1]["reason"] if set_aside else "there is none"
        raise StageFailed("evaluation.sets", f"no prompt can be answered: {why}", "lower sampling.max_new_tokens")
    return [prompt for prompt, _ in fitting], [asking for _, asking in fitting], set_aside


def _judged(
    job: Job, asked: list[Asked], samples: list[list[Sample]], scored: dict[str, Scored], summary: dict
) -> None:
    cfg, ranks = job.cfg, job.ranks
    names = asked_judges(cfg)
    _, health = calibrated(cfg.judge, names, cfg.seed, job.run, ranks, is_judged(cfg))
    verdicts: dict[str, list[list[Verdict]]] = {}
    records: dict[str, dict] = {}
    for name in names:
        verdicts[name], record = _verdicts_of(job, name, asked, samples)
        records[name] = {**record, **({"health": health[name]} if name in health else {})}
    says = {name: JUDGES[name].says for name in names}
    of_harm = [name for name in names if "toxic" in says[name]]
    if not of_harm:
        ranks.say("  no judge of harm: only refusals were judged, and nothing here says how safe the picks are")
    if "judge" in cfg.best_of_n.scorers:
        scored["judge"] = Scored(harm_scores(verdicts[of_harm[0]]), [])
    if not ranks.main:
        return
    order, counts = _orders(job, samples, scored), list(cfg.best_of_n.counts)
    found = {
        **summary,
        "model": named(model_source(cfg.model)),
        "judges": records,
        "harm_judged": bool(of_harm),
        "numbers": rates_of_picks(asked, samples, verdicts, says, order, counts, records),
        "scores": scores_of_picks(order, scored, max(counts)),
    }
    artifacts.write_json(job.out / job.run.best_of_n.name, found)
    rows = [row for of_prompt in _sample_rows(asked, samples, scored) for row in of_prompt]
    columns = pa.schema([*SAMPLE_COLUMNS, *((scorer, pa.float64()) for scorer in scored)])
    artifacts.write_rows(job.out / job.run.best_of_n_samples.name, rows, columns)
    verdict_rows = [
        {"set": prompt.set, "id": prompt.id, "asks": asks(prompt), "sample": number, **verdict_columns(name, verdict)}
        for name, of_judge in verdicts.items()
        for prompt, of_prompt in zip(asked, of_judge, strict=True)
        for number, verdict in enumerate(of_prompt)
    ]
    artifacts.write_rows(job.out / job.run.best_of_n_verdicts.name, verdict_rows, VERDICT_COLUMNS)


def _verdicts_of(
    job: Job, name: str, asked: list[Asked], samples: list[list[Sample]]
) -> tuple[list[list[Verdict]], dict]:
    """One judge's verdicts on every prompt's samples, and its record. It is in memory here alone."""
    judge = load_judge(name, job.cfg.judge.get(name) or {"name": name})
    prompts = [prompt.messages for prompt, own in zip(asked, samples, strict=True) for _ in own]
    texts = [sample.text for own in samples for sample in own]
    verdicts, counts = judged(judge, prompts, texts, job.work / "verdicts" / name, job.ranks)
    unparsed = sum(verdict.unparsed for verdict in verdicts)
    unread = f"; {unparsed} verdicts can't be read" if unparsed else ""
    job.ranks.say(f"  {name} judged {len(verdicts)} answers{unread}")
    each = iter(verdicts)
    of_prompts = [[next(each) for _ in own] for own in samples]
    return of_prompts, {**judge.record, **({"counts": dict(sorted(counts.items()))} if counts else {})}
