"""Stage build_pairs: preference pairs out of the policy's own samples, ranked by a scorer.

Every training prompt is answered n times, and its samples are paired by their ranks. A pair's margin is the gap of its
scores, its confidence how sure the scorer is of their order. All samples are kept, whether they are in a pair or not.
Batches are planned: a killed run goes on where it was.
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from math import isnan

import numpy as np
import pyarrow as pa
from omegaconf import DictConfig
from scipy.special import expit

from alignment.data.columns import MARGIN_COLUMNS, MESSAGES, readable, text_message
from alignment.data.columns import Loaded as LoadedRows
from alignment.data.same_prompts import prompt_text
from alignment.evaluation.answers import evaluation_prompts, validation_prompts
from alignment.inputs.fingerprints import device_of, fingerprint
from alignment.inputs.job import Job
from alignment.inputs.pairs import evaluation_pairs, given_pairs
from alignment.judges.world_oracle import OracleJudge
from alignment.maths.selection import pair_up
from alignment.models.devices import device
from alignment.models.hybrid_reward import HybridReward
from alignment.models.load import Loaded, load_language_model
from alignment.models.own_decoding import with_own_decoding
from alignment.models.source import model_source
from alignment.policies.ranking import score_samples
from alignment.runs import artifacts
from alignment.runs.manifest import Rows, versions
from alignment.runs.ranks import Ranks
from alignment.sampling.candidates import Question, question, sample_answers, usable
from alignment.sampling.cut_off import MANY, as_used, cut_share, remedies, sample_after_pilot
from alignment.sampling.generate import Sample
from alignment.types import UserError

SAMPLE_COLUMNS = pa.schema(
    [
        ("id", pa.string()), ("prompt", MESSAGES), ("sample", pa.int32()), ("text", pa.string()),
        ("thoughts", pa.string()), ("finished", pa.bool_()), ("cut_to", pa.string()), ("score", pa.float64()),
    ]
)  # fmt: skip
SIDES = ("chosen", "rejected")
BUILT_COLUMNS = pa.schema(
    [
        *MARGIN_COLUMNS,
        *((f"{side}_score", pa.float64()) for side in SIDES),
        # does it end with its last whole sentence, since it was cut off? was it cut off, and is used as it is?
        *((f"{side}_{what}", pa.bool_()) for what in ("cut", "unfinished") for side in SIDES),
    ]
)
FEW = 20  # pairs
LEFT_OUT = {
    "in_evaluation": "in an evaluation set",
    "repeated": "repeated",
    "too_few_finished": "with fewer than two usable samples",
    "alike": "with samples all alike",
    "tied": "with samples that all tie",
}


def run(job: Job) -> Rows:
    cfg, ranks = job.cfg, job.ranks
    loaded = load_language_model(model_source(cfg.model), device())
    asked, questions, counts = _questions(job, loaded)
    samples = _sampled(job, loaded, questions)
    used = as_used(samples, cfg.build_pairs.unfinished)
    scored = score_samples(cfg.build_pairs.scorer, job, loaded, questions, used, job.work / "scores")
    slope = _slope(job)
    pairs: list[dict] = []
    for row, answers, whole, scores in zip(asked.rows, used, samples, scored.scores, strict=True):
        cut = [now.text != before.text for now, before in zip(answers, whole, strict=True)]
        built = _pairs_of(row, answers, cut, scores, slope, cfg)
        if isinstance(built, str):
            counts[built] += 1
        else:
            pairs += built
    summary = {**counts, **_summary(samples, pairs), "unscored": len(scored.unscored)}
    _say(summary, cfg, ranks)
    if 0 < len(pairs) < FEW:
        ranks.say(f"  {len(pairs)} pairs are too few to learn from: give more prompts, or raise sampling.n")
    if not pairs:
        raise UserError("build_pairs", "no prompt gave a pair", "raise sampling.n, temperature or max_new_tokens")
    if ranks.main:
        rows = _sample_rows(questions, samples, used, scored.scores)
        artifacts.write_rows(job.out / job.run.built_pairs.name, pairs, BUILT_COLUMNS)
        artifacts.write_rows(job.out / job.run.samples.name, rows, SAMPLE_COLUMNS)
        artifacts.write_json(job.out / job.run.build_counts.name, summary)
    return job.set_aside(asked.quarantined, asked.read)


# ---- prompts --------------------------------------------------------------------------------------------------------


def _questions(job: Job, loaded: Loaded) -> tuple[LoadedRows, list[Question], Counter]:
    """The training prompts that no evaluation uses, each once, as rows and as questions; and how many are left out, by
    reason. Those that the model can't read are set aside."""
    cfg, (train, evaluation) = job.cfg, _training_rows(job)
    counts = Counter(prompts=0, repeated=0, in_evaluation=0, unreadable=0, too_few_finished=0, alike=0, tied=0)
    asked, seen = LoadedRows(), set()

    def unused() -> Iterator[dict]:
        for row in train:
            exact = tuple((message["role"], message["content"]) for message in row["prompt"])
            evaluated = prompt_text(row["prompt"]) in evaluation
            if evaluated or exact in seen:
                counts["in_evaluation" if evaluated else "repeated"] += 1
            else:
                seen.add(exact)
                yield row

    usable_prompts = readable(
        unused(),
        lambda row: question(loaded, row["id"], row["prompt"], cfg.sampling.max_new_tokens),
        lambda row, why: asked.quarantine(row["source"], None, f"{row['id']}: {why}"),
    )
    questions = []
    for row, prompt in islice(usable_prompts, cfg.build_pairs.prompts):
        asked.rows.append(row)
        questions.append(prompt)
    counts.update(prompts=len(questions), unreadable=len(asked.quarantined))
    if not questions:
        reason = f"{counts['in_evaluation']} are in an evaluation set, {len(asked.quarantined)} can't be read"
        first = "".join(f"; {row['reason']}" for row in asked.quarantined[:1])
        raise UserError("build_pairs", f"no training prompt can be asked: {reason}{first}", "give other prompts")
    return asked, questions, counts


