"""Stage evaluate: what every system answers to prompts no policy was trained on, and what every judge says of that.

One sampled answer a prompt and seed; `rs_star` takes the best of `sampling.n` by the hybrid reward of the base model.
Every system sees the same prompts with the same noise. All answers and verdicts are kept, and the answers to multiple
choice and the scores of pairs where those are asked for: evaluation/scorecard.py counts them.
"""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
from omegaconf import DictConfig, OmegaConf

from alignment.data.columns import readable
from alignment.evaluation.abilities import Abilities
from alignment.evaluation.answers import Asked, best_answers, evaluation_prompts, first_answers, rates
from alignment.evaluation.gates import require_measured
from alignment.evaluation.judging import asked_judges, calibrated, judged, judges_of, verdict_columns
from alignment.evaluation.prompts import DATA, asks, heldout_prompts, prompts_of
from alignment.evaluation.vocabulary import measurable
from alignment.inputs.pairs import given_pairs
from alignment.judges.choice import JUDGES, load_judge
from alignment.judges.verdicts import Verdict
from alignment.models.devices import device
from alignment.models.hybrid_reward import HybridReward
from alignment.models.load import Loaded, load_language_model
from alignment.models.packing import Packing
from alignment.models.source import ModelSource, model_source, source_at
from alignment.policies.systems import SYSTEMS, evaluated
from alignment.runs import artifacts
from alignment.runs.manifest import Rows
from alignment.runs.ranks import Ranks
from alignment.runs.run_files import QUARANTINE, RunDir
from alignment.sampling.candidates import question
from alignment.sampling.generate import Sample
from alignment.types import StageFailed

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
        ("asks", pa.string()), ("prompt_category", pa.string()), ("judge", pa.string()), ("verdict", pa.string()),
        ("category", pa.string()), ("score", pa.float64()), ("reason", pa.string()), ("toxic", pa.bool_()),
        ("refusal", pa.string()), ("severity", pa.int64()), ("helpfulness", pa.int64()), ("refused", pa.bool_()),
        ("helpful", pa.bool_()), ("unparsed", pa.bool_()),
    ]
)  # fmt: skip
NOT_OF_AN_ANSWER = ("name", "n", "batch_tokens")  # settings of sampling that don't say how one answer is drawn


def run(cfg: DictConfig, run: RunDir, out: Path, ranks: Ranks) -> Rows:
    asked, set_aside = _prompts(cfg, run, ranks)
    _check(cfg, asked)
    abilities = Abilities(
        cfg.scorecard, cfg.evaluation.folder, cfg.data.seed, Packing(**cfg.packing), cfg.sampling.batch_tokens,
        out.parent, ranks,
    )  # fmt: skip
    _, health = calibrated(cfg.judge, asked_judges(cfg), cfg.seed, run, ranks)
    rows: list[dict] = []
    unfit: dict[str, str] = {}  # prompts that a system has no room for
    found: dict[str, list[dict]] = {}
    for system in evaluated(cfg):
        for seed in cfg.policy.seeds:
            loaded = load_language_model(_source(cfg, run, system, seed), device())
            fits, answers = _answers(cfg, run, system, seed, loaded, asked, unfit, out.parent / "answers", ranks)
            rows += [_row(system, seed, one, sample) for one, sample in zip(fits, answers, strict=True)]
            if system in SYSTEMS and (own := [i for i, one in enumerate(fits) if _is_worlds(cfg, one)]):
                found.setdefault(system, []).append(rates([fits[i] for i in own], [answers[i].text for i in own]))
            del loaded  # before there is another
        if abilities.of_models:
            seed = cfg.policy.seeds[0]
            abilities.measure(system, seed, load_language_model(_source(cfg, run, system, seed), device()))
    if thoughts := sum(bool(row["thoughts"]) for row in rows):
        ranks.say(f"  {thoughts} of {len(rows)} answers begin with thoughts, which are kept and not judged")
    by_id = {(one.set, one.id): one for one in asked}
    abilities.score(rows, by_id)
    verdicts, records = _verdicts(cfg, rows, by_id, out.parent / "verdicts", ranks)
    for name, found_healthy in health.items():
        records[name]["health"] = found_healthy
    set_aside += [{"source": f"prompt {name}", "line": None, "reason": why} for name, why in unfit.items()]
    if ranks.main:
        artifacts.write_rows(out / run.answers.name, rows, ANSWER_COLUMNS)
        artifacts.write_rows(out / run.verdicts.name, verdicts, VERDICT_COLUMNS)
        abilities.write(run, out)
        artifacts.write_json(out / run.evaluation.name, found)
        artifacts.write_json(out / run.evaluation_record.name, _record(cfg, run, asked, unfit, records, abilities))
        artifacts.write_lines(out / QUARANTINE, set_aside)
    answered = len(asked) - len(unfit)
    return Rows(answered + len(set_aside), answered, len(set_aside))


