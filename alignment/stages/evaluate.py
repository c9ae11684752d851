"""Stage evaluate: what every system answers to prompts no policy was trained on, and what every judge says of that.

A system gives one sampled answer to each prompt with each seed; `rs_star` gives the best of `sampling.n` by the hybrid
reward of the base model. All systems see the same prompts with the same noise. All answers and verdicts are kept, and
where they are asked for the answers to multiple choice and the scores of pairs: evaluation/scorecard.py counts them.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from omegaconf import DictConfig

from alignment.data.columns import readable, text_message
from alignment.evaluation.abilities import Abilities
from alignment.evaluation.answers import Asked, best_answers, evaluation_prompts, first_answers, rates
from alignment.evaluation.comparing import COMPARISON_COLUMNS, comparison_record, comparison_rows
from alignment.evaluation.gates import require_measured
from alignment.evaluation.judging import (
    VERDICT_FIELDS,
    asked_judges,
    calibrated,
    is_judged,
    judged,
    judges_of,
    verdict_columns,
)
from alignment.evaluation.prompts import all_prompts, asks, heldout_prompts
from alignment.evaluation.usefulness import USEFULNESS_COLUMNS, usefulness_record, usefulness_rows
from alignment.evaluation.vocabulary import HARMLESS, measurable
from alignment.inputs.job import Job
from alignment.inputs.pairs import given_pairs
from alignment.judges.api import ApiJudge
from alignment.judges.choice import JUDGES, load_judge
from alignment.judges.verdicts import Verdict
from alignment.models.devices import device
from alignment.models.hybrid_reward import HybridReward
from alignment.models.load import load_language_model
from alignment.models.own_decoding import with_own_decoding
from alignment.models.packing import Packing
from alignment.models.source import ModelSource, model_source, named, source_at
from alignment.policies.systems import SYSTEMS, evaluated, is_prompted
from alignment.runs import artifacts
from alignment.runs.manifest import Rows
from alignment.sampling.candidates import question
from alignment.sampling.generate import Sample
from alignment.types import StageFailed
from alignment.world.grammar import EVALUATION_SETS

ANSWER_COLUMNS = pa.schema(
    [
        ("system", pa.string()), ("seed", pa.int64()), ("set", pa.string()), ("id", pa.string()),
        ("harmful", pa.bool_()), ("asks", pa.string()), ("category", pa.string()), ("prompt", pa.string()),
        ("answer", pa.string()), ("thoughts", pa.string()), ("unfinished", pa.bool_()),
        ("words", pa.int64()), ("reward", pa.float64()),
    ]
)  # fmt: skip
VERDICT_COLUMNS = pa.schema(
    [
        ("system", pa.string()), ("seed", pa.int64()), ("set", pa.string()), ("id", pa.string()),
        ("asks", pa.string()), ("prompt_category", pa.string()), *VERDICT_FIELDS,
    ]
)  # fmt: skip
NOT_OF_AN_ANSWER = ("name", "n", "batch_tokens")  # settings of sampling that don't say how one answer is drawn


def run(job: Job) -> Rows:
    cfg, ranks = job.cfg, job.ranks
    asked, set_aside = _prompts(job)
    _check(cfg, asked)
    abilities = Abilities(
        cfg.scorecard, cfg.evaluation.folder, cfg.data.seed, Packing(**cfg.packing), cfg.sampling.batch_tokens,
        job.work, ranks,
    )  # fmt: skip
    _, health = calibrated(cfg.judge, asked_judges(cfg), cfg.seed, job.run, ranks, is_judged(cfg))
    rows: list[dict] = []
    unfit: dict[str, str] = {}  # prompts that a system has no room for
    world_rates: dict[str, list[dict]] = {}
    for system in evaluated(cfg):
        for seed in cfg.policy.seeds:
            answers = _answers(job, system, seed, asked, unfit)
            rows += [_row(system, seed, prompt, sample) for prompt, sample in answers]
            of_world = [(prompt, sample.text) for prompt, sample in answers if _is_worlds(cfg, prompt)]
            if system in SYSTEMS and of_world:
                prompts, texts = map(list, zip(*of_world, strict=True))
                world_rates.setdefault(system, []).append(rates(prompts, texts))
        if abilities.of_models:
            seed = cfg.policy.seeds[0]
            abilities.measure(system, seed, load_language_model(_source(job, system, seed), device()))
    if thoughts := sum(bool(row["thoughts"]) for row in rows):
        ranks.say(f"  {thoughts} of {len(rows)} answers begin with thoughts, which are kept and not judged")
    by_id = {(prompt.set, prompt.id): prompt for prompt in asked}
    abilities.score(rows, by_id)
    useful, read_by, abilities.left_out["usefulness"] = _usefulness(job, rows, by_id)
    verdicts, records, compared = _verdicts(job, rows, by_id)
    for name, judge_health in health.items():
        records[name]["health"] = judge_health
    set_aside += [{"source": f"prompt {name}", "line": None, "reason": why} for name, why in unfit.items()]
    if ranks.main:
        artifacts.write_rows(job.out / job.run.answers.name, rows, ANSWER_COLUMNS)
        artifacts.write_rows(job.out / job.run.verdicts.name, verdicts, VERDICT_COLUMNS)
        abilities.write(job.run, job.out)
        if useful:
            artifacts.write_rows(job.out / job.run.usefulness.name, useful, USEFULNESS_COLUMNS)
        if compared:
            read_by["pairwise"] = comparison_record(compared)
            artifacts.write_rows(job.out / job.run.comparisons.name, compared, COMPARISON_COLUMNS)
        artifacts.write_json(job.out / job.run.evaluation.name, world_rates)
        record = _record(job, asked, unfit, records, {**abilities.decoding, **read_by}, abilities.left_out)
        artifacts.write_json(job.out / job.run.evaluation_record.name, record)
    return job.set_aside(set_aside, len(asked) - len(unfit) + len(set_aside))


# ---- what is asked --------------------------------------------------------------------------------------------------


def _prompts(job: Job) -> tuple[list[Asked], list[dict]]:
    cfg, count, seed = job.cfg, job.cfg.evaluation.prompts, job.cfg.data.seed

    def own() -> list[Asked]:
        if cfg.data.name == "world":
            return evaluation_prompts(count, seed=seed)
        return heldout_prompts(given_pairs(cfg, job.run, job.ranks)[1].rows, count, seed=seed)

    return all_prompts(cfg.evaluation.sets, cfg.evaluation.folder, count, seed, own)


def _is_worlds(cfg: DictConfig, prompt: Asked) -> bool:
    """Is it one of the embedded world's own, which the oracle can judge?"""
    return cfg.data.name == "world" and prompt.set in EVALUATION_SETS