def _training_rows(job: Job) -> tuple[Sequence[dict], set[str]]:
    """The training pairs, and as normal text the prompts of everything that is evaluated. The prompts of real
    evaluation sets were kept out of the training pairs when these were read."""
    cfg = job.cfg
    train, heldout = given_pairs(cfg, job.run, job.ranks)
    prompts = [row["prompt"] for part in (heldout, *evaluation_pairs(cfg).values()) for row in part.rows]
    if cfg.data.name == "world":
        asked = evaluation_prompts(cfg.evaluation.prompts, seed=cfg.data.seed)
        asked += validation_prompts(cfg.evaluation.validation, cfg.evaluation.prompts, seed=cfg.data.seed)
        prompts += [prompt.messages for prompt in asked]
    return train.rows, {prompt_text(prompt) for prompt in prompts}


def _sampled(job: Job, loaded: Loaded, questions: list[Question]) -> list[list[Sample]]:
    """The samples, which take most of the stage's time: those of an earlier run, if all that sampling reads is as it
    was then. The last ones are kept, whatever ranks them."""
    cfg, ranks = job.cfg, job.ranks
    warmer = {} if cfg.build_pairs.temperature is None else {"temperature": cfg.build_pairs.temperature}
    sampling = with_own_decoding({**cfg.sampling, **warmer}, model_source(cfg.model), ranks.say)
    read = {
        "model": fingerprint("model", cfg), "dtype": cfg.model.dtype, "thinking": cfg.model.thinking,
        "device": device_of(cfg, None), "versions": versions(), "seed": cfg.seed, "sampling": sampling,
        "questions": [(question.id, question.ids) for question in questions],
    }  # fmt: skip
    kept = job.run.sampled / hashlib.sha256(json.dumps(read, sort_keys=True).encode()).hexdigest()[:16]
    if ranks.from_main(kept.is_dir):
        ranks.say(f"  samples that are there from an earlier run are used ({kept})")

    def sample(asked: Sequence[Question], folder: str) -> list[list[Sample]]:
        return sample_answers(loaded, asked, sampling, cfg.seed, cfg.sampling.n, kept / folder, ranks)

    samples = sample_after_pilot(sample, questions, _limit(cfg), cfg.build_pairs.unfinished, ranks.say)
    if ranks.main:
        for other in job.run.sampled.iterdir():
            if other != kept:
                shutil.rmtree(other, ignore_errors=True)
    return samples


def _limit(cfg: DictConfig) -> str:
    """The setting that cuts answers off."""
    key = "model.answer_tokens" if cfg.model.answer_tokens == cfg.sampling.max_new_tokens else "sampling.max_new_tokens"
    return f"{key}={cfg.sampling.max_new_tokens}"


# ---- pairs ----------------------------------------------------------------------------------------------------------


def _slope(job: Job) -> float | None:
    """The slope that makes a confidence of a gap, sigma(slope * gap). The oracle has none: its scores are the truth."""
    if job.cfg.build_pairs.scorer == "hybrid":
        return HybridReward.load(job.run.hybrid_reward).alpha
    return 1.0 if job.cfg.build_pairs.scorer == "reward_model" else None  # it was trained as Bradley and Terry's