# ---- what is asked --------------------------------------------------------------------------------------------------


def _prompts(cfg: DictConfig, run: RunDir, ranks: Ranks) -> tuple[list[Asked], list[dict]]:
    """All that is asked; and which rows of the sets can't be, and why."""
    asked: list[Asked] = []
    set_aside: list[dict] = []
    for name in cfg.evaluation.sets:
        if name != DATA:
            mine, read = prompts_of(name, cfg.evaluation.folder, cfg.evaluation.prompts, seed=cfg.data.seed)
            set_aside += read.quarantined
        elif cfg.data.name == "world":
            mine = evaluation_prompts(cfg.evaluation.prompts, seed=cfg.data.seed)
        else:
            heldout = given_pairs(cfg, run, ranks)[1].rows
            mine = heldout_prompts(heldout, cfg.evaluation.prompts, seed=cfg.data.seed)
        asked += mine
    return asked, set_aside


def _is_worlds(cfg: DictConfig, asked: Asked) -> bool:
    return cfg.data.name == "world" and asked.set not in cfg.evaluation.sets


def _check(cfg: DictConfig, asked: list[Asked]) -> None:
    """Gates on what these prompts and judges will not measure, before anything expensive."""
    judges = {name: JUDGES[name].says for one in asked for name in judges_of(cfg.judge, _is_worlds(cfg, one))}
    measured = measurable(cfg.scorecard, judges, {asks(one) for one in asked})
    sets = ", ".join(dict.fromkeys(one.set for one in asked))
    why = f"judge: {', '.join(judges)}; sets: {sets}"
    require_measured(cfg.scorecard.gate, measured, len(evaluated(cfg)) > 1, why)


# ---- what is answered -----------------------------------------------------------------------------------------------


def _source(cfg: DictConfig, run: RunDir, system: str, seed: int) -> ModelSource:
    source = model_source(cfg.model)
    if system == "after":
        after = source_at(cfg.scorecard.after, "scorecard.after")
        return replace(source, path=after.path, revision=after.revision)
    if system in SYSTEMS and SYSTEMS[system].stage is not None:
        return replace(source, path=str(run.policy(SYSTEMS[system].stage, system, seed)), revision=None)
    return source


def _answers(
    cfg: DictConfig,
    run: RunDir,
    system: str,
    seed: int,
    loaded: Loaded,
    asked: list[Asked],
    unfit: dict[str, str],
    work: Path,
    ranks: Ranks,
) -> tuple[list[Asked], list[Sample]]:
    """The prompts the model has room to answer, and its answers."""
    made = list(
        readable(
            asked,
            lambda one: question(loaded, one.id, one.messages, cfg.sampling.max_new_tokens),
            lambda one, why: unfit.setdefault(one.id, f"not answered by {system}: {why}"),
        )
    )
    fits, questions = [one for one, _ in made], [asking for _, asking in made]
    if not fits:
        raise StageFailed(system, next(iter(unfit.values())), "lower sampling.max_new_tokens")
    work = work / f"{system}-{seed}"
    if system == "rs_star":
        reward, packing = HybridReward.load(run.hybrid_reward), Packing(**cfg.packing)
        return fits, best_answers(loaded, reward, questions, cfg.sampling, packing, seed, work, ranks)
    return fits, first_answers(loaded, questions, cfg.sampling, seed, work, ranks)


