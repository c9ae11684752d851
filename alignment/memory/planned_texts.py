"""What the stages of a plan will read: a sample of the texts as tokens, and how many there are.

Of a file some hundred rows are looked at, drawn from all of it; of the world the pairs themselves. Samples of a policy
that isn't there yet count as long as they may be.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from omegaconf import DictConfig
from transformers import AutoTokenizer

from alignment.data import contrast as contrast_data
from alignment.data.chat import ChatFormat, chat_format
from alignment.data.columns import pair, readable
from alignment.data.files import read_file
from alignment.data.world_pairs import drawing, world_pairs
from alignment.inputs.pairs import sources
from alignment.models.packing import Item
from alignment.models.source import model_source, ready_path
from alignment.runs import artifacts
from alignment.runs.run_files import RunDir
from alignment.stages import trained_with
from alignment.types import UserError

SAMPLE = 400  # pairs whose tokens are counted
DRAWS = 1000  # micro-batches that are drawn to find the largest


@dataclass(frozen=True)
class Texts:
    """Pairs as a model reads them. count: of all there are, the sample and the others; known: is it really the data?"""

    items: list[Item]
    count: int
    known: bool = True

    @property
    def lengths(self) -> list[int]:
        return [len(item) for item in self.items]

    @property
    def prompts(self) -> list[int]:
        return [len(item.prompt) for item in self.items]

    @property
    def median(self) -> int:
        return int(median(self.lengths))

    @property
    def longest(self) -> int:
        return max(self.lengths)

    @property
    def mean(self) -> float:
        return sum(self.lengths) / len(self.items)

    def within(self, tokens: int) -> "Texts":
        """Without those that have a longer text, as trainings leave them out."""
        short = [item for item in self.items if item.longest <= tokens]
        return Texts(short or self.items[:1], round(self.count * len(short) / len(self.items)), self.known)

    def first(self, count: int | None) -> "Texts":
        return Texts(self.items, min(self.count, count or self.count), self.known)

    def answered(self, answers: int, tokens: int, count: int) -> "Texts":
        """The same prompts, each with so many answers of so many tokens."""
        made = [Item(item.prompt, [[0] * tokens] * answers) for item in self.items]
        return Texts(made, count, known=False)


def pairs(cfg: DictConfig) -> tuple[Texts, Texts]:
    """Training pairs and those kept from training."""
    data, format = cfg.data, _format(cfg)
    if data.name == "world":
        parts = world_pairs(min(data.pairs, SAMPLE), min(data.heldout, SAMPLE), drawing(data))
        train, heldout = (_items(part.rows, format) for part in parts)
        return Texts(train, data.pairs), Texts(heldout, data.heldout)
    rows, count = _drawn(data)
    kept = round(count * data.heldout)
    items = [] if format is None else _items(rows, format)
    known = bool(items)
    items = items or [_unknown(cfg)]
    return Texts(items, count - kept, known), Texts(items, max(1, kept), known)


def built(cfg: DictConfig, run: RunDir, train: Texts) -> Texts:
    """The policy's own samples in pairs: those that are there, or as many and as long as they may become."""
    format = _format(cfg)
    if format is not None and run.built_pairs.is_file():
        rows = artifacts.read_rows(run.built_pairs)
        drawn = random.Random(0).sample(rows, min(len(rows), SAMPLE))
        if items := _items(drawn, format):
            return Texts(items, len(rows))
    each = cfg.sampling.n // 2 if cfg.build_pairs.pairing == "zip4" else 1
    prompts = train.first(cfg.build_pairs.prompts).count
    return train.answered(2, cfg.sampling.max_new_tokens, max(1, prompts * each))


def questions(cfg: DictConfig, train: Texts) -> Texts:
    """What contrastive answers are generated to, with an answer as long as it may be."""
    contrast, format = cfg.annotator.contrast, _format(cfg)
    if contrast.file is not None or format is None:
        return train.answered(1, contrast.max_new_tokens, contrast.count)
    asked = contrast_data.questions(
        contrast.questions, contrast.count, seed=cfg.data.seed, folder=cfg.data.get("folder")
    )
    read = readable(asked.rows[:SAMPLE], lambda row: format.prompt_ids(row["prompt"]))
    items = [Item(ids, [[0] * contrast.max_new_tokens]) for _, ids in read]
    return Texts(items, len(asked.rows)) if items else train.answered(1, contrast.max_new_tokens, contrast.count)


def largest(items: Sequence[Item], size: int, draws: int, cost: Callable[[Item], int]) -> list[Item]:
    """The costliest of so many micro-batches of `size`, drawn as a training deals them."""
    source = random.Random(0)
    costs = [cost(item) for item in items]
    found: list[int] = []
    for _ in range(max(1, min(draws, DRAWS))):
        some = (
            source.sample(range(len(items)), size) if size <= len(items) else source.choices(range(len(items)), k=size)
        )
        found = max(found, some, key=lambda numbers: sum(costs[i] for i in numbers))
    return [items[i] for i in found]


def planned(items: Sequence[Item], tokens: int, cost: Callable[[Item], int]) -> list[Item]:
    """A planned batch of at most so many tokens (batches.py), of items about as long as the longest."""
    found: list[Item] = []
    longest = max(map(cost, items))
    ordered = sorted(items, key=cost, reverse=True)
    for number in range(max(1, tokens // longest)):
        found.append(ordered[number % len(ordered)])
    return found


def _format(cfg: DictConfig) -> ChatFormat | None:
    """How the model's conversations are written; None where it has no tokenizer (yet)."""
    source = model_source(cfg.model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(ready_path(source), revision=source.revision)
        return chat_format(tokenizer, cfg.model.chat_template)
    except (OSError, ValueError, TypeError, AttributeError, UserError):  # whatever a folder without one makes of it
        return None


def _drawn(data: DictConfig) -> tuple[list[dict], int]:
    """Some of the pairs, every one as likely as any other (reservoir sampling), and how many there are."""
    source = random.Random(0)
    rows: list[dict] = []
    count = 0
    for one in sources(data):
        for file in one.files(data.folder):
            for _, row in one.raw_pairs(read_file("data.path", str(file))):
                if isinstance(row, str):
                    continue
                count += 1
                place = len(rows) if len(rows) < SAMPLE else source.randrange(count)
                if place < SAMPLE:
                    rows[place : place + 1] = [{"id": str(count), **row}]
    usable = [one for _, one in readable(rows, lambda row: pair(row, str(row["id"]), data.name))]
    count = round(count * len(usable) / max(1, len(rows)))
    return usable, count if data.rows is None else min(count, data.rows)


def _items(rows: Sequence[dict], format: ChatFormat) -> list[Item]:
    read = readable(rows, lambda row: format.render(row["prompt"], [row["chosen"], row["rejected"]]))
    return [item for _, both in read if all((item := Item.of(both)).answers)]


def _unknown(cfg: DictConfig) -> Item:
    """In place of texts that can't be read: the longest that trainings take."""
    trains_rewards = bool(set(trained_with("trainer")) & set(cfg.stages))
    longest = max(cfg.trainer.max_length if trains_rewards else 0, cfg.policy.max_length)
    half = math.ceil(longest / 2)
    return Item([0] * half, [[0] * (longest - half)] * 2)
