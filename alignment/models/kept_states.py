"""States of answers that were read once and kept, in half precision: one row for each distinct prompt and answer.

A text is known by its tokens, so that a state is found only for a text that a model would read as exactly these tokens:
in the same template, cut nowhere. The file is mapped into memory: of it, only the rows that are asked for are read.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from alignment.models.packing import Item
from alignment.runs.artifacts import atomic_file
from alignment.types import KeepStates, Pooling, PromptFormat, UserError

LIMIT = 4 * 2**30  # bytes that keep=auto keeps at most: of more, those of a sample of prompts
BYTES = 2  # of a number in half precision
ON_DISK = 2  # times their size are there while the file is put together from the batches
KEY = 16  # bytes by which a text is known
NAMES = {torch.float16: "F16", torch.bfloat16: "BF16"}  # in the header of a safetensors file
Part = tuple[list[bytes], Tensor]  # keys of some texts and their states
T = TypeVar("T")


def text_key(ids: Sequence[int]) -> bytes:
    """What a prompt with an answer is known by."""
    return blake2b(np.asarray(ids, dtype=np.int32).tobytes(), digest_size=KEY).digest()


def item_keys(item: Item) -> list[bytes]:
    """The keys of an item's answers."""
    return [text_key([*item.prompt, *answer]) for answer in item.answers]


def states_bytes(answers: int, layers: int, width: int) -> int:
    return answers * layers * width * BYTES


def bytes_kept(keep: KeepStates, size: int) -> int:
    """How many of all states' bytes are kept, at most: of more than LIMIT, auto keeps a sample."""
    return min(size, LIMIT) if keep == "auto" else size


def why_none(keep: KeepStates, too_few: str | None, size: int, free: int) -> str | None:
    """Why no states are kept, None if they are; UserError where all were asked for and have no room.

    too_few: why the stages that would take them aren't worth it, if so. size: `bytes_kept`. free: bytes on the disk.
    """
    takes = f"states take {size / 1e9:.2f} GB, and {ON_DISK} times that while they are put together"
    if keep == "none":
        return "states.keep=none"
    if keep == "all":
        if free < ON_DISK * size:
            raise UserError("states.keep", f"{takes}; {free / 1e9:.2f} GB are free", "use auto or none, or set run.dir")
        return None
    if too_few is not None:
        return too_few
    return f"{takes}, and {free / 1e9:.2f} GB are free" if free < ON_DISK * size else None


def in_half(states: Tensor, computed_in: torch.dtype) -> Tensor:
    """In float16; in bfloat16 where the model computes in it, or a number would overflow."""
    if computed_in != torch.bfloat16:
        half = states.half()
        if half.isfinite().all():
            return half
    return states.bfloat16()


@dataclass(frozen=True)
class StatesMeaning:
    """What states were read of.

    model: its fingerprint. computed_in: the precision of its weights. template: a hash of how its conversations are
    written. max_length: tokens a text could have.
    """

    model: str
    computed_in: str
    pooling: Pooling
    layers: int
    width: int
    template: str
    max_length: int
    prompt: PromptFormat = "chat"


def write_states(file: Path, parts: Callable[[], Iterable[Part]], meaning: StatesMeaning) -> int:
    """Writes the parts, one after the other, as a safetensors file, and says how many texts they are.

    parts: gives them anew each time; all are in bfloat16 if one of them is.
    """
    keys: list[bytes] = []
    dtype = torch.float16
    for names, states in parts():
        keys += names
        dtype = torch.bfloat16 if states.dtype == torch.bfloat16 else dtype
    size, index = states_bytes(len(keys), meaning.layers, meaning.width), len(keys) * KEY
    header = {
        "__metadata__": {"meaning": json.dumps(asdict(meaning), sort_keys=True)},
        "states": {
            "dtype": NAMES[dtype], "shape": [len(keys), meaning.layers, meaning.width], "data_offsets": [0, size],
        },
        "keys": {"dtype": "U8", "shape": [len(keys), KEY], "data_offsets": [size, size + index]},
    }  # fmt: skip
    content = json.dumps(header).encode()
    content += b" " * (-len(content) % 8)
    with atomic_file(file) as unfinished, open(unfinished, "wb") as out:
        out.write(len(content).to_bytes(8, "little") + content)
        for _, states in parts():
            out.write(states.to(dtype).contiguous().view(torch.int16).numpy().tobytes())
        out.write(b"".join(keys))
    return len(keys)


