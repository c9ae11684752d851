"""The texts that the stages of a plan will read: a sample of them as tokens, and how many there are.

A file is read through, and some hundred of its rows are tokenized; the world's pairs are generated. Samples that no
policy has written yet count as long as they may become.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from omegaconf import DictConfig
from transformers import AutoTokenizer

from alignment.data import contrast as contrast_data
from alignment.data.chat import ChatFormat, Rendered, chat_format
from alignment.data.columns import pair, readable, text_message
from alignment.data.files import read_file
from alignment.data.guard_answers import guard_answers
from alignment.data.preference_pairs import Source
from alignment.data.same_prompts import prompt_text
from alignment.data.world_pairs import drawing, world_pairs
from alignment.inputs.pairs import heldout_source, sources
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
    """A sample of pairs as a model reads them.

    count: how many pairs there are in all. known: the items are the data itself, not texts of the allowed length.
    """

    items: list[Item]
    count: int
    known: bool = True

    @property
    def lengths(self) -> list[int]:
        return [len(item) for item in self.items]

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
        """The pairs without a text longer than that, as trainings leave the others out."""
        short = [item for item in self.items if item.longest <= tokens]
        return Texts(short or self.items[:1], round(self.count * len(short) / len(self.items)), self.known)

    def first(self, count: int | None) -> "Texts":
        return Texts(self.items, min(self.count, count or self.count), self.known)

    def answered(self, answers: int, tokens: int, count: int) -> "Texts":
        """`count` prompts like these, each with so many answers of so many tokens."""
        return Texts([Item(item.prompt, [[0] * tokens] * answers) for item in self.items], count, known=False)


def pairs(cfg: DictConfig) -> tuple[Texts, Texts]:
    """Training pairs and those kept from training."""
    data, format = cfg.data, _format(cfg)
    if data.name == "world":
        parts = world_pairs(min(data.pairs, SAMPLE), min(data.heldout, SAMPLE), drawing(data))
        train, heldout = (_items(part.rows, format) for part in parts)
        return Texts(train, data.pairs), Texts(heldout, data.heldout)
    rows, count = _drawn(sources(data), data)
    count = count if data.rows is None else min(count, data.rows)
    own = heldout_source(data)
    heldout = round(count * data.heldout) if own is None else _drawn([own], data)[1]
    items = [] if format is None else _items(rows, format)
    known = bool(items)
    items = items or [_longest(cfg)]
    return Texts(items, count - (heldout if own is None else 0), known), Texts(items, max(1, heldout), known)


def transferred(cfg: DictConfig, context: int | None) -> list[Texts]:
    """Pairs of other sets that reward models rank, all that the model can read whole; none where no set is named."""
    if not cfg.reward_model.transfer:
        return []
    format = _format(cfg)
    rows, count = _drawn([Source(name) for name in cfg.reward_model.transfer], cfg.data)
    items = [] if format is None else _items(rows, format)
    texts = Texts(items or [_longest(cfg)], count, bool(items))
    return [texts if context is None else texts.within(context)]


def built(cfg: DictConfig, run: RunDir, train: Texts) -> Texts:
    """The policy's own samples in pairs: those already written, or as many and as long as they may become."""
    format = _format(cfg)
    if format is not None and run.built_pairs.is_file():
        rows = artifacts.read_rows(run.built_pairs)
        drawn = random.Random(0).sample(rows, min(len(rows), SAMPLE))
        if items := _items(drawn, format):
            return Texts(items, len(rows))
    per_prompt = cfg.sampling.n // 2 if cfg.build_pairs.pairing == "zip4" else 1
    prompts = train.first(cfg.build_pairs.prompts).count
    return train.answered(2, cfg.sampling.max_new_tokens, max(1, prompts * per_prompt))


def questions(cfg: DictConfig, train: Texts) -> Texts:
    """The questions that contrastive answers are generated to, each with an answer as long as it may be."""
    contrast, format = cfg.annotator.contrast, _format(cfg)
    unread = train.answered(1, contrast.max_new_tokens, contrast.count)
    if contrast.file is not None or contrast.labelled is not None or format is None:
        return unread
    rows = contrast_data.questions(
        contrast.questions, contrast.count, seed=cfg.data.seed, folder=cfg.data.get("folder")
    ).rows
    read = readable(rows[:SAMPLE], lambda row: format.prompt_ids(row["prompt"]))
    items = [Item(ids, [[0] * contrast.max_new_tokens]) for _, ids in read]
    return Texts(items, len(rows)) if items else unread


