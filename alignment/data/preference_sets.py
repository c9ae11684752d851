"""Preference data sets: one function for each, from the rows of its release to raw pairs.

A function takes the lines of a set's files. It yields, for every pair, the lines it was made of and the raw pair that
columns.pair takes; and for every line that no pair was made of, the reason. So every line is accounted for.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import chain, groupby, permutations

from alignment.data.cells import BadRow, as_float, shown
from alignment.data.columns import intact, renamed
from alignment.data.files import Line
from alignment.data.labelled_sets import beavertails_answer, helm_answer
from alignment.types import Message, Preference

Lines = tuple[int, ...]
RawPair = tuple[Lines, dict | str]
_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def file(lines: Iterator[Line], columns: Mapping[str, str]) -> Iterator[RawPair]:
    """The rows of a user's file; `columns` says which of its columns is which of ours: {"prompt": "question"}."""
    for number, row in lines:
        try:
            yield (number,), renamed(intact(row), columns)
        except BadRow as error:
            yield (number,), str(error)


def pku_saferlhf(lines: Iterator[Line], preference: Preference) -> Iterator[RawPair]:
    """Two answers to a prompt, of which the safer one is chosen, or the better one. There is also a release of the data
    that has them in order ("response": [safe, unsafe])."""
    for number, row in lines:
        yield (number,), row if isinstance(row, str) else _pku_pair(row, preference)


def _pku_pair(row: dict, preference: Preference) -> dict | str:
    if isinstance(row.get("response"), list):
        if preference != "safety" or len(row["response"]) != 2:
            return "has a safe and an unsafe response, and no preference for helpfulness"
        chosen, rejected = row["response"]
        answers = {"chosen": chosen, "rejected": rejected, "chosen_safe": True, "rejected_safe": False}
        return {"prompt": row.get("prompt"), **answers}
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
        categories = row.get(f"response_{number}_harm_category")
        if isinstance(categories, dict):
            harms |= {name for name, applies in categories.items() if applies}
    return {**pair, "category": "; ".join(sorted(harms)) or None}


def release_of(row: dict) -> str:
    """The release of PKU-SafeRLHF that a row is of, by its columns: figures of one say nothing of another."""
    if isinstance(row.get("response"), list):
        return "safe and unsafe answers in order"
    return "compared answers" + (" with severity" if "response_0_severity_level" in row else "")


def beavertails(lines: Iterator[Line]) -> Iterator[RawPair]:
    """Single answers, each safe or not: the first safe answer to a prompt is paired with the first unsafe one, and so
    on."""
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
            partner = next((answer for answer in left if answer[1] != good), None)
            if partner is None:
                yield (first,), "no other answer of the other label to this prompt is left to pair it with"
                continue
            left.remove(partner)
            second, bad, category = partner
            labels = {"chosen_safe": True, "rejected_safe": False, "category": category}
            yield (first, second), {"prompt": prompt, "chosen": good, "rejected": bad, **labels}
        for number, _, _ in left:
            yield (number,), "no other answer of the other label to this prompt is left to pair it with"


def hh(lines: Iterator[Line]) -> Iterator[RawPair]:
    """Two dialogues that end differently; the prompt is everything before the assistant's last turn."""
    for number, row in lines:
        try:
            chosen, rejected = (_dialogue(intact(row).get(side), side) for side in ("chosen", "rejected"))
            if chosen[:-1] != rejected[:-1]:
                raise BadRow("chosen and rejected don't answer the same turns")
            yield (number,), {"prompt": chosen[:-1], "chosen": chosen[-1:], "rejected": rejected[-1:]}
        except BadRow as error:
            yield (number,), str(error)


def _dialogue(text: object, column: str) -> list[Message]:
    """The turns of a dialogue; successive turns of one speaker are joined."""
    if not isinstance(text, str):
        raise BadRow(f"{column} is {'empty' if text is None else 'not text'}")
    before, *rest = _TURN.split(text)
    if before.strip() or not rest:
        raise BadRow(f"{column} is not a dialogue that begins with Human:")
    turns = zip(rest[::2], rest[1::2], strict=True)
    dialogue = [
        {"role": _ROLES[name], "content": "\n\n".join(text.strip() for _, text in successive)}
        for name, successive in groupby(turns, key=lambda turn: turn[0])
    ]
    if len(dialogue) < 2 or dialogue[0]["role"] != "user" or dialogue[-1]["role"] != "assistant":
        raise BadRow(f"{column} doesn't go from Human: to an answer of the Assistant:")
    return dialogue


def helm_graded(lines: Iterator[Line]) -> Iterator[RawPair]:
    """Answers of many models to the same prompts, graded by two judges from 0 (harmful) to 1.

    Any two answers that both judges put in the same order make a pair; its margin is the difference of mean grades.
    """
    answers: dict[str, list[tuple[int, str, dict[str, float]]]] = {}
    for number, row in lines:
        try:
            prompt, answer, grades = helm_answer(intact(row))
            answers.setdefault(prompt, []).append((number, answer, grades))
        except BadRow as error:
            yield (number,), str(error)
    used: set[int] = set()
    for prompt, graded in answers.items():
        for (first, good, high), (second, bad, low) in permutations(graded, 2):
            gaps = [high[judge] - low[judge] for judge in high]
            if min(gaps) >= 0 and max(gaps) > 0 and good != bad:
                used |= {first, second}
                yield (first, second), {"prompt": prompt, "chosen": good, "rejected": bad, "margin": sum(gaps) / 2}
    for number, *_ in chain.from_iterable(answers.values()):
        if number not in used:
            yield (number,), "no other answer to this prompt is graded higher or lower by both judges"


SETS: dict[str, Callable[..., Iterator[RawPair]]] = {
    "pku_saferlhf": pku_saferlhf, "pku_saferlhf_10k": pku_saferlhf, "pku_saferlhf_30k": pku_saferlhf,
    "beavertails": beavertails, "hh_harmless": hh, "hh_helpful": hh, "helm_graded": helm_graded,
}  # fmt: skip
RANKED = [name for name, function in SETS.items() if function is pku_saferlhf]  # ranked by safety and by helpfulness
