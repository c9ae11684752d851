"""Stage build_pairs: preference pairs out of the policy's own samples, ranked by a scorer.

Every training prompt is answered n times; the ranked samples become pairs with the margin (the gap of their scores) and
the confidence in it. Samples are kept whatever becomes of them. Batches are planned: a killed run goes on where it was.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from math import isnan
from pathlib import Path

import numpy as np
import pyarrow as pa
from omegaconf import DictConfig
from scipy.special import expit

from alignment.data.columns import MARGIN_COLUMNS, MESSAGES, readable, text_message
from alignment.data.columns import Loaded as LoadedRows
from alignment.data.same_prompts import prompt_text
from alignment.evaluation.answers import evaluation_prompts, validation_prompts
from alignment.inputs.pairs import evaluation_pairs, given_pairs
from alignment.judges.world_oracle import OracleJudge
from alignment.maths.selection import pair_up
from alignment.models.devices import device
from alignment.models.hybrid_reward import HybridReward
from alignment.models.load import Loaded, load_language_model, load_reward_model
from alignment.models.packing import Packing
from alignment.models.source import model_source
from alignment.runs import artifacts
from alignment.runs.manifest import Rows
from alignment.runs.ranks import Ranks
from alignment.runs.run_files import QUARANTINE, RunDir
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
from alignment.types import UserError

SAMPLE_COLUMNS = pa.schema(
    [
        ("id", pa.string()), ("prompt", MESSAGES), ("sample", pa.int32()), ("text", pa.string()),
        ("thoughts", pa.string()), ("finished", pa.bool_()), ("score", pa.float64()),
    ]
)  # fmt: skip
SIDES = ("chosen", "rejected")
FEW = 20  # pairs
BUILT_COLUMNS = pa.schema(
    [
        *MARGIN_COLUMNS, ("chosen_score", pa.float64()), ("rejected_score", pa.float64()),
    ]
)  # fmt: skip


def run(cfg: DictConfig, run: RunDir, out: Path, ranks: Ranks) -> Rows:
    loaded = load_language_model(model_source(cfg.model), device())
    asked, questions, counts = _questions(cfg, run, loaded, ranks)
    work, settings = out.parent, cfg.sampling
    samples = sample_answers(loaded, questions, settings, cfg.seed, settings.n, work / "samples", ranks)
    scored, slope = _scores(cfg, run, loaded, questions, samples, work / "scores", ranks)
    scores = scored.scores
    pairs: list[dict] = []
    for row, many, found in zip(asked.rows, samples, scores, strict=True):
        made = _pairs_of(row, many, found, slope, cfg)
        if isinstance(made, str):
            counts[made] += 1
        else:
            pairs += made
    summary = {**counts, **_summary(samples, pairs, truth=cfg.data.name == "world")}
    summary["unscored"] = len(scored.unscored)
    _say(summary, ranks)
    if 0 < len(pairs) < FEW:
        ranks.say(f"  {len(pairs)} pairs are too few to learn from: give more prompts, or raise sampling.n")
    if not pairs:
        raise UserError("build_pairs", "no prompt gave a pair", "raise sampling.n, temperature or max_new_tokens")
    if ranks.main:
        artifacts.write_rows(out / run.built_pairs.name, pairs, BUILT_COLUMNS)
        artifacts.write_rows(out / run.samples.name, _sample_rows(questions, samples, scores), SAMPLE_COLUMNS)
        artifacts.write_json(out / run.build_counts.name, summary)
        artifacts.write_lines(out / QUARANTINE, asked.quarantined)
    return Rows(asked.read, len(asked.rows), len(asked.quarantined))


# ---- prompts --------------------------------------------------------------------------------------------------------


def _questions(
    cfg: DictConfig, run: RunDir, loaded: Loaded, ranks: Ranks
) -> tuple[LoadedRows, list[Question], Counter]:
    """The training prompts, each once, that no evaluation uses; those the model can't read are set aside."""
    train, evaluation = _training_rows(cfg, run, ranks)
    counts = Counter(prompts=0, repeated=0, in_evaluation=0, unreadable=0, too_few_finished=0, alike=0, tied=0)
    asked, seen = LoadedRows(), set()

    def fresh() -> Iterator[dict]:
        for row in train:
            exact = tuple((message["role"], message["content"]) for message in row["prompt"])
            evaluated = prompt_text(row["prompt"]) in evaluation
            if evaluated or exact in seen:
                counts["in_evaluation" if evaluated else "repeated"] += 1
            else:
                seen.add(exact)
                yield row

    made = readable(
        fresh(),
        lambda row: question(loaded, row["id"], row["prompt"], cfg.sampling.max_new_tokens),
        lambda row, why: asked.quarantine(row["source"], None, f"{row['id']}: {why}"),
    )
    made = list(islice(made, cfg.build_pairs.prompts))
    asked.rows, questions = [row for row, _ in made], [asking for _, asking in made]
    counts.update(prompts=len(questions), unreadable=len(asked.quarantined))
    if not questions:
        reason = f"{counts['in_evaluation']} are in an evaluation set, {len(asked.quarantined)} can't be read"
        first = "".join(f"; {row['reason']}" for row in asked.quarantined[:1])
        raise UserError("build_pairs", f"no training prompt can be asked: {reason}{first}", "give other prompts")
    return asked, questions, counts


