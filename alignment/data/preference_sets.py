"""Preference data sets: one function for each, from the rows of its release to raw pairs.

A function is given the lines of a set's files. It yields, for every pair, the lines it was made of and the raw pair
that columns.pair takes, or for a line no pair came of, why. So every line is accounted for.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby

from alignment.data.columns import BadRow, as_float, intact, shown
from alignment.data.files import Line
from alignment.data.labelled_sets import beavertails_answer, helm_answer
from alignment.types import Message, Preference

Lines = tuple[int, ...]
Made = tuple[Lines, dict | str]
_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def file(lines: Iterator[Line], columns: Mapping[str, str]) -> Iterator[Made]:
    """Own rows; `columns` says which of theirs is ours: {"prompt": "question"}."""
    for number, row in lines:
        if isinstance(row, str) or not columns:
            yield (number,), row
        elif missing := [theirs for theirs in columns.values() if theirs not in row]:
            yield (number,), f"has no column {missing[0]}"
        else:
            yield (number,), {**row, **{ours: row[theirs] for ours, theirs in columns.items()}}


def pku_saferlhf(lines: Iterator[Line], preference: Preference) -> Iterator[Made]:
    """Two answers to a prompt: the safer, or the better one is chosen. Also the form of the data that has them in order
    ("response": [safe, unsafe])."""
    for number, row in lines:
        yield (number,), row if isinstance(row, str) else _pku_pair(row, preference)


def _pku_pair(row: dict, preference: Preference) -> dict | str:
    if isinstance(row.get("response"), list):
        if preference != "safety" or len(row["response"]) != 2:
            return "has a safe and an unsafe response, and no preference for helpfulness"
        chosen, rejected = row["response"]
        both = {"chosen": chosen, "rejected": rejected, "chosen_safe": True, "rejected_safe": False}
        return {"prompt": row.get("prompt"), **both}
    column = {"safety": "safer_response_id", "helpfulness": "better_response_id"}[preference]
    better = row.get(column)
    if as_float(better) not in (0, 1):  # text in a csv, a float where pandas had nulls
        return f"{column} is {shown(better)}, neither 0 nor 1"
    sides = {"chosen": int(as_float(better)), "rejected": 1 - int(as_float(better))}
    pair = {"prompt": row.get("prompt")}
    harms: set[str] = set()
    for side, number in sides.items():
        pair[side] = row.get(f"response_{number}")
        pair[f"{side}_severity"] = row.get(f"response_{number}_severity_level")
        pair[f"{side}_safe"] = row.get(f"is_response_{number}_safe")
        found = row.get(f"response_{number}_harm_category") or {}
        harms |= {name for name, there in found.items() if there} if isinstance(found, dict) else set()
    return {**pair, "category": "; ".join(sorted(harms)) or None}


def beavertails(lines: Iterator[Line]) -> Iterator[Made]:
    """Single answers, each safe or not: within a prompt the first safe one meets the first unsafe one, and so on."""
    answers: dict[str, tuple[list, list]] = {}
    for number, row in lines:
        try:
            prompt, answer, unsafe, category = beavertails_answer(intact(row))
            answers.setdefault(prompt, ([], []))[unsafe].append((number, answer, category))
        except BadRow as error:
            yield (number,), str(error)
    for prompt, (safe, unsafe) in answers.items():
        left = list(unsafe)
        for first, good, _ in safe:
            other = next((one for one in left if one[1] != good), None)
            if other is None:
                yield (first,), "no other answer of the other label to this prompt is left to pair it with"
                continue
            left.remove(other)
            second, bad, category = other
            labels = {"chosen_safe": True, "rejected_safe": False, "category": category}
            yield (first, second), {"prompt": prompt, "chosen": good, "rejected": bad, **labels}
        for number, _, _ in left:
            yield (number,), "no other answer of the other label to this prompt is left to pair it with"


def hh(lines: Iterator[Line]) -> Iterator[Made]:
    """Two dialogues that end differently: everything up to the last turn of the assistant is the prompt."""
    for number, row in lines:
        try:
            chosen, rejected = (_dialogue(intact(row).get(side), side) for side in ("chosen", "rejected"))
            if chosen[:-1] != rejected[:-1]:
                raise BadRow("chosen and rejected don't answer the same turns")
            yield (number,), {"prompt": chosen[:-1], "chosen": chosen[-1:], "rejected": rejected[-1:]}
        except BadRow as error:
            yield (number,), str(error)


def _dialogue(text: object, column: str) -> list[Message]:
    """The turns of a dialogue; turns of one speaker in a row are one."""
    if not isinstance(text, str):
        raise BadRow(f"{column} is {'empty' if text is None else 'not text'}")
    before, *rest = _TURN.split(text)
    if before.strip() or not rest:
        raise BadRow(f"{column} is not a dialogue that begins with Human:")
    turns = zip(rest[::2], rest[1::2], strict=True)
    spoken = [
        {"role": _ROLES[name], "content": "\n\n".join(said.strip() for _, said in many)}
        for name, many in groupby(turns, key=lambda turn: turn[0])
    ]
    if len(spoken) < 2 or spoken[0]["role"] != "user" or spoken[-1]["role"] != "assistant":
        raise BadRow(f"{column} doesn't go from Human: to an answer of the Assistant:")
    return spoken


def helm_graded(lines: Iterator[Line]) -> Iterator[Made]:
    """Answers of many models to the same prompts, graded by two judges from 0 (harmful) to 1.

    Every two that both judges put in the same order make a pair; the difference of their mean grades is the margin.
    """
    answers: dict[str, list[tuple[int, str, dict[str, float]]]] = {}
    for number, row in lines:
        try:
            prompt, answer, grades = helm_answer(intact(row))
            answers.setdefault(prompt, []).append((number, answer, grades))
        except BadRow as error:
            yield (number,), str(error)
    used: set[int] = set()
    for prompt, many in answers.items():
        for first, good, high in many:
            for second, bad, low in many:
                gaps = [high[judge] - low[judge] for judge in high]
                if min(gaps) < 0 or max(gaps) == 0 or good == bad:
                    continue
                used |= {first, second}
                yield (first, second), {"prompt": prompt, "chosen": good, "rejected": bad, "margin": sum(gaps) / 2}
    for number, *_ in (answer for many in answers.values() for answer in many):
        if number not in used:
            yield (number,), "no other answer to this prompt is graded higher or lower by both judges"


SETS: dict[str, Callable[..., Iterator[Made]]] = {
    "pku_saferlhf": pku_saferlhf, "pku_saferlhf_10k": pku_saferlhf, "pku_saferlhf_30k": pku_saferlhf,
    "beavertails": beavertails, "hh_harmless": hh, "hh_helpful": hh, "helm_graded": helm_graded,
}  # fmt: skip
RANKED = [name for name, function in SETS.items() if function is pku_saferlhf]  # by safety, and by helpfulness
