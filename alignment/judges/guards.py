"""The parts of a generative guard's format, and a conversation as guards read it.

Only the text around the judged conversation is the guard's. The conversation itself is nothing but text: it can't end
its section or take a role (`markers`).
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from alignment.types import Message

Turn = tuple[bool, str]  # is it the user's?, its text


@dataclass(frozen=True)
class Published:
    """A published agreement: F1 of harmful answers and false positive rate (None: not published) on one set. A run on
    another sample of the same data should come near it, not meet it.
    """

    data: str
    f1: float
    false_positive_rate: float | None
    source: str


@dataclass(frozen=True)
class Guard:
    """One guard's format.

    task: the whole prompt, with {bos}, {conversation} and {policy}. user, agent: how a turn is written.
    policies: (category, text), each of which is put in for {policy} by itself; () where the task has them all.
    grammar: matches the whole verdict, with a group `verdict`, and `category` and `refusal` where there are such.
    words: the two verdicts, unsafe first. markers, line_markers: what a conversation must not hold, anywhere or at the
    start of a line. published: agreement figures to show beside a run's.
    """

    name: str
    source: str
    task: str
    user: str
    agent: str
    joiner: str
    grammar: re.Pattern
    words: tuple[str, str]
    new_tokens: int
    markers: tuple[str, ...]
    line_markers: tuple[str, ...]
    published: tuple[Published, ...] = ()
    policies: tuple[tuple[str, str], ...] = ()

    @property
    def says(self) -> frozenset[str]:
        """The fields of a verdict that the guard fills: harm, and refusal if its grammar has that group."""
        return frozenset({"toxic", "refusal"} if "refusal" in self.grammar.groupindex else {"toxic"})

    def prompts(self, turns: Sequence[Turn], bos: str, safe: Callable[[str], str]) -> list[tuple[str | None, str]]:
        """The guard's prompts for a conversation, one for each policy, with its category. safe: breaks up markers."""
        written = [(self.user if user else self.agent).replace("{text}", safe(text)) for user, text in turns]
        parts = {"bos": bos, "conversation": self.joiner.join(written)}
        return [
            (category, _put_in(self.task, {**parts, "policy": policy}))
            for category, policy in self.policies or ((None, ""),)
        ]

    @property
    def digest(self) -> str:
        """A hash of the wording, for records."""
        parts = [self.task, self.user, self.agent, self.joiner, self.grammar.pattern, repr(self.policies)]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def turns_of(prompt: Sequence[Message], answer: str) -> list[Turn]:
    """A conversation and its last answer, turn by turn. Guards know no system message: it opens the user's turn."""
    turns: list[Turn] = []
    for message in [*prompt, {"role": "assistant", "content": answer}]:
        user, text = message["role"] != "assistant", message["content"].strip()
        if turns and turns[-1][0] == user:
            turns[-1] = (user, f"{turns[-1][1]}\n\n{text}")
        else:
            turns.append((user, text))
    return turns


def _put_in(task: str, parts: dict[str, str]) -> str:
    """Fills in the task's fields in one pass, so that braces in what is put in stay as they are."""
    return re.sub("{(bos|conversation|policy)}", lambda match: parts[match[1]], task)
