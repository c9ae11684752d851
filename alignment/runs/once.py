"""Lines that a run says once, though every stage and training of it would say them again."""

from collections.abc import Iterator
from contextlib import contextmanager


class _Once:
    """said: what this run has said; None where no run has begun: a trainer used from Python says all."""

    def __init__(self) -> None:
        self.said: set[str] | None = None

    def begin(self) -> None:
        """A run begins here, or a worker of it, which says what its own trainings have to say."""
        self.said = set()

    @contextmanager
    def in_a_run(self) -> Iterator[None]:
        self.begin()
        try:
            yield
        finally:
            self.said = None

    def first(self, line: str) -> bool:
        """Whether the line is to be said now."""
        if self.said is None:
            return True
        new = line not in self.said
        self.said.add(line)
        return new


once = _Once()