def _check(cfg: DictConfig, asked: list[Asked]) -> None:
    """Refuses gates on what these prompts and judges will not measure, before anything expensive."""
    judges = {name: JUDGES[name].says for prompt in asked for name in judges_of(cfg.judge, _is_worlds(cfg, prompt))}
    measured = measurable(cfg.scorecard, judges, {asks(prompt) for prompt in asked})
    sets = ", ".join(dict.fromkeys(prompt.set for prompt in asked))
    why = f"judge: {', '.join(judges)}; sets: {sets}"
    require_measured(cfg.scorecard.gate, measured, len(evaluated(cfg)) > 1, why)


# ---- what is answered -----------------------------------------------------------------------------------------------


def _source(job: Job, system: str, seed: int) -> ModelSource:
    """The model that answers as this system."""
    source = model_source(job.cfg.model)
    if system == "after":
        after = source_at(job.cfg.scorecard.after, "scorecard.after")
        return replace(source, path=after.path, revision=after.revision, fingerprint=after.fingerprint)
    if system in SYSTEMS and SYSTEMS[system].stage is not None:
        return replace(source, path=str(job.run.policy(SYSTEMS[system].stage, system, seed)), revision=None)
    return source


def _sampling(job: Job) -> dict[str, Any]:
    """How every system's answers are sampled: where it is left open, as the model says that they are compared with."""
    return with_own_decoding(job.cfg.sampling, model_source(job.cfg.model), job.ranks.say)


