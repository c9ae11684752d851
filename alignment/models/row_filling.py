"""Which items share a packed row, so that least is computed."""

from collections.abc import Sequence

WIDTHS = 16  # widths that are tried for the rows


def fill_rows(lengths: Sequence[int], max_tokens: int, balance: int) -> list[list[int]]:
    """Which items share a row of at most max_tokens: first fit, longest first. A longer item gets a row of its own.

    What is computed is the widest row times their number, and attention grows with the width; of several widths the one
    that costs least is taken. balance: the width at which attention costs as much as everything else.
    """
    alone = [[i] for i, length in enumerate(lengths) if length > max_tokens]
    order = sorted((i for i, length in enumerate(lengths) if length <= max_tokens), key=lambda i: (-lengths[i], i))
    if not order:
        return alone
    low = lengths[order[0]]
    widths = sorted({low + (max_tokens - low) * step // WIDTHS for step in range(WIDTHS + 1)})

    def cost(rows: list[list[int]]) -> float:
        width = max(sum(lengths[i] for i in row) for row in rows)
        return len(rows) * width * (1 + width / balance)

    return min((alone + _first_fit(lengths, order, width) for width in widths), key=cost)


def _first_fit(lengths: Sequence[int], order: Sequence[int], width: int) -> list[list[int]]:
    rows: list[list[int]] = []
    room: list[int] = []
    for i in order:
        fits = next((row for row, left in enumerate(room) if left >= lengths[i]), None)
        if fits is None:
            rows.append([i])
            room.append(width - lengths[i])
        else:
            rows[fits].append(i)
            room[fits] -= lengths[i]
    return rows