def _training_rows(cfg: DictConfig, run: RunDir, ranks: Ranks) -> tuple[Sequence[dict], set[str]]:
    """Training pairs, and the prompts of everything that is evaluated, as normal text. What real evaluation sets ask is
    no training pair's prompt already."""
    train, heldout = given_pairs(cfg, run, ranks)
    prompts = [row["prompt"] for part in (heldout, *evaluation_pairs(cfg).values()) for row in part.rows]
    if cfg.data.name == "world":
        evaluation = cfg.evaluation
        asked = evaluation_prompts(evaluation.prompts, seed=cfg.data.seed)
        asked += validation_prompts(evaluation.validation, evaluation.prompts, seed=cfg.data.seed)
        prompts += [text_message("user", one.prompt) for one in asked]
    return train.rows, {prompt_text(prompt) for prompt in prompts}


# ---- scores ---------------------------------------------------------------------------------------------------------


def _scores(
    cfg: DictConfig,
    run: RunDir,
    loaded: Loaded,
    questions: list[Question],
    samples: list[list[Sample]],
    work: Path,
    ranks: Ranks,
) -> tuple[Scored, float | None]:
    """The scores of every prompt's samples, and the slope at which a gap of two is a confidence: sigma(slope * gap)."""
    slope: float | None
    if cfg.build_pairs.scorer == "judge":
        return Scored(judge_scores(questions, samples), []), None
    if cfg.build_pairs.scorer == "hybrid":
        reward = HybridReward.load(run.hybrid_reward)
        scorer, slope = hybrid_scorer(loaded, reward), reward.alpha
    else:  # it takes the place of the policy, which isn't needed any more
        folder = run.reward_model(cfg.build_pairs.reward_model, cfg.reward_model.seeds[0])
        loaded.model = load_reward_model(folder, device())
        scorer, slope = reward_model_scorer(loaded), 1.0  # it was trained as Bradley and Terry's
    packing, budget = Packing(**cfg.packing), cfg.sampling.batch_tokens
    return score_answers(scorer, loaded, questions, samples, packing, budget, work, ranks), slope


# ---- pairs ----------------------------------------------------------------------------------------------------------