def _answers(job: Job, system: str, seed: int, asked: list[Asked], unfit: dict[str, str]) -> list[tuple[Asked, Sample]]:
    """The prompts that the system's model has room to answer, and its answers; others go into `unfit`. The model is in
    memory here alone, so that there is room for the next one."""
    cfg, sampling = job.cfg, _sampling(job)
    loaded = load_language_model(_source(job, system, seed), device())
    above = text_message("system", cfg.evaluation.system_prompt) if is_prompted(system) else []
    fitting = list(
        readable(
            asked,
            lambda prompt: question(loaded, prompt.id, above + prompt.messages, sampling["max_new_tokens"]),
            lambda prompt, why: unfit.setdefault(prompt.id, f"not answered by {system}: {why}"),
        )
    )
    if not fitting:
        raise StageFailed(system, next(iter(unfit.values())), "lower sampling.max_new_tokens")
    questions, what = [asking for _, asking in fitting], f"answers of {system}, seed {seed}"
    work = job.work / "answers" / f"{system}-{seed}"
    if system == "rs_star":
        reward, packing = HybridReward.load(job.run.hybrid_reward), Packing(**cfg.packing)
        samples = best_answers(loaded, reward, questions, sampling, packing, seed, work, job.ranks, what)
    else:
        samples = first_answers(loaded, questions, sampling, seed, work, job.ranks, what)
    return [(prompt, sample) for (prompt, _), sample in zip(fitting, samples, strict=True)]


def _row(system: str, seed: int, asked: Asked, sample: Sample) -> dict:
    prompt = asked.prompt if isinstance(asked.prompt, str) else json.dumps(asked.prompt, ensure_ascii=False)
    return {
        "system": system, "seed": seed, **vars(asked), "asks": asks(asked), "prompt": prompt, "answer": sample.text,
        "thoughts": sample.thoughts, "unfinished": not sample.finished, "words": len(sample.text.split()),
        "reward": None,
    }  # fmt: skip


# ---- how useful it is -----------------------------------------------------------------------------------------------


def _harmless(cfg: DictConfig, rows: list[dict], by_id: dict[tuple[str, str], Asked]) -> list[dict]:
    """Answers to harmless prompts on real text; of the world's prompts the oracle knows how helpful an answer is."""
    return [row for row in rows if row["asks"] == HARMLESS and not _is_worlds(cfg, by_id[row["set"], row["id"]])]


def _usefulness(
    job: Job, rows: list[dict], by_id: dict[tuple[str, str], Asked]
) -> tuple[list[dict], dict[str, dict], list[str]]:
    """The usefulness of answers by the model that the run begins with, what it was read by, and what can't be read."""
    cfg, source = job.cfg, model_source(job.cfg.model)
    answers = _harmless(cfg, rows, by_id)
    if not cfg.scorecard.usefulness or not answers:
        return [], {}, []
    if source.path == "world":
        job.ranks.say("  usefulness isn't measured: the world's model reads the world's language alone")
        return [], {}, []
    prompts = [by_id[row["set"], row["id"]].messages for row in answers]
    settings = Packing(**cfg.packing), cfg.sampling.batch_tokens, job.work / "usefulness", job.ranks
    useful, unread = usefulness_rows(load_language_model(source, device()), answers, prompts, *settings)
    return useful, {"usefulness": usefulness_record(named(source))}, unread


# ---- what judges say ------------------------------------------------------------------------------------------------


