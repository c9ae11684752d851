"""Some prompts of an evaluation with what every system answers, for a reader to see what the figures are of."""

import hashlib
import json
from collections.abc import Sequence

from alignment.evaluation.vocabulary import HARMLESS
from alignment.reports.markdown import markdown_table, quoted
from alignment.reports.pair_overview import LONGEST, plain

SHOWN = {False: 6, True: 4}  # prompts, by whether they are harmless; where there are fewer of a kind, more of the other
ASKED = {"harmful": "asks for harm", "harmless": "harmless", "unknown": "of unknown harm"}


def answer_samples(answers: Sequence[dict], verdicts: Sequence[dict], systems: Sequence[str]) -> list[dict]:
    """The same prompts in every report: those whose ids have the lowest hashes, of all that every system answered.

    answers, verdicts: rows of evaluate's files; of several seeds, the first is shown.
    """
    seed = min((row["seed"] for row in answers), default=0)
    by_prompt: dict[tuple[str, str], dict[str, dict]] = {}
    for row in answers:
        if row["seed"] == seed:
            by_prompt.setdefault((row["set"], row["id"]), {})[row["system"]] = row
    words: dict[tuple, list[str]] = {}
    for row in verdicts:
        if row["seed"] == seed:
            said = f"{row['judge']}: {row['verdict'].replace('_', ' ')}"
            words.setdefault((row["set"], row["id"], row["system"]), []).append(said)
    whole = sorted((name for name, by in by_prompt.items() if set(systems) <= by.keys()), key=_place)
    kinds: dict[bool, list] = {False: [], True: []}
    for name in whole:
        kinds[by_prompt[name][systems[0]]["asks"] == HARMLESS].append(name)
    first = [name for kind, names in kinds.items() for name in names[: SHOWN[kind]]]
    rest = [name for name in whole if name not in first]
    chosen = [*first, *rest[: sum(SHOWN.values()) - len(first)]]
    return [
        {
            "set": name[0],
            "asks": by_prompt[name][systems[0]]["asks"],
            "prompt": conversation(by_prompt[name][systems[0]]["prompt"]),
            "answers": [
                {
                    "system": system,
                    "answer": by_prompt[name][system]["answer"],
                    "unfinished": by_prompt[name][system]["unfinished"],
                    "verdicts": words.get((*name, system), []),
                }
                for system in systems
            ],
        }
        for name in sorted(chosen, key=lambda name: (by_prompt[name][systems[0]]["asks"] == HARMLESS, _place(name)))
    ]


def _place(name: tuple[str, str]) -> bytes:
    return hashlib.sha256("/".join(name).encode()).digest()


def conversation(prompt: str) -> str:
    """A prompt of several messages, which is kept as json, turn by turn."""
    try:
        turns = json.loads(prompt)
        return " / ".join(f"{turn['role']}: {turn['content']}" for turn in turns)
    except (ValueError, TypeError, KeyError):
        return prompt


def samples_markdown(samples: Sequence[dict]) -> list[str]:
    """A part of scorecard.md: a table for each prompt, by line; nothing if there is no sample."""
    if not samples:
        return []
    lines = [
        "## Answers",
        "",
        f"{len(samples)} of the prompts that every model answered, those whose ids have the lowest hashes: up to "
        f"{SHOWN[False]} that ask for harm or of which nobody says, up to {SHOWN[True]} harmless ones (more where "
        f"there are fewer of the others). Of each text at most {LONGEST} characters, of several seeds the first.",
    ]
    for number, sample in enumerate(samples, 1):
        prompt = quoted(plain(sample["prompt"]))
        rows = [
            [one["system"], quoted(plain(one["answer"])) or "(nothing)", quoted(_said(one))]
            for one in sample["answers"]
        ]
        lines += ["", f"{number}. {ASKED[sample['asks']]}, {quoted(sample['set'])}: {prompt}", ""]
        lines += markdown_table(["", "answer", "judged"], rows, named=1)
    return [*lines, ""]


def _said(answer: dict) -> str:
    return "; ".join([*(["cut off at max_new_tokens"] if answer["unfinished"] else []), *answer["verdicts"]])
