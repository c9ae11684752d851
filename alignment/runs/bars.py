"""Progress bars: on a terminal one that moves, in a file a line twice a minute, without carriage returns."""

import sys
from collections.abc import Callable, Iterable
from typing import Any

from tqdm import tqdm

SECONDS = 30  # between lines, and before the first: what takes less has none


class Lines(tqdm):
    """A bar whose every state is a line of its own."""

    @staticmethod
    def status_printer(file: Any) -> Callable[[str], None]:
        """tqdm's, without going back to the start of the line; it clears a bar by writing blanks, which are no line."""

        def write(state: str) -> None:
            if state.strip():
                file.write(f"{state.rstrip()}\n")
                file.flush()

        return write

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """False, as if nothing were shown: what is closed then isn't cleared, by a carriage return."""
        super().display(msg, pos)
        return False

    def moveto(self, n: int) -> None:
        """Nothing: lines of several bars follow each other."""


def bar(
    items: Iterable | None, what: str, total: int | None, unit: str, *, disable: bool = False, done: int = 0,
    fractions: bool = False,
) -> tqdm:  # fmt: skip
    """A bar over items, or one to update. what: names what it is of. done: where it begins; fractions: it moves by."""
    shared = {"desc": what, "total": total, "unit": unit, "disable": disable, "initial": done, "leave": False}
    count = "{n:.1f}/{total}" if fractions else "{n_fmt}/{total_fmt}"
    if not sys.stderr.isatty():
        form = f"{{desc}}: {{percentage:3.0f}}%, {count} {{unit}}, {{elapsed}}, {{remaining}} to go{{postfix}}"
        form = form if total is not None else None
        return Lines(items, mininterval=SECONDS, maxinterval=SECONDS, delay=SECONDS, bar_format=form, **shared)
    form = f"{{desc}}: {{percentage:3.0f}}%|{{bar}}| {count} [{{elapsed}}<{{remaining}}]" if fractions else None
    return tqdm(items, bar_format=form, **shared)
