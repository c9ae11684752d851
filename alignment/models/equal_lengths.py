"""Both answers of a pair cut to the tokens of the shorter one, each with the end of turn that its template writes.

What two such answers differ in is neither how long they are nor whether they end. They are cut in tokens, not in text:
text that is cut and tokenized again may have more tokens, or fewer.
"""

from collections.abc import Sequence
from itertools import takewhile

import numpy as np

from alignment.data.cells import BadRow
from alignment.data.chat import ChatFormat, Rendered

SHORTEST = 3  # tokens that are left of an answer: of fewer nothing is to be read


def equal_lengths(
    pair: Sequence[Rendered], format: ChatFormat, ends: set[int], ending: Sequence[int]
) -> tuple[Rendered, Rendered]:
    """The pair at equal length; BadRow if its shorter answer has too few tokens.

    ends: the tokens that may end an answer. ending: those that end both now, even one that was cut off while it was
    generated; none in a format without an end of turn.
    """
    before_end = list(takewhile(lambda token: token not in ends, ending))  # a space, in some templates
    bodies = [_without(format.without_end(answer, ends), before_end) for answer in pair]
    tokens = min(len(body.ids) - body.prompt_length for body in bodies)
    if tokens < SHORTEST:
        raise BadRow(
            f"one of its answers has less than {SHORTEST} tokens: too few to compare at equal length (match_length)"
        )
    one, other = (
        Rendered(
            np.asarray([*body.ids[: body.prompt_length + tokens], *ending], dtype=np.int32), body.prompt_length, False
        )
        for body in bodies
    )
    return one, other


def _without(answer: Rendered, last: Sequence[int]) -> Rendered:
    ids = answer.ids
    ends_so = len(last) > 0 and ids[answer.prompt_length :][-len(last) :].tolist() == list(last)
    return Rendered(ids[: -len(last)], answer.prompt_length, answer.truncated) if ends_so else answer
