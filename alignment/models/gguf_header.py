"""The header of a GGUF file, read before anything else is: is the file whole, and can it be converted at all?

transformers takes a header's word for how long things are: of a damaged one it reads behind the file's end, or for
ever.
"""

import struct
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import IO

from alignment.types import UserError

# the kinds of values a header has, by their numbers in the format's specification
FIXED = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
STRING, ARRAY = 8, 9
VERSIONS = (2, 3)
ALIGNMENT = 32  # bytes, where a file names none
MOST_DIMENSIONS = 4
OTHER_FILE = "give another file, or the original model's folder"


class _CutOff(Exception):
    """The header goes on behind the end of the file."""


@dataclass
class _Reader:
    file: IO[bytes]
    size: int
    facts: dict[str, object] = field(default_factory=dict)  # single values; of arrays nothing is needed

    def skip(self, count: int) -> None:
        if count > self.size - self.file.tell():
            raise _CutOff
        self.file.seek(count, 1)

    def number(self, form: str) -> int | float | bool:
        content = self.file.read(struct.calcsize(form))
        if len(content) < struct.calcsize(form):
            raise _CutOff
        return struct.unpack(form, content)[0]

    def text(self) -> str:
        length = self.number("<Q")
        self.skip(length)
        self.file.seek(-length, 1)
        return self.file.read(length).decode("utf-8")

    def value(self) -> object:
        kind = self.number("<I")
        if kind == STRING:
            return self.text()
        if kind in FIXED:
            return self.number(FIXED[kind])
        if kind != ARRAY:
            raise ValueError(f"a value of the kind {kind}, which there isn't")
        kind, count = self.number("<I"), self.number("<Q")
        if kind in FIXED:
            self.skip(count * struct.calcsize(FIXED[kind]))
        elif kind == STRING:
            for _ in range(count):
                self.skip(self.number("<Q"))
        else:
            raise ValueError(f"an array of the kind {kind}")
        return None

    def tensor(self) -> tuple[str, int]:
        """The name of a tensor, and where it ends, from where the first one begins."""
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        name, dimensions = self.text(), self.number("<I")
        if dimensions > MOST_DIMENSIONS:
            raise ValueError(f"{dimensions} dimensions of {name}")
        shape = [self.number("<Q") for _ in range(dimensions)]
        kind, offset = self.number("<I"), self.number("<Q")
        values, bytes_of_them = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        return name, offset + -(-prod(shape) // values) * bytes_of_them


def architecture_of(path: Path, key: str) -> str:
    """The architecture that a GGUF file names; UserError if it isn't whole, or wouldn't become the same model.

    key: the setting that gave the path, which errors name.
    """

    def refused(problem: str, remedy: str = OTHER_FILE) -> UserError:
        return UserError(key, f"{path} {problem}", remedy)

    with open(path, "rb") as file:
        reader = _Reader(file, path.stat().st_size)
        if file.read(4) != b"GGUF":
            raise refused("is no GGUF file", "give one, or a folder that save_pretrained wrote")
        try:
            if (version := reader.number("<I")) not in VERSIONS:
                raise refused(f"is of version {version} of GGUF, and {VERSIONS[0]} or {VERSIONS[1]} can be read")
            tensors, values = reader.number("<Q"), reader.number("<Q")
            for _ in range(values):
                name = reader.text()
                reader.facts[name] = reader.value()
            ends = dict(reader.tensor() for _ in range(tensors))
        except _CutOff:
            raise refused(f"is cut off or damaged: its header goes on behind its {reader.size:,} bytes") from None
        except (ValueError, KeyError) as error:
            raise refused(f"is damaged: its header holds {error}") from error
        alignment = reader.facts.get("general.alignment", ALIGNMENT)
        if type(alignment) is not int or alignment < 1:
            raise refused(f"is damaged: its header holds an alignment of {alignment!r}")
        needed = -(-file.tell() // alignment) * alignment + max(ends.values(), default=0)
    if needed > reader.size:
        raise refused(f"is cut off or damaged: it has {reader.size:,} bytes, and by its header {needed:,}")
    architecture, parts = reader.facts.get("general.architecture"), reader.facts.get("split.count", 0)
    if not isinstance(architecture, str):
        raise refused("names no architecture")
    if parts > 1:
        raise refused(f"is one of {parts} parts of a model", "join them first: llama-gguf-split --merge")
    scaling = reader.facts.get(f"{architecture}.rope.scaling.type", "none")
    if architecture != "gpt-oss" and ("rope_freqs.weight" in ends or scaling != "none"):
        raise refused("scales its positions, which transformers doesn't read: it would become another model")
    return architecture