def _pairs_of(
    row: dict, samples: list[Sample], cut: list[bool], scores: np.ndarray, slope: float | None, cfg: DictConfig
) -> list[dict] | str:
    """The pairs of one prompt; if there are none, the reason by which the prompt is counted."""
    settings = cfg.build_pairs
    kept = [i for i, sample in enumerate(samples) if usable(sample, bool(settings.unfinished)) and not isnan(scores[i])]
    if len(kept) < 2:
        return "too_few_finished"
    texts = [samples[i].text for i in kept]
    if len(set(texts)) == 1:
        return "alike"
    pairs: list[dict] = []
    for chosen, rejected in pair_up(scores[kept], settings.pairing):
        if texts[chosen] == texts[rejected]:
            continue
        chosen_score, rejected_score = float(scores[kept[chosen]]), float(scores[kept[rejected]])
        gap = chosen_score - rejected_score
        pair = {
            "id": f"{row['id']}-{len(pairs)}",
            "source": "samples",
            "prompt": row["prompt"],
            "chosen": text_message("assistant", texts[chosen]),
            "rejected": text_message("assistant", texts[rejected]),
            "category": row["category"],
            "harmful": row["harmful"],
            "margin": gap,
            "margin_raw": gap,
            "confidence": None if slope is None else float(expit(slope * gap)),
            "chosen_score": chosen_score,
            "rejected_score": rejected_score,
            "chosen_cut": cut[kept[chosen]],
            "rejected_cut": cut[kept[rejected]],
            "chosen_unfinished": not samples[kept[chosen]].finished,
            "rejected_unfinished": not samples[kept[rejected]].finished,
        }
        pairs.append(pair | (_truth(pair) if cfg.data.name == "world" else {}))
    return pairs or "tied"


def _truth(pair: dict) -> dict[str, int]:
    """What the samples really are, as in the world's given pairs: for looking at, not for learning from."""
    oracle, truth = OracleJudge(), {}
    for side in SIDES:
        verdict = oracle([pair["prompt"]], [pair[side][0]["content"]])[0]
        truth |= {f"{side}_severity": verdict.severity, f"{side}_helpfulness": verdict.helpfulness}
    return truth


# ---- what is written and said ---------------------------------------------------------------------------------------


def _summary(samples: list[list[Sample]], pairs: list[dict]) -> dict:
    every = [sample for answers in samples for sample in answers]
    cut, unfinished = (
        sum(pair[f"{side}_{what}"] for pair in pairs for side in SIDES) for what in ("cut", "unfinished")
    )
    truly = None
    if pairs and "chosen_severity" in pairs[0]:  # the world's, of which the truth is known
        values = ([pair[f"{side}_helpfulness"] - pair[f"{side}_severity"] for pair in pairs] for side in SIDES)
        signs = np.sign(np.subtract(*values))
        truly = {name: float((signs == sign).mean()) for name, sign in (("better", 1), ("equal", 0), ("worse", -1))}
    return {
        "samples": len(every),
        "unfinished_share": cut_share(samples),
        "cut_in_pairs": cut,
        "unfinished_in_pairs": unfinished,
        "with_thoughts": sum(bool(sample.thoughts) for sample in every),
        "pairs": len(pairs),
        "chosen_is_truly": truly,
    }


def _say(summary: dict, cfg: DictConfig, ranks: Ranks) -> None:
    share, unfinished = summary["unfinished_share"], cfg.build_pairs.unfinished
    what_helps = f": {remedies(_limit(cfg), unfinished)}" if share > MANY and unfinished is False else ""
    ranks.say(
        f"  {summary['pairs']} pairs of {summary['prompts']} prompts with {summary['samples']} samples, "
        f"{share:.1%} of them cut off{what_helps}"
    )
    if summary["cut_in_pairs"]:
        ranks.say(f"  {summary['cut_in_pairs']} answers in pairs end with their last whole sentence")
    if summary["unfinished_in_pairs"]:
        ranks.say(
            f"  {summary['unfinished_in_pairs']} answers in pairs were cut off and are used as they are: a policy "
            "learns to end there; build_pairs.unfinished=sentence ends them at their last whole sentence"
        )
    if summary["with_thoughts"]:
        ranks.say(f"  {summary['with_thoughts']} samples begin with thoughts, which are kept and not ranked")
    if summary["unscored"]:
        ranks.say(f"  {summary['unscored']} samples are left out: the scorer can't read all of them")
    if left_out := [f"{summary[name]} {reason}" for name, reason in LEFT_OUT.items() if summary[name]]:
        ranks.say(f"  prompts left out: {', '.join(left_out)}")


def _sample_rows(
    questions: list[Question], samples: list[list[Sample]], used: list[list[Sample]], scores: list[np.ndarray]
) -> list[dict]:
    return [
        {
            "id": prompt.id, "prompt": prompt.prompt, "sample": number, **vars(sample),
            "cut_to": None if now.text == sample.text else now.text, "score": None if isnan(score) else float(score),
        }
        for prompt, answers, own, prompt_scores in zip(questions, samples, used, scores, strict=True)
        for number, (sample, now, score) in enumerate(zip(answers, own, prompt_scores, strict=True))
    ]  # fmt: skip
