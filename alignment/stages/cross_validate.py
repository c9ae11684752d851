"""Stage cross_validate: the hybrid reward of every gate on all pairs, each judged by fits to other prompts' pairs.

Pairs kept from training are pairs as all others here. They are dealt into folds by prompt; what is fitted on the other
folds scores a fold (models/fold_scores.py), and the pooled scores say how good each scorer is, with intervals over
prompts (evaluation/scorer_quality.py). A killed run goes on at the first fold that is missing.
"""

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import load, save
from torch import Tensor

from alignment.data.columns import Loaded as LoadedRows
from alignment.data.prompt_folds import dealt_folds, same_prompts
from alignment.evaluation.scorer_quality import ScoredPairs, scorer_quality
from alignment.inputs.job import Job
from alignment.inputs.pairs import given_pairs
from alignment.maths.cross_fitting import FOLDS
from alignment.models.activations import check_layers
from alignment.models.devices import device
from alignment.models.fitting_states import FEWEST_PAIRS
from alignment.models.fold_scores import SCORERS, ReadPairs, fold_scores
from alignment.models.kept_states import fitting_states
from alignment.models.load import Loaded, load_backbone
from alignment.models.packing import Item, Packing
from alignment.models.pair_states import pair_states, whole_pairs
from alignment.models.source import model_source
from alignment.runs import artifacts
from alignment.runs.batches import compute_in_batches
from alignment.runs.manifest import Rows
from alignment.types import UserError

SIDES = ("chosen", "rejected")
NUMBERS = ("fold", "prompt", *(f"{side}_answer" for side in SIDES))
SCORES = (*SCORERS, "layers")


def run(job: Job) -> Rows:
    cfg, settings, ranks = job.cfg, job.cfg.reward, job.ranks
    source = model_source(cfg.model)
    loaded = load_backbone(source, device())
    check_layers(loaded.model, loaded.tokenizer.eos_token_id)
    max_length = min(settings.max_length, loaded.context or settings.max_length)
    parts = dict(zip(("train", "heldout"), given_pairs(cfg, job.run, ranks), strict=True))
    items = {name: whole_pairs(part, loaded, max_length) for name, part in parts.items()}
    rows = [row for part in parts.values() for row in part.rows]
    prompts = same_prompts([row["prompt"] for row in rows])
    folds = _dealt(prompts, settings.folds, cfg.seed)
    kept = fitting_states(job.run.states, source.fingerprint, loaded.model.dtype, settings.pooling, ranks.say)
    packing, tokens = Packing(**cfg.packing), settings.batch_tokens
    states = pair_states(items, loaded, packing, settings.pooling, tokens, job.work, ranks, kept)
    texts = [tuple(_text(row[side]) for side in SIDES) for row in rows]
    every = [item for part in items.values() for item in part]
    lengths = np.array([[len(answer) for answer in item.answers] for item in every])
    pairs = ReadPairs(torch.cat(list(states.values())), _embedded(every, loaded), lengths, texts, prompts)
    del states

    def compute(batch: list[int]) -> bytes:
        own = folds == batch[0]
        scores = fold_scores(pairs.only(~own), pairs.only(own), cfg.seed, settings.margin, settings.pooling)
        return save({name: values.contiguous() for name, values in scores.items()})

    computed = compute_in_batches(
        job.work / "folds", "fitting on the other folds", [1] * settings.folds, 1, compute, ranks
    )
    if ranks.main:
        scores = _pooled([(folds == batch[0], load(content)) for batch, content in computed], len(rows))
        answers = _answer_numbers(rows, texts)
        table = {"fold": folds, "prompt": prompts, **{f"{side}_answer": answers[:, i] for i, side in enumerate(SIDES)}}
        _write_scores(job, rows, table, scores)
        scored = ScoredPairs({name: scores[name] for name in SCORERS}, scores["layers"], prompts, answers)
        report = {
            "folds": settings.folds,
            "pooling": settings.pooling,
            **scorer_quality(scored, settings.gate, cfg.seed),
        }
        artifacts.write_json(job.out / job.run.cross_validation.name, report)
    return job.set_aside(_quarantined(parts), sum(part.read for part in parts.values()))


def _dealt(prompts: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """The fold of each pair; too few pairs or prompts to fit on are refused."""
    if (count := len(np.unique(prompts))) <= FOLDS:  # of which a fold leaves fewer than a fit's own folds need
        problem = f"{count} prompts are too few to fit on some and judge by others"
        raise UserError("cross_validate", problem, f"give pairs of {FOLDS + 1} prompts or more")
    dealt = dealt_folds(prompts, folds, seed, "reward.folds")
    for fold in range(folds):
        others = prompts[dealt != fold]
        if len(others) < FEWEST_PAIRS or len(np.unique(others)) < FOLDS:
            few = f"the other folds of fold {fold + 1} have {len(others)} pairs of {len(np.unique(others))} prompts"
            raise UserError("reward.folds", few, f"give data with at least {FEWEST_PAIRS} of {FOLDS}, or more folds")
    return dealt


def _text(answer: list[dict]) -> str:
    return "\n".join(message["content"] for message in answer)


def _embedded(items: list[Item], loaded: Loaded) -> Tensor:
    """(pair, 2, width): the mean of the token embeddings of each answer."""
    table = loaded.model.get_input_embeddings().weight.detach()

    def mean(answer: list[int]) -> Tensor:
        return table[torch.tensor(answer, device=table.device)].float().mean(dim=0).cpu()

    return torch.stack([torch.stack([mean(answer) for answer in item.answers]) for item in items])


def _answer_numbers(rows: list[dict], texts: list[tuple[str, str]]) -> np.ndarray:
    """(pair, 2): the same number for the same answer to the same prompt."""
    numbers: dict[tuple[str, str], int] = {}
    pairs = [[(repr(row["prompt"]), text) for text in both] for row, both in zip(rows, texts, strict=True)]
    return np.array([[numbers.setdefault(answer, len(numbers)) for answer in both] for both in pairs])


def _pooled(computed: list[tuple[np.ndarray, dict[str, Tensor]]], pairs: int) -> dict[str, np.ndarray]:
    """(2, pair) scores of each scorer, and (2, pair, layer) of the layers, from those of the folds."""
    pooled = {}
    for name in SCORES:
        pooled[name] = np.empty((2, pairs, *computed[0][1][name].shape[2:]))
        for own, scores in computed:
            pooled[name][:, own] = scores[name].numpy()
    return pooled


def _write_scores(job: Job, rows: list[dict], numbers: dict, scores: dict[str, np.ndarray]) -> None:
    """A row for each pair: its fold, its prompt, its answers, and the score of both by every scorer."""
    columns: list[tuple[str, pa.DataType]] = [("id", pa.string()), *((name, pa.int64()) for name in NUMBERS)]
    columns += [(f"{name}_{side}", pa.float64()) for name in SCORERS for side in SIDES]
    columns += [(f"layers_{side}", pa.list_(pa.float64())) for side in SIDES]
    values = {f"{name}_{side}": of[i].tolist() for name, of in scores.items() for i, side in enumerate(SIDES)}
    values |= {"id": [row["id"] for row in rows], **{name: numbers[name].tolist() for name in NUMBERS}}
    lines = [dict(zip(values, line, strict=True)) for line in zip(*values.values(), strict=True)]
    artifacts.write_rows(job.out / job.run.fold_scores.name, lines, pa.schema(columns))


def _quarantined(parts: dict[str, LoadedRows]) -> list[dict]:
    return [row for part in parts.values() for row in part.quarantined]
