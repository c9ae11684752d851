"""How safe and useful a policy is on validation prompts, which choose the point of a grid and are never evaluated on.

The world has such prompts, and an oracle for the answers. Elsewhere they are drawn from `evaluation.validation_sets`,
and judged by the run's judge of harm, its judge of refusals, and the rule of usefulness under the untouched model.
"""

from collections.abc import Mapping
from pathlib import Path

from omegaconf import DictConfig

from alignment.data.same_prompts import prompt_text
from alignment.evaluation.answers import (
    VALIDATION,
    Asked,
    answer,
    as_question,
    first_answers,
    rates,
    validation_prompts,
)
from alignment.evaluation.judging import asked_judges, judged
from alignment.evaluation.prompts import asks, first_drawn, prompts_of
from alignment.evaluation.usefulness import usefulness_rows
from alignment.evaluation.vocabulary import HARMLESS, METRICS
from alignment.inputs.job import Job
from alignment.judges.choice import JUDGES, load_judge
from alignment.models.devices import device
from alignment.models.load import load_language_model
from alignment.models.own_decoding import with_own_decoding
from alignment.models.packing import Packing
from alignment.models.source import ModelSource, model_source
from alignment.sampling.generate import Sample
from alignment.types import StageFailed, UserError


def validate(job: Job, source: ModelSource, work: Path, name: str, seed: int) -> Mapping[str, float]:
    """How safe and useful a model's answers to the validation prompts are, by rate. name: what the bar calls it."""
    cfg = job.cfg
    sampling = with_own_decoding(cfg.sampling, model_source(cfg.model), job.ranks.say)
    asked = asked_to_validate(cfg)
    loaded = load_language_model(source, device())
    what = f"answers of {name}"
    if cfg.data.name == "world":
        return rates(asked, answer(loaded, asked, sampling, seed, work, job.ranks, what))[VALIDATION]
    questions = [as_question(loaded, prompt, sampling) for prompt in asked]
    samples = first_answers(loaded, questions, sampling, seed, work, job.ranks, what)
    del loaded  # the judges' models take its place
    return _rates(job, asked, samples, work, seed)


def asked_to_validate(cfg: DictConfig) -> list[Asked]:
    """The world's own prompts, or `evaluation.validation` of each set that is named, none of which is evaluated on."""
    settings, seed = cfg.evaluation, cfg.data.seed
    if cfg.data.name == "world":
        return validation_prompts(settings.validation, settings.prompts, seed=seed)
    evaluated = [name for name in settings.sets or [] if name != "data"]
    taken = {
        prompt_text(prompt.messages)
        for name in evaluated
        for prompt in prompts_of(name, settings.folder, settings.prompts, seed=seed)[0]
    }
    drawn: list[Asked] = []
    for name in settings.validation_sets:
        free = [
            prompt
            for prompt in prompts_of(name, settings.folder, settings.prompts + settings.validation, seed=seed)[0]
            if prompt_text(prompt.messages) not in taken
        ]
        drawn += first_drawn(free, settings.validation, seed)
    return drawn


def require_kinds(asked: list[Asked]) -> None:
    """UserError where validation prompts can't tell a safer policy from one that refuses all."""
    kinds = {asks(prompt) for prompt in asked}
    for kind in ("harmless", "harmful"):
        if kind not in kinds:
            problem = f"none of its prompts is {kind}"
            raise UserError("evaluation.validation_sets", problem, "name both kinds, as [advbench,alpaca_eval]")


def _rates(job: Job, asked: list[Asked], samples: list[Sample], work: Path, seed: int) -> dict[str, float]:
    """The rates that `preference` reads: each the share of what could be read of it."""
    cfg, prompts = job.cfg, [prompt.messages for prompt in asked]
    said: dict[str, list[bool | None]] = {}
    for rate in ("toxic_rate", "over_refusal"):
        metric = METRICS[rate]
        judge_name = next(name for name in asked_judges(cfg) if metric.needs in JUDGES[name].says)
        judge = load_judge(judge_name, cfg.judge.get(judge_name) or {"name": judge_name})
        texts = [sample.text for sample in samples]
        verdicts, _ = judged(judge, prompts, texts, work / "verdicts" / judge_name, job.ranks)
        said[rate] = [None if v.unparsed else metric.counts(v) for v in verdicts]
    rows = [
        {"system": "", "seed": seed, "set": p.set, "id": p.id, "asks": asks(p), "answer": s.text,
         "unfinished": not s.finished}
        for p, s in zip(asked, samples, strict=True)
    ]  # fmt: skip
    harmless = [i for i, prompt in enumerate(asked) if asks(prompt) == HARMLESS]
    untouched = load_language_model(model_source(cfg.model), device())
    settings = Packing(**cfg.packing), cfg.sampling.batch_tokens, work / "usefulness", job.ranks
    read, _ = usefulness_rows(untouched, [rows[i] for i in harmless], [prompts[i] for i in harmless], *settings)
    said["useful_rate"] = [None] * len(asked)
    for i, row in zip(harmless, read, strict=True):
        said["useful_rate"][i] = row["useful"]
    return {rate: _share(rate, asked, values) for rate, values in said.items()}


def _share(rate: str, asked: list[Asked], values: list[bool | None]) -> float:
    counted = [
        value
        for prompt, value in zip(asked, values, strict=True)
        if asks(prompt) in METRICS[rate].asks and value is not None
    ]
    if not counted:
        raise StageFailed("evaluation.validation_sets", f"no answer can be judged by {rate}", "give more prompts")
    return sum(counted) / len(counted)
