"""The content of a file, unpacked where it is a .gz or .xz; one that isn't whole is refused."""

import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from alignment.types import UserError

PIECE = 2**16  # bytes


@contextmanager
def unpacked(key: str, file: Path) -> Iterator[BinaryIO]:
    try:
        with open(file, "rb") as raw:
            if file.suffix in PACKED:
                with PACKED[file.suffix](raw) as content:
                    yield content
            else:
                yield raw
    except EOFError as error:
        raise UserError(key, f"{file} ends too early: a part of it is missing", "copy it again") from error
    except (gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        problem = f"{file} is not a sound {file.suffix} file: {in_one_line(error)}"
        raise UserError(key, problem, "copy it again") from error


def in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(".;")


class _Xz(io.RawIOBase):
    """Unpacks xz streams, one after the other. Python's own reader stops without a word where a later stream is broken
    at its beginning."""

    def __init__(self, packed: BinaryIO) -> None:
        self._packed = packed
        self._stream = lzma.LZMADecompressor()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = b""
        while not content:
            more = b""
            if self._stream.eof:
                more = self._stream.unused_data.lstrip(b"\0")  # streams may be padded
                while not more:
                    piece = self._packed.read(PIECE)
                    if not piece:
                        return 0
                    more = piece.lstrip(b"\0")
                self._stream = lzma.LZMADecompressor()
            elif self._stream.needs_input and not (more := self._packed.read(PIECE)):
                raise EOFError
            content = self._stream.decompress(more, len(buffer))
        buffer[: len(content)] = content
        return len(content)


PACKED: dict[str, Callable[[BinaryIO], Any]] = {".gz": gzip.open, ".xz": lambda raw: io.BufferedReader(_Xz(raw))}
