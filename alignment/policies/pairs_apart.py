"""The given pairs that a live confidence is held against in training: neither policy nor reward learns from them."""

from collections.abc import Iterable, Mapping, Sequence

from alignment.data.same_prompts import prompt_text


def calibration_pairs(rows: Sequence[dict], fitted: Iterable[Mapping], count: int) -> list[dict]:
    """The last `count` training pairs whose prompts the reward wasn't fitted on. fitted: the pairs that it was.

    The last ones, since both the reward and the policy's own samples take the first prompts.
    """
    known = {prompt_text(row["prompt"]) for row in fitted}
    found: list[dict] = []
    for number in reversed(range(len(rows))):
        if len(found) == count:
            break
        if prompt_text((row := rows[number])["prompt"]) not in known:
            found.append(row)
    return found[::-1]


def without_prompts_of(rows: Iterable[dict], pairs: Iterable[Mapping]) -> list[dict]:
    """The rows whose prompts no pair has."""
    asked = {prompt_text(row["prompt"]) for row in pairs}
    return [row for row in rows if prompt_text(row["prompt"]) not in asked]