def _row(system: str, seed: int, asked: Asked, sample: Sample) -> dict:
    prompt = asked.prompt if isinstance(asked.prompt, str) else json.dumps(asked.prompt, ensure_ascii=False)
    return {
        "system": system, "seed": seed, **vars(asked), "asks": asks(asked), "prompt": prompt, "answer": sample.text,
        "thoughts": sample.thoughts, "unfinished": not sample.finished, "words": len(sample.text.split()),
        "reward": None,
    }  # fmt: skip


# ---- what judges say ------------------------------------------------------------------------------------------------


def _verdicts(
    cfg: DictConfig, rows: list[dict], by_id: dict[tuple[str, str], Asked], work: Path, ranks: Ranks
) -> tuple[list[dict], dict[str, dict]]:
    """Of every judge of every answer that it can judge; and what each judge is, and counted."""
    verdicts: list[dict] = []
    records: dict[str, dict] = {}
    for name in asked_judges(cfg):
        mine = [row for row in rows if name in judges_of(cfg.judge, _is_worlds(cfg, by_id[row["set"], row["id"]]))]
        said, records[name] = _said(cfg, name, mine, by_id, work / name, ranks)
        for row, verdict in zip(mine, said, strict=True):
            of = {key: row[key] for key in ("system", "seed", "set", "id", "asks")}
            verdicts.append({**of, "prompt_category": row["category"], **verdict_columns(name, verdict)})
        unparsed = sum(verdict.unparsed for verdict in said)
        ranks.say(f"  {name} judged {len(said)} answers" + (f"; {unparsed} verdicts can't be read" if unparsed else ""))
    return verdicts, records


def _said(
    cfg: DictConfig, name: str, rows: list[dict], by_id: dict[tuple[str, str], Asked], work: Path, ranks: Ranks
) -> tuple[list[Verdict], dict]:
    """One judge, which is in memory here alone: guards are large."""
    judge = load_judge(name, cfg.judge.get(name) or {"name": name})
    prompts = [by_id[row["set"], row["id"]].messages for row in rows]
    said, counts = judged(judge, prompts, [row["answer"] for row in rows], work, ranks)
    return said, {**judge.record, **({"counts": dict(sorted(counts.items()))} if counts else {})}


# ---- the record ------------------------------------------------------------------------------------------------------


def _record(
    cfg: DictConfig,
    run: RunDir,
    asked: list[Asked],
    unfit: dict[str, str],
    judges: dict[str, dict],
    abilities: Abilities,
) -> dict:
    """What was asked of whom and how: all that a number depends on beside the rows."""
    systems = []
    for name in evaluated(cfg):
        path = Path(_source(cfg, run, name, cfg.policy.seeds[0]).path)
        path = path.relative_to(run.root) if path.is_relative_to(run.root) else path
        systems.append({"name": name, "model": str(path)})
    sets: dict[str, dict] = {}
    for one in asked:
        counts = sets.setdefault(one.set, {"harmful": 0, "harmless": 0, "unknown": 0, "not_answered": 0})
        counts[asks(one)] += 1
        counts["not_answered"] += one.id in unfit
    sampling = OmegaConf.to_container(cfg.sampling, resolve=True)
    sampled = {
        **{key: value for key, value in sampling.items() if key not in NOT_OF_AN_ANSWER},
        "seeds": list(cfg.policy.seeds),
        **{key: cfg.model[key] for key in ("chat_template", "thinking", "dtype")},
    }
    return {
        "systems": systems,
        "judges": judges,
        "sets": sets,
        "decoding": {"sampled": sampled, **abilities.decoding},
        "left_out": abilities.left_out,
    }
