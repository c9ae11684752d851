"""What the format of a generative guard is made of, and a conversation as guards read it.

Only what surrounds the judged conversation is the guard's; the conversation itself is text and can't end its section or
take a role (`markers`).
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from alignment.types import Message

Turn = tuple[bool, str]  # is it the user's?, what it says


@dataclass(frozen=True)
class Published:
    """A published agreement figure: F1 of harmful answers and false positive rate (None: not given) on one set. The set
    is a sample of its own: a run on another sample of the same data should come near the figure, not meet it.
    """

    data: str
    f1: float
    false_positive_rate: float | None
    source: str


@dataclass(frozen=True)
class Guard:
    """One guard's format.

    task: the whole prompt; {bos}, {conversation} and {policy} are put in. user, agent: how a turn is written.
    policies: what {policy} may be, by category, each asked by itself; () where the task names them all.
    grammar: of the whole verdict, with a group `verdict` and maybe `category` and `refusal`.
    words: of the verdict, unsafe first. markers: what a conversation must not hold, anywhere or at a line's start.
    published: agreement figures to stand beside what a run finds.
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
        """Harm, and refusal where its grammar reads one."""
        return frozenset({"toxic", "refusal"} if "refusal" in self.grammar.groupindex else {"toxic"})

    def prompts(self, turns: Sequence[Turn], bos: str, safe: Callable[[str], str]) -> list[tuple[str | None, str]]:
        """What it is asked of a conversation, for each policy with its category; `safe` makes text nothing but text."""
        written = [(self.user if user else self.agent).replace("{text}", safe(text)) for user, text in turns]
        parts = {"bos": bos, "conversation": self.joiner.join(written)}
        return [
            (category, _put_in(self.task, {**parts, "policy": policy}))
            for category, policy in self.policies or ((None, ""),)
        ]

    @property
    def digest(self) -> str:
        """Names this wording in records."""
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
    """In one pass: braces in what is put in stay as they are."""
    return re.sub("{(bos|conversation|policy)}", lambda match: parts[match[1]], task)
