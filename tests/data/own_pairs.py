"""Pairs of a file, as a recipe reads them."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from alignment.data.columns import Loaded
from alignment.data.preference_pairs import Source, Wanted, prepare
from alignment.data.row_table import RowTable


def file_pairs(path: str, heldout: float, *, seed: int, **more) -> tuple[Loaded, Loaded]:
    """Training and held-out pairs; what was set aside is with the training pairs."""
    with TemporaryDirectory() as folder:
        out = Path(folder) / "data"
        counts = prepare([Source("file", path, **more)], folder, Wanted(heldout, seed), {}, out)
        parts = [Loaded(list(RowTable.open(out / f"{part}.arrow"))) for part in ("train", "heldout")]
        parts[0].quarantined = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
    (source,) = counts["sources"]
    assert source["read"] == source["used"] + source["quarantined"] == parts[0].read + parts[1].read
    return parts[0], parts[1]