@dataclass(frozen=True)
class KeptStates:
    """States on disk. rows: the row of each text, by its key."""

    meaning: StatesMeaning
    rows: dict[bytes, int]
    _states: np.ndarray = field(repr=False)  # (text, layer, width) of the mapped file, its halves as whole numbers
    _dtype: torch.dtype

    @classmethod
    def open(cls, file: Path) -> "KeptStates":
        try:
            intact = safe_open(file, framework="pt")
            meaning = StatesMeaning(**json.loads(intact.metadata()["meaning"]))
            keys = intact.get_tensor("keys").numpy().tobytes()
            states, dtype = _mapped(file)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise UserError(str(file), "it holds no kept states", "run stage read_states again") from error
        rows = {keys[at : at + KEY]: at // KEY for at in range(0, len(keys), KEY)}
        return cls(meaning, rows, states, dtype)

    def has(self, keys: Iterable[bytes]) -> bool:
        """Are all of these texts there?"""
        return all(key in self.rows for key in keys)

    def states(self, keys: Sequence[bytes], layer: int | None = None) -> Tensor:
        """(text, layer, width) float32 states of these texts, or (text, width) of one layer, which count from 1."""
        rows = np.array([self.rows[key] for key in keys], dtype=np.int64)
        found = self._states[rows] if layer is None else self._states[rows, layer - 1]  # one copy for all rows
        return torch.from_numpy(found).view(self._dtype).float()


def _mapped(file: Path) -> tuple[np.ndarray, torch.dtype]:
    """The states of a file of `write_states`, and what their bits are. Rows of a safetensors slice are read one by one,
    each of them slower than it is copied."""
    with open(file, "rb") as content:
        length = int.from_bytes(content.read(8), "little")
        states = json.loads(content.read(length))["states"]
    dtype, shape = next(dtype for dtype, name in NAMES.items() if name == states["dtype"]), tuple(states["shape"])
    if not shape[0]:
        return np.empty(shape, dtype=np.int16), dtype
    return np.memmap(file, dtype=np.int16, mode="r", offset=8 + length + states["data_offsets"][0], shape=shape), dtype


def fitting_states(
    file: Path,
    model: str,
    computed_in: torch.dtype,
    pooling: Pooling,
    say: Callable[[str], None],
    prompt: PromptFormat = "chat",
) -> KeptStates | None:
    """The kept states of a run, where it has some, of this model, read at this place; a line says why not.

    model: its fingerprint. prompt: how conversations are written.
    """
    if not file.exists():
        return None
    kept, named = KeptStates.open(file), str(computed_in).removeprefix("torch.")
    wanted = {"model": model, "computed_in": named, "pooling": pooling, "prompt": prompt}
    for name, value in wanted.items():
        if (has := getattr(kept.meaning, name)) != value:
            say(f"  states are read anew: those of read_states are of {name}={has}, and this needs {name}={value}")
            return None
    return kept


def not_kept(pairs: Sequence[T], keys: Callable[[T], list[bytes]], kept: KeptStates | None) -> list[int]:
    """The numbers of the pairs that must be read, since not both answers are kept."""
    return [number for number, pair in enumerate(pairs) if kept is None or not kept.has(keys(pair))]


def taken_line(name: str, pairs: int, left: int) -> str:
    return f"  {name}: the states of {pairs - left:,} pairs are there, {left:,} are read"
