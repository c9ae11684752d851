"""Stage evaluate: what every system answers to prompts no policy was trained on, and how safe and useful that is.

One sampled answer a prompt and seed; `rs_star` takes the best of `sampling.n` by the hybrid reward of the base model.
Every system sees the same prompts with the same noise. All answers are kept.
"""

import json
from pathlib import Path

import pyarrow as pa
from omegaconf import DictConfig

from alignment import artifacts
from alignment.artifacts import Rows, RunDir
from alignment.batches import compute_in_batches
from alignment.data.chat import text_message
from alignment.data.columns import messages
from alignment.data.pairs import file_pairs
from alignment.models.devices import device
from alignment.models.hybrid_reward import HybridReward
from alignment.models.load import Loaded, load_language_model
from alignment.models.scoring import hybrid_scores
from alignment.models.source import ModelSource, model_source
from alignment.policies.answers import Asked, answer, evaluation_prompts, rates
from alignment.policies.systems import SYSTEMS
from alignment.ranks import Ranks

ANSWER_COLUMNS = pa.schema(
    [
        ("system", pa.string()), ("seed", pa.int64()), ("set", pa.string()), ("id", pa.string()),
        ("harmful", pa.bool_()), ("prompt", pa.string()), ("answer", pa.string()),
    ]
)  # fmt: skip


def run(cfg: DictConfig, run: RunDir, out: Path, ranks: Ranks) -> Rows:
    asked = _prompts(cfg)
    rows: list[dict] = []
    found: dict[str, list[dict]] = {}
    for system in cfg.policy.systems:
        for seed in cfg.policy.seeds:
            answers = _answers(cfg, run, system, seed, asked, out.parent / "answers", ranks)
            rows += [_row(system, seed, one, text) for one, text in zip(asked, answers, strict=True)]
            if cfg.data.name == "world":
                found.setdefault(system, []).append(rates(asked, answers))
    if ranks.main:
        artifacts.write_rows(out / run.answers.name, rows, ANSWER_COLUMNS)
        artifacts.write_json(out / run.evaluation.name, found)
    return Rows(len(asked), len(asked), 0)


def _prompts(cfg: DictConfig) -> list[Asked]:
    """The world's evaluation sets, or the held-out prompts of a file, of which nobody can say yet how they went."""
    if cfg.data.name == "world":
        return evaluation_prompts(cfg.evaluation.prompts, seed=cfg.data.seed)
    heldout = file_pairs(cfg.data.path, cfg.data.heldout, seed=cfg.data.seed)[1].rows[: cfg.evaluation.prompts]
    return [Asked("heldout", row["id"], row["prompt"], row["harmful"]) for row in heldout]


def _row(system: str, seed: int, asked: Asked, text: str) -> dict:
    prompt = asked.text if isinstance(asked.text, str) else json.dumps(asked.text, ensure_ascii=False)
    return {"system": system, "seed": seed, **vars(asked), "prompt": prompt, "answer": text}


def _answers(
    cfg: DictConfig, run: RunDir, system: str, seed: int, asked: list[Asked], work: Path, ranks: Ranks
) -> list[str]:
    stage = SYSTEMS[system].stage
    source = model_source(cfg.model.name, cfg.model.get("path"))
    if stage is not None:
        source = ModelSource(str(run.policy(stage, system, seed)), None, "")
    loaded = load_language_model(source, cfg.model.get("dtype", "auto"), device(), cfg.model.get("chat_template"))
    count = cfg.sampling.n if system == "rs_star" else 1
    answers = answer(loaded, asked, cfg.sampling, seed, count, work / f"{system}-{seed}", ranks)
    if system != "rs_star":
        return [one[0] for one in answers]
    reward = HybridReward.load(run.hybrid_reward)
    return _best(loaded, reward, asked, answers, work / f"{system}-{seed}-scores", cfg.sampling.batch_tokens, ranks)


def _best(
    loaded: Loaded,
    reward: HybridReward,
    asked: list[Asked],
    answers: list[list[str]],
    work: Path,
    batch_tokens: int,
    ranks: Ranks,
) -> list[str]:
    """Of every prompt's answers the one with the highest reward."""
    rows = [
        answer
        for one, texts in zip(asked, answers, strict=True)
        for answer in loaded.format.render(
            messages(one.text, "prompt", "user"), [text_message("assistant", text) for text in texts]
        )
    ]

    def compute(batch: list[int]) -> bytes:
        return json.dumps(hybrid_scores(loaded, reward, [rows[i] for i in batch]).tolist()).encode()

    scores = [0.0] * len(rows)
    sizes = [len(row.ids) for row in rows]
    for items, content in compute_in_batches(work, "scoring answers", sizes, batch_tokens, compute, ranks):
        for item, score in zip(items, json.loads(content), strict=True):
            scores[item] = score
    best, first = [], 0
    for texts in answers:
        best.append(texts[max(range(len(texts)), key=lambda i: (scores[first + i], -i))])
        first += len(texts)
    return best