def _pairs_of(
    row: dict, samples: list[Sample], scores: np.ndarray, slope: float | None, cfg: DictConfig
) -> list[dict] | str:
    """The pairs of one prompt, or why there are none."""
    kept = [i for i, sample in enumerate(samples) if usable(sample, cfg.build_pairs.unfinished)]
    kept = [i for i in kept if not isnan(scores[i])]
    if len(kept) < 2:
        return "too_few_finished"
    if len({samples[i].text for i in kept}) == 1:
        return "alike"
    found = [(kept[chosen], kept[rejected]) for chosen, rejected in pair_up(scores[kept], cfg.build_pairs.pairing)]
    found = [(chosen, rejected) for chosen, rejected in found if samples[chosen].text != samples[rejected].text]
    pairs = [
        _pair(row, number, samples, scores, chosen, rejected, slope) for number, (chosen, rejected) in enumerate(found)
    ]
    if cfg.data.name == "world":
        for pair in pairs:
            _add_truth(pair)
    return pairs or "tied"


def _pair(
    row: dict, number: int, samples: list[Sample], scores: np.ndarray, chosen: int, rejected: int, slope: float | None
) -> dict:
    gap = float(scores[chosen] - scores[rejected])
    return {
        "id": f"{row['id']}-{number}",
        "source": "samples",
        "prompt": row["prompt"],
        "chosen": text_message("assistant", samples[chosen].text),
        "rejected": text_message("assistant", samples[rejected].text),
        "category": row["category"],
        "harmful": row["harmful"],
        "margin": gap,
        "margin_raw": gap,
        "confidence": None if slope is None else float(expit(slope * gap)),
        "chosen_score": float(scores[chosen]),
        "rejected_score": float(scores[rejected]),
    }


def _add_truth(pair: dict) -> None:
    """What the samples really are, as in the world's given pairs: for looking at, not for learning from."""
    for side in SIDES:
        verdict = OracleJudge()([pair["prompt"]], [pair[side][0]["content"]])[0]
        pair |= {f"{side}_severity": verdict.severity, f"{side}_helpfulness": verdict.helpfulness}


def _summary(samples: list[list[Sample]], pairs: list[dict], truth: bool) -> dict:
    everything = [sample for many in samples for sample in many]
    truly = None
    if truth and pairs:
        value = {side: np.array([p[f"{side}_helpfulness"] - p[f"{side}_severity"] for p in pairs]) for side in SIDES}
        signs = np.sign(value["chosen"] - value["rejected"])
        truly = {name: float((signs == sign).mean()) for name, sign in (("better", 1), ("equal", 0), ("worse", -1))}
    return {
        "samples": len(everything),
        "unfinished_share": sum(not sample.finished for sample in everything) / len(everything),
        "with_thoughts": sum(bool(sample.thoughts) for sample in everything),
        "pairs": len(pairs),
        "chosen_is_truly": truly,
    }


def _say(summary: dict, ranks: Ranks) -> None:
    ranks.say(
        f"  {summary['pairs']} pairs of {summary['prompts']} prompts with {summary['samples']} samples, "
        f"{summary['unfinished_share']:.1%} of them cut off"
    )
    left_out = {
        "in_evaluation": "in an evaluation set",
        "repeated": "repeated",
        "too_few_finished": "with fewer than two usable samples",
        "alike": "with samples all alike",
        "tied": "with samples that all tie",
    }
    if summary["with_thoughts"]:
        ranks.say(f"  {summary['with_thoughts']} samples begin with thoughts, which are kept and not ranked")
    if summary["unscored"]:
        ranks.say(f"  {summary['unscored']} samples are left out: the scorer can't read all of them")
    found = [f"{summary[name]} {what}" for name, what in left_out.items() if summary[name]]
    if found:
        ranks.say(f"  prompts left out: {', '.join(found)}")


def _sample_rows(questions: list[Question], samples: list[list[Sample]], scores: list[np.ndarray]) -> list[dict]:
    return [
        {
            "id": one.id,
            "prompt": one.prompt,
            "sample": number,
            **vars(sample),
            "score": None if isnan(score) else float(score),
        }
        for one, many, found in zip(questions, samples, scores, strict=True)
        for number, (sample, score) in enumerate(zip(many, found, strict=True))
    ]
