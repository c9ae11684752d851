"""Prompts and their answers as one batch of rows: padded, one answer a row, or packed so that no prompt is read twice.

Packed, an item is [prompt without its last token; last prompt token + first answer; last prompt token + second ...]:
the prompt, and a branch for each answer. A row holds several items. Positions start again at every branch, and a token
sees its prompt and its own branch up to itself: so every answer is computed as if it stood alone behind its prompt. The
prompt's last token is repeated because it predicts the first token of each answer, and a position can predict only one.

In segments, all texts of a batch stand in one row, one behind the other, each with its prompt. Nothing is shared and no
mask is given: transformers tells segments apart by positions that begin again, as flash attention needs them.

All layouts describe a batch in the same words, so that everything that reads answers is written once:
    answer_row, answer_start, answer_stop   where each answer stands: first answers of all items, then second ones ...
    answer_last                             flat position of its last token that isn't padding: there rewards are read
    predictors, targets, target_answer      flat positions, the token each must predict, and the answer it belongs to
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from alignment.data.chat import Rendered
from alignment.maths.pooling import Answers
from alignment.models import item_attention
from alignment.models.architecture import goes_item_by_item, sight, why_no_shared_prompt, why_one_text_a_row
from alignment.models.row_filling import fill_rows
from alignment.types import PackingMode, UserError

PADDING, PROMPT = -1, 0  # in `item`, and in `branch`, whose answers count from 1
PACKINGS = get_args(PackingMode)
# fill_rows' balance, divided by the model's width w. A block has about 16 w^2 weights, so that attention over rows of
# 8 w tokens takes as many operations as the rest; it does 0.7 times as many a second on the CPU that was measured.
BALANCE = 6
NO_BALANCE = 10**9  # attention item by item takes the same however wide a row is


@dataclass(frozen=True)
class Item:
    """A prompt and its answers, none of them empty. Without a prompt, nothing predicts an answer's first token."""

    prompt: Sequence[int]
    answers: Sequence[Sequence[int]]

    def __len__(self) -> int:
        """Tokens it takes when packed."""
        repeated = min(1, len(self.prompt))
        return len(self.prompt) - repeated + sum(repeated + len(answer) for answer in self.answers)

    @property
    def longest(self) -> int:
        """Tokens of its longest text."""
        return len(self.prompt) + max(len(answer) for answer in self.answers)

    @classmethod
    def of(cls, texts: Sequence[Rendered]) -> "Item":
        """Answers to the same prompt. It ends where it does in all texts: tokens may merge its end with an answer."""
        start = min(text.prompt_length for text in texts)
        return cls(texts[0].ids[:start].tolist(), [text.ids[start:].tolist() for text in texts])


