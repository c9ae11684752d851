"""The scores that a reward model gives evaluation pairs: all that it can read whole, in planned batches."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from transformers import PreTrainedModel

from alignment.data.chat import ChatFormat, Rendered
from alignment.data.same_prompts import prompt_text, text_hash
from alignment.models.activations import states_layout
from alignment.models.devices import to_host
from alignment.models.load import Loaded
from alignment.models.packing import Item, Packing
from alignment.models.scoring import packed_reward_scores
from alignment.runs.batches import Pending, compute_in_batches
from alignment.runs.ranks import Ranks

SCORED_TOKENS = 16384  # tokens in a batch
SCORE_COLUMNS = pa.schema(
    [
        ("set", pa.string()), ("id", pa.string()), ("prompt_hash", pa.uint64()), ("margins", pa.string()),
        ("seed", pa.int64()), ("chosen_score", pa.float64()), ("rejected_score", pa.float64()), ("harmful", pa.bool_()),
        ("severity_gap", pa.int8()),
    ]
)  # fmt: skip


@dataclass(frozen=True)
class WholePair:
    """A pair of an evaluation set. answers: chosen and rejected as the model reads them, nothing cut off."""

    set: str
    row: dict
    answers: list[Rendered]


def whole_pairs(loaded: Loaded, evaluation: Mapping[str, Sequence[dict]]) -> list[WholePair]:
    """The pairs of all sets that have no answer longer than the model's context."""
    rendered = (
        WholePair(name, row, loaded.format.render(row["prompt"], [row["chosen"], row["rejected"]], loaded.context))
        for name, rows in evaluation.items()
        for row in rows
    )
    return [pair for pair in rendered if not any(answer.truncated for answer in pair.answers)]


def as_texts(format: ChatFormat, pairs: Sequence[WholePair]) -> tuple[list[str], list[str]]:
    """The pairs' answers as texts that give the same token ids, and as the template itself writes them."""
    sides = [(pair.row["prompt"], pair.row[side]) for pair in pairs for side in ("chosen", "rejected")]
    return [format.text(*side) for side in sides], [format.template_text(*side) for side in sides]


def score_pairs(
    model: PreTrainedModel, pairs: Sequence[WholePair], packing: Packing, pad_id: int, folder: Path, ranks: Ranks
) -> list[dict]:
    """A row for every pair, in their order, with its scores; batches are dealt to the ranks.

    folder: keeps finished batches until all are.
    """
    items = [Item.of(pair.answers) for pair in pairs]
    layout = states_layout(model, packing, pad_id, items, ranks)

    def compute(batch: list[int]) -> Pending:
        scores = to_host(packed_reward_scores(model, layout, [items[i] for i in batch]))
        return lambda: json.dumps(scores().tolist()).encode()

    sizes = [layout.size(item) for item in items]
    rows: list[dict] = [{}] * len(pairs)
    for batch, content in compute_in_batches(folder, "scoring evaluation pairs", sizes, SCORED_TOKENS, compute, ranks):
        scores = json.loads(content)
        for i, chosen, rejected in zip(batch, scores[: len(batch)], scores[len(batch) :], strict=True):
            rows[i] = {**_facts(pairs[i]), "chosen_score": chosen, "rejected_score": rejected}
    ranks.wait()
    if ranks.main:
        shutil.rmtree(folder)
    return rows


def _facts(pair: WholePair) -> dict:
    row, levels = pair.row, (pair.row["chosen_severity"], pair.row["rejected_severity"])
    gap = None if None in levels else levels[1] - levels[0]
    prompt = text_hash(prompt_text(row["prompt"]))
    return {
        "set": pair.set, "id": row["id"], "prompt_hash": prompt, "harmful": row["harmful"], "severity_gap": gap,
    }  # fmt: skip
