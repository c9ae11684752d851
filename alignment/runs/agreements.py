"""What a run found out once about its models and need not find out again: whether packed rows give what padded ones do.

A file each, named by a hash of what it depends on. A trainer used from Python has no run, and looks every time.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from alignment.runs.artifacts import read_json_if_intact, write_json
from alignment.runs.ranks import Ranks


class _Agreements:
    """folder: of this run; None where no run has begun."""

    def __init__(self) -> None:
        self.folder: Path | None = None

    @contextmanager
    def in_a_run(self, folder: Path) -> Iterator[None]:
        self.folder = folder
        try:
            yield
        finally:
            self.folder = None

    def why_not(self, key: str, find: Callable[[], str | None], ranks: Ranks) -> str | None:
        """Why two ways don't agree, None if they do: as it was found before, or as `find` finds it now.

        All ranks must call this, and all get the answer of the main process; if only another finds a reason, that there
        is one.
        """
        path = None if self.folder is None else self.folder / f"{key}.json"
        found = {} if path is None else ranks.from_main(lambda: read_json_if_intact(path))
        if "why_not" in found:
            return found["why_not"]
        why = find()
        if ranks.any(why is not None):
            why = ranks.from_main(lambda: why or "another rank found a difference")
        if path is not None and ranks.main:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {"why_not": why})
        return why


agreements = _Agreements()