def _verdicts(
    job: Job, rows: list[dict], by_id: dict[tuple[str, str], Asked]
) -> tuple[list[dict], dict[str, dict], list[dict]]:
    """Every judge's verdict on every answer that it can judge, as rows; what each judge is, and what it counted; and
    which of two answers is more useful, as rows."""
    cfg = job.cfg
    compared: list[dict] = []
    verdict_rows: list[dict] = []
    records: dict[str, dict] = {}
    for name in asked_judges(cfg):
        answers = [row for row in rows if name in judges_of(cfg.judge, _is_worlds(cfg, by_id[row["set"], row["id"]]))]
        verdicts, records[name], comparisons = _verdicts_of(job, name, answers, by_id)
        compared += comparisons
        for row, verdict in zip(answers, verdicts, strict=True):
            answer = {key: row[key] for key in ("system", "seed", "set", "id", "asks")}
            verdict_rows.append({**answer, "prompt_category": row["category"], **verdict_columns(name, verdict)})
        unparsed = sum(verdict.unparsed for verdict in verdicts)
        unread = f"; {unparsed} verdicts can't be read" if unparsed else ""
        job.ranks.say(f"  {name} judged {len(verdicts)} answers{unread}")
    return verdict_rows, records, compared


def _verdicts_of(
    job: Job, name: str, rows: list[dict], by_id: dict[tuple[str, str], Asked]
) -> tuple[list[Verdict], dict, list[dict]]:
    """One judge's verdicts, its record, and its comparisons of two systems' answers, if it is asked for some. The judge
    is in memory here alone: guards are large."""
    judge = load_judge(name, job.cfg.judge.get(name) or {"name": name})
    prompts = [by_id[row["set"], row["id"]].messages for row in rows]
    work = job.work / "verdicts" / name
    verdicts, counts = judged(judge, prompts, [row["answer"] for row in rows], work, job.ranks)
    record = {**judge.record, **({"counts": dict(sorted(counts.items()))} if counts else {})}
    compared = _comparisons(job, judge, rows, by_id) if name == "api" and job.cfg.scorecard.pairwise else []
    return verdicts, record, compared


def _comparisons(job: Job, judge: ApiJudge, rows: list[dict], by_id: dict[tuple[str, str], Asked]) -> list[dict]:
    """By the service that judged refusals, whose budget holds for both."""
    answers = _harmless(job.cfg, rows, by_id)
    if not answers:
        job.ranks.say("  no answers are compared: none is to a harmless prompt of real text")
        return []
    prompts = [by_id[row["set"], row["id"]].messages for row in answers]
    return comparison_rows(judge.name, judge.service, answers, prompts)


# ---- the record ------------------------------------------------------------------------------------------------------


def _record(
    job: Job, asked: list[Asked], unfit: dict[str, str], judges: dict[str, dict], decoding: dict, left_out: dict
) -> dict:
    """What was asked of whom and how: all that a number depends on beside the rows."""
    cfg, root = job.cfg, job.run.root
    systems = []
    for name in evaluated(cfg):
        source = _source(job, name, cfg.policy.seeds[0])
        own = Path(source.path).is_relative_to(root)  # its scorecard is read where this machine's folders are not
        systems.append({"name": name, "model": str(Path(source.path).relative_to(root)) if own else named(source)})
    sets: dict[str, dict] = {}
    for prompt in asked:
        counts = sets.setdefault(prompt.set, {"harmful": 0, "harmless": 0, "unknown": 0, "not_answered": 0})
        counts[asks(prompt)] += 1
        counts["not_answered"] += prompt.id in unfit
    sampled = {
        **{key: value for key, value in _sampling(job).items() if key not in NOT_OF_AN_ANSWER},
        "seeds": list(cfg.policy.seeds),
        **{key: cfg.model[key] for key in ("chat_template", "thinking", "dtype")},
    }
    return {
        "systems": systems,
        "judges": judges,
        "sets": sets,
        "decoding": {"sampled": sampled, **decoding},
        "left_out": left_out,
    }