@dataclass(frozen=True)
class Layout:
    """How items become rows, and what a model is given: packed, in segments, or one row an answer, padded on the right.

    max_tokens: of a packed row. multiple: rows are filled up to a multiple of so many tokens. balance: see fill_rows.
    window: the models' smallest sliding window, which our masks don't have.
    """

    packed: bool
    max_tokens: int
    pad_id: int
    multiple: int = 1
    balance: int = 2048
    window: int | None = None
    segments: bool = False

    @property
    def together(self) -> bool:
        """Does a row hold several texts?"""
        return self.packed or self.segments

    def padded(self) -> "Layout":
        return replace(self, packed=False, segments=False)

    def size(self, item: Item) -> int:
        """Tokens an item takes in a batch of items like it."""
        if self.segments:
            return sum(len(item.prompt) + len(answer) for answer in item.answers)
        return len(item) if self.packed else len(item.answers) * item.longest

    def batch(self, items: Sequence[Item]) -> dict[str, Tensor]:
        """input_ids, position_ids, item and branch, all (row, token), and where the answers stand."""
        order = list(answer_order(items))
        if self.packed and self.window is not None and max(item.longest for item in items) > self.window:
            raise UserError("packing", f"a text is longer than the sliding window of {self.window}", "set packing=off")
        if self.packed:
            rows = fill_rows([len(item) for item in items], self.max_tokens, self.balance)
            places = [[(number, list(range(len(items[number].answers)))) for number in row] for row in rows]
        elif self.segments:
            places = [[(number, [which]) for number, which in order]]
        else:
            places = [[(number, [which])] for number, which in order]
        rows = [list(_pieces(items, place)) for place in places]
        width = -(-max(sum(len(tokens) for tokens, *_ in row) for row in rows) // self.multiple) * self.multiple
        tables = [np.full((len(rows), width), filler, dtype=np.int64) for filler in (self.pad_id, 0, PADDING, PROMPT)]
        stretches, place_of = [], {}
        for i, row in enumerate(rows):
            stop = 0
            for tokens, position, number, part in row:
                start, stop = stop, stop + len(tokens)
                values = (tokens, np.arange(position, position + len(tokens)), number, part)
                for table, value in zip(tables, values, strict=True):
                    table[i, start:stop] = value
                if part == PROMPT:
                    stretches.append((i, start, start + len(items[number])))
                else:
                    place_of[number, part - 1] = (i, stop - len(items[number].answers[part - 1]), stop)
        ids, positions, item, branch = map(torch.from_numpy, tables)
        where = np.array([place_of[answer] for answer in order], dtype=np.int64)  # (answer, 3): row, start, stop
        unpredicted = np.array([not len(items[number].prompt) for number, _ in order], dtype=np.int64)
        counts = where[:, 2] - where[:, 1] - unpredicted
        first = np.repeat(where[:, 0] * width + where[:, 1] + unpredicted, counts)
        targets = torch.from_numpy(first + np.concatenate([np.arange(count) for count in counts]))
        row, start, stop = torch.from_numpy(where.T.copy())
        number, which = torch.tensor(order).T[..., None]
        text = (item[row] == number) & ((branch[row] == PROMPT) | (branch[row] == which + 1))
        text &= torch.arange(width) < stop[:, None]  # in segments another text with this prompt follows
        kept = text & (ids[row] != self.pad_id)  # an end token that is also padding is padding to transformers
        return {
            "answer_row": row,
            "answer_start": start,
            "answer_stop": stop,
            "answer_last": row * width + torch.arange(width).where(kept, 0).amax(dim=1),
            "input_ids": ids,
            "position_ids": positions,
            "item": item,
            "branch": branch,
            "stretches": torch.tensor(stretches),
            "predictors": targets - 1,
            "targets": ids.view(-1)[targets],
            "target_answer": torch.from_numpy(np.repeat(np.arange(len(order)), counts)),
        }

    def inputs(self, batch: dict[str, Tensor], model: PreTrainedModel) -> dict[str, Tensor]:
        """What the model's forward takes."""
        if self.segments:
            return {"input_ids": batch["input_ids"], "position_ids": batch["position_ids"], "attention_mask": None}
        if not self.packed:
            return {"input_ids": batch["input_ids"], "attention_mask": (batch["item"] != PADDING).long()}
        rows = {"input_ids": batch["input_ids"], "position_ids": batch["position_ids"]}
        item, branch, attention = batch["item"], batch["branch"], model.config._attn_implementation
        if attention != item_attention.NAME:
            return {**rows, "attention_mask": packed_mask(item, branch, attention, model.dtype)}
        stretches = []
        for row, start, stop in batch["stretches"].tolist():
            part = slice(row, row + 1), slice(start, stop)
            stretches.append((row, start, stop, packed_mask(item[part], branch[part], "sdpa", model.dtype)))
        unread = item.new_ones(1, 1, 1, 1, dtype=torch.bool)  # of four dimensions, so that transformers makes none
        return {**rows, "attention_mask": unread, "stretches": stretches}


@dataclass(frozen=True)
class Packing:
    """The setting (conf/packing): "auto" packs where the model allows it, "off" never; "segments" shares no prompt."""

    name: str = "auto"
    max_tokens: int = 4096

    def __post_init__(self) -> None:
        if self.name not in PACKINGS:
            raise UserError("packing", f"{self.name!r} is not a choice", f"choose one of {', '.join(PACKINGS)}")
        if type(self.max_tokens) is not int or self.max_tokens < 1:
            raise UserError("packing.max_tokens", f"{self.max_tokens!r} is no number of tokens", "give one, as 1024")

    def layout(
        self,
        models: Sequence[PreTrainedModel],
        device: torch.device,
        pad_id: int,
        longest: Callable[[], int],
        multiple: int = 1,
    ) -> tuple[Layout, str]:
        """How these models may read rows, and a line that says how and why. longest: tokens of the longest text.

        That is what models say of themselves. Where rows hold several texts, packing_check.py puts it to the test.
        """
        segments = self.name == "segments"
        reasons = ["packing=off"] if self.name == "off" else [why_padded(model, longest, segments) for model in models]
        why = next(filter(None, reasons), None)
        balance = BALANCE * models[0].config.get_text_config().hidden_size
        packed = why is None and not segments
        if packed and device.type == "cpu" and all(map(goes_item_by_item, models)):
            balance = NO_BALANCE
            for model in models:
                model.set_attn_implementation(item_attention.NAME)
        window = min((limit[0] for limit in map(sight, models) if limit is not None), default=None)
        layout = Layout(packed, self.max_tokens, pad_id, multiple, balance, window, segments and why is None)
        return layout, line_of(layout, why)


def answers(batch: dict[str, Tensor]) -> Answers:
    """Where a batch's answers stand, as find_spans takes it."""
    return Answers(batch["answer_row"], batch["answer_start"], batch["answer_stop"])


def answer_order(items: Sequence[Item]) -> Iterator[tuple[int, int]]:
    """(item, answer): first answers of all items, then second ones, and so on."""
    for which in range(max(len(item.answers) for item in items)):
        yield from ((number, which) for number, item in enumerate(items) if which < len(item.answers))


def shared_start(texts: Sequence[Sequence[int]]) -> int:
    """How many tokens all texts have in common at their start."""
    places = enumerate(zip(*texts, strict=False))
    return next((i for i, tokens in places if tokens.count(tokens[0]) < len(tokens)), min(map(len, texts)))


def _pieces(items: Sequence[Item], place: Sequence[tuple[int, list[int]]]) -> Iterator[tuple[list[int], int, int, int]]:
    """What a row consists of, one piece after the other: its ids, its first position, its item and its branch.

    place: the numbers of items, and of the answers that each is laid out with.
    """
    for number, answers in place:
        prompt = items[number].prompt
        yield list(prompt[:-1]), 0, number, PROMPT
        for which in answers:
            yield [*prompt[-1:], *items[number].answers[which]], max(len(prompt) - 1, 0), number, which + 1


# ---- who sees whom --------------------------------------------------------------------------------------------------


def packed_mask(item: Tensor, branch: Tensor, attention: str, dtype: torch.dtype):
    """The mask as the model's attention takes it: boolean, added to the scores, or FlexAttention's blocks.

    A padding token sees itself, since a softmax over nothing is not a number.
    """

    def sees(row: Tensor, query: Tensor, key: Tensor) -> Tensor:
        same = item[row, query] == item[row, key]
        before = (branch[row, key] == PROMPT) | (branch[row, key] == branch[row, query])
        return (query == key) | (same & before & (key <= query) & (item[row, query] != PADDING))

    rows, width = item.shape
    if attention == "flex_attention":
        from torch.nn.attention.flex_attention import create_block_mask

        return create_block_mask(
            lambda row, head, query, key: sees(row, query, key), rows, None, width, width, device=item.device
        )
    at = torch.arange(width, device=item.device)
    row = torch.arange(rows, device=item.device)[:, None, None]
    allowed = sees(row, at[None, :, None], at[None, None, :])[:, None]
    if attention == "sdpa":
        return allowed
    return torch.zeros(allowed.shape, dtype=dtype, device=item.device).masked_fill(~allowed, torch.finfo(dtype).min)


def why_padded(model: PreTrainedModel, longest: Callable[[], int], segments: bool = False) -> str | None:
    """Why rows of this model are padded, as far as the model itself tells; None if nothing speaks against others.

    longest: tokens of the longest text. segments: are texts to share a row, but no prompt?
    """
    if segments:
        return why_one_text_a_row(model)
    if (why := why_no_shared_prompt(model)) is not None:
        return why
    limit = sight(model)
    if limit is not None and (tokens := longest()) > limit[0]:
        return f"a text has {tokens} tokens and the model's {limit[1]} {limit[0]}"
    return None


def line_of(layout: Layout, why: str | None) -> str:
    """How rows are laid out, as a run says it; why: they are padded."""
    if layout.packed:
        return f"  rows: packed, each prompt read once, at most {layout.max_tokens} tokens a row"
    if layout.segments:
        return "  rows: segments, a micro-batch's texts one behind the other, without padding"
    return f"  rows: padded, one answer a row: {why}"


def laid_out_padded(layout: Layout, models: Sequence[PreTrainedModel], why: str) -> tuple[Layout, str]:
    """What is done where rows of several texts were found to differ: the padded layout, and the line that says so."""
    for model in models:
        if model.config._attn_implementation == item_attention.NAME:
            model.set_attn_implementation("sdpa")
    padded = layout.padded()
    return padded, line_of(padded, why)
