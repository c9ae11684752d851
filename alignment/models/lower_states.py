"""What the frozen lower blocks of a model give for every token, computed once: on that the upper blocks are trained.

Every token of every distinct text has a number, and that is its row in a table on disk: a text becomes the numbers of
its tokens, and whatever takes token ids takes those. Texts with the same prompt share its numbers: blocks that only
look back give the same for it, whatever the answer is.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from alignment.data.chat import Rendered
from alignment.models.activations import states_layout
from alignment.models.devices import to_device, to_host
from alignment.models.packing import PADDING, PROMPT, Item, Layout, Packing, answer_order
from alignment.runs.artifacts import atomic_file
from alignment.runs.batches import Pending, compute_in_batches
from alignment.runs.ranks import Ranks
from alignment.types import StageFailed

READ_TOKENS = 8192  # in a batch


@dataclass
class NumberedTexts:
    """The tokens of texts, numbered from `padding` + 1; `padding` stands for none, as the tokenizer's own id does."""

    padding: int
    groups: dict[bytes, list[Rendered]] = field(default_factory=dict)  # distinct texts by their prompt
    _numbers: dict[bytes, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, texts: Iterable[Rendered], padding: int) -> "NumberedTexts":
        numbered = cls(padding)
        there: set[bytes] = set()
        for text in texts:
            if (key := text.ids.tobytes()) not in there:
                there.add(key)
                numbered.groups.setdefault(text.ids[: text.prompt_length].tobytes(), []).append(text)
        following = padding + 1
        for group in numbered.groups.values():
            prompt = np.arange(following, following := following + group[0].prompt_length, dtype=np.int32)
            for text in group:
                stop = following + len(text.ids) - text.prompt_length
                numbers = np.concatenate([prompt, np.arange(following, stop, dtype=np.int32)])  # as token ids are
                numbered._numbers[text.ids.tobytes()] = numbered._without_end(text, numbers)
                following = stop
        numbered.count = following - padding - 1
        return numbered

    count: int = 0  # tokens that have a number

    def __getitem__(self, text: Rendered) -> Rendered:
        """A text as the numbers of its tokens."""
        return replace(text, ids=self._numbers[text.ids.tobytes()])

    def _without_end(self, text: Rendered, numbers: np.ndarray) -> np.ndarray:
        """Padding tokens that end a text are padding to transformers: the reward is read before them."""
        tokens = np.flatnonzero(text.ids != self.padding)
        numbers[tokens[-1] + 1 if len(tokens) else 0 :] = self.padding
        return numbers

    @property
    def items(self) -> list[Item]:
        """The texts by their prompts, in the order of their numbers."""
        return [Item.of(group) for group in self.groups.values()]


@dataclass(frozen=True)
class StatesTable:
    """A file of states, a row for every number: the first one, of padding, is zeros."""

    path: Path
    count: int
    width: int
    dtype: torch.dtype
    padding: int

    def module(self) -> "StoredStates":
        """The table in the place of a model's embeddings. The file is mapped into memory, and never read whole."""
        size = (self.count + 1) * self.width
        rows = torch.from_file(str(self.path), shared=False, size=size, dtype=self.dtype)
        return StoredStates(rows.view(-1, self.width), self.padding)


class StoredStates(nn.Module):
    """Gives states for the numbers of tokens. They are no weights: nothing trains, moves or saves them."""

    def __init__(self, rows: Tensor, padding: int) -> None:
        super().__init__()
        self._rows, self._padding = (rows,), padding  # in a tuple, which torch doesn't look into

    def forward(self, numbers: Tensor) -> Tensor:
        return to_device(self._rows[0][numbers.cpu() - self._padding], numbers.device).float()


def read_lower_states(
    lower: PreTrainedModel, texts: NumberedTexts, packing: Packing, dtype: torch.dtype, folder: Path, ranks: Ranks
) -> StatesTable:
    """Computes the table in planned batches, in `folder`; what a killed run left there is not computed again."""
    width = lower.config.get_text_config().hidden_size
    table = StatesTable(folder / "states", texts.count, width, dtype, texts.padding)
    if ranks.from_main(table.path.exists):
        return table
    items = texts.items
    layout = states_layout(lower, packing, texts.padding, items, ranks)

    def compute(batch: list[int]) -> Pending:
        states = to_host(token_states(lower, layout, [items[i] for i in batch]).to(dtype))
        return lambda: _finite(states()).view(torch.uint8).numpy().tobytes()

    sizes = [layout.size(item) for item in items]
    what = "states of the lower blocks"
    finished = compute_in_batches(folder / "batches", what, sizes, READ_TOKENS, compute, ranks)
    if ranks.main:
        _put_together(finished, items, table)
    ranks.wait()
    return table


def _put_together(finished: Iterable[tuple[list[int], bytes]], items: Sequence[Item], table: StatesTable) -> None:
    starts = np.cumsum([1, *map(_tokens, items)])
    of_row = table.width * table.dtype.itemsize
    with atomic_file(table.path) as path, open(path, "wb") as file:
        file.write(bytes(of_row))
        for batch, content in finished:
            begin = 0
            for i in batch:
                end = begin + _tokens(items[i]) * of_row
                file.seek(int(starts[i]) * of_row)
                file.write(content[begin:end])
                begin = end


def _tokens(item: Item) -> int:
    return len(item.prompt) + sum(map(len, item.answers))


@torch.inference_mode()
def token_states(lower: PreTrainedModel, layout: Layout, items: Sequence[Item]) -> Tensor:
    """(token, width): of each item the states of its prompt, then of its answers, in the order of their numbers."""
    batch = layout.batch(items)
    on_device = {name: to_device(value, lower.device) for name, value in batch.items()}
    hidden = lower(**layout.inputs(on_device, lower), use_cache=False).last_hidden_state
    parts: list[list[Tensor]] = [[] for _ in items]
    stands = torch.stack([batch["answer_row"], batch["answer_stop"]], dim=1).tolist()
    for (number, which), (row, stop) in zip(answer_order(items), stands, strict=True):
        item, branch = batch["item"][row], batch["branch"][row]
        places = (item == number) & (item != PADDING) & ((branch == PROMPT) | (branch == which + 1))
        if layout.segments:  # another text with this prompt may stand in the row
            places[: stop - len(items[number].prompt) - len(items[number].answers[which])] = False
            places[stop:] = False
        text = hidden[row, to_device(torch.nonzero(places)[:, 0], hidden.device)]
        parts[number].append(text if which == 0 else text[len(items[number].prompt) :])
    return torch.cat([part for of_item in parts for part in of_item])


def _finite(states: Tensor) -> Tensor:
    """The states, on the host; StageFailed if their precision is too small for one."""
    if not bool(states.isfinite().all()):
        problem = f"a state of the lower blocks is no finite number in {str(states.dtype).removeprefix('torch.')}"
        raise StageFailed("trainer.upper_blocks", problem, "leave it out: the whole model is trained then")
    return states