def labelled_answers(cfg: DictConfig, context: int | None) -> tuple[Texts, Texts]:
    """The labelled answers that a guard is fitted on, guard.count of them at most, and tried on, each behind its
    prompt; and the prompts alone of those that it is fitted on. Those that its fit leaves out are counted, too.

    context: the most tokens that the model reads.
    """
    guard, folder, format = cfg.guard, cfg.judge.folder, _format(cfg)
    limit = min(guard.max_length, context or guard.max_length)
    fitted = guard_answers([*guard.answers, *guard.harmless], folder, both=False).rows
    tried = [row for name in guard.transfer for row in guard_answers([name], folder, both=False).rows]
    count, rows = min(guard.count, len(fitted)), [*fitted, *tried]
    prompts = min(count, len({prompt_text(row["prompt"]) for row in fitted}))
    drawn = [] if format is None else random.Random(0).sample(rows, min(SAMPLE, len(rows)))

    def answer(row: dict) -> list[Rendered]:
        return format.render(row["prompt"], [text_message("assistant", row["response"])], limit)

    items = [item for _, texts in readable(drawn, answer) if all((item := Item.of(texts)).answers)]
    known, items = bool(items), items or [Item([0] * (limit - 1), [[0]])]
    alone = [Item(item.prompt[:-1], [item.prompt[-1:]]) for item in items if item.prompt]
    return Texts(items, count + len(tried), known), Texts(alone, prompts, known)


def largest(items: Sequence[Item], size: int, draws: int, cost: Callable[[Item], int]) -> list[Item]:
    """The costliest of so many micro-batches of `size`, drawn as a training deals them."""
    generator = random.Random(0)
    draw = generator.sample if size <= len(items) else generator.choices
    costs = [cost(item) for item in items]
    batches = [draw(range(len(items)), k=size) for _ in range(max(1, min(draws, DRAWS)))]
    return [items[i] for i in max(batches, key=lambda batch: sum(costs[i] for i in batch))]


def planned(items: Sequence[Item], tokens: int, cost: Callable[[Item], int]) -> list[Item]:
    """A planned batch of at most so many tokens (batches.py), of items about as long as the longest."""
    ordered = sorted(items, key=cost, reverse=True)
    size = max(1, tokens // cost(ordered[0]))
    return [ordered[number % len(ordered)] for number in range(size)]


def _format(cfg: DictConfig) -> ChatFormat | None:
    """How the model's conversations are written; None where it has no tokenizer (yet)."""
    source = model_source(cfg.model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(ready_path(source), revision=source.revision)
        return chat_format(tokenizer, cfg.model.chat_template)
    except (OSError, ValueError, TypeError, AttributeError, UserError):  # a folder without one can cause any of these
        return None


def _drawn(read: Sequence[Source], data: DictConfig) -> tuple[list[dict], int]:
    """A random sample of the pairs (reservoir sampling), and how many there are in all."""
    generator = random.Random(0)
    rows: list[dict] = []
    count = 0
    for source in read:
        for file in source.files(data.folder):
            for _, row in source.raw_pairs(read_file(source.key, str(file))):
                if isinstance(row, str):
                    continue
                count += 1
                place = len(rows) if len(rows) < SAMPLE else generator.randrange(count)
                if place < SAMPLE:
                    rows[place : place + 1] = [{"id": str(count), **row}]
    usable = [columns for _, columns in readable(rows, lambda row: pair(row, str(row["id"]), data.name))]
    return usable, round(count * len(usable) / max(1, len(rows)))


def _items(rows: Sequence[dict], format: ChatFormat) -> list[Item]:
    read = readable(rows, lambda row: format.render(row["prompt"], [row["chosen"], row["rejected"]]))
    return [item for _, answers in read if all((item := Item.of(answers)).answers)]


def _longest(cfg: DictConfig) -> Item:
    """The longest pair that trainings take, in place of pairs that can't be read."""
    trains_rewards = bool(set(trained_with("trainer")) & set(cfg.stages))
    longest = max(cfg.trainer.max_length if trains_rewards else 0, cfg.policy.max_length)
    half = math.ceil(longest / 2)
    return Item([0] * half, [[0] * (longest - half)] * 2)


def asked_prompts(cfg: DictConfig, sets: Sequence[str], heldout: int) -> int:
    """How many prompts of these sets are evaluated on, of the data's own those kept from training or the world's three
    sets. heldout: pairs that are kept from training."""
    prompts = cfg.evaluation.prompts
    own = 3 * prompts if cfg.data.name == "world" else min(heldout, prompts)
    return sum(own if name == "data" else prompts for name in sets)
