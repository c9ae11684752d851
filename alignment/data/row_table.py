"""Preference pairs on disk, read without holding them in memory: an arrow file behind a sequence of rows."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

CHUNK = 10_000


class RowTable(Sequence[dict]):
    """Rows of a table; a row becomes a dict when it is looked at."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    @classmethod
    def open(cls, path: Path) -> "RowTable":
        """Maps the file into memory: the system reads what is looked at, and may let go of it again."""
        return cls(pa.ipc.open_file(pa.memory_map(str(path))).read_all())

    def __len__(self) -> int:
        return self.table.num_rows

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step == 1:
                return RowTable(self.table.slice(start, max(0, stop - start)))
            return self.take(range(start, stop, step))
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self.table.slice(index % len(self), 1).to_pylist()[0]

    def __iter__(self) -> Iterator[dict]:
        for batch in self.table.to_batches(max_chunksize=1000):
            yield from batch.to_pylist()

    def take(self, indices: Iterable[int]) -> "RowTable":
        return RowTable(self.table.take(pa.array(np.fromiter(indices, dtype=np.int64))))

    def column(self, name: str) -> list:
        return self.table.column(name).to_pylist()


class RowWriter:
    """Writes rows to an arrow file, some thousands at a time."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema, self.count = schema, 0
        self._rows: list[dict] = []
        self._file = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._file, schema)

    def __enter__(self) -> "RowWriter":
        return self

    def __exit__(self, *error: object) -> None:
        self._flush()
        self._writer.close()
        self._file.close()

    def write(self, row: dict) -> None:
        self._rows.append(row)
        self.count += 1
        if len(self._rows) == CHUNK:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_batch(pa.RecordBatch.from_pylist(self._rows, schema=self._schema))
        self._rows = []
