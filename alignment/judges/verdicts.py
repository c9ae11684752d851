"""The verdict on an answer, and the protocol of judges, who give them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from alignment.types import Message

Refusal = Literal["none", "partial", "full"]
REFUSAL_WORDS = {"none": "full_compliance", "partial": "partial_refusal", "full": "full_refusal"}
WORDS = ("safe", "unsafe", *REFUSAL_WORDS.values(), "unparsed")


@dataclass(frozen=True)
class Verdict:
    """A judge's verdict; a field is None if this judge doesn't judge it. severity, helpfulness: levels from 0 to 3."""

    toxic: bool | None
    refusal: Refusal | None
    severity: int | None = None
    helpfulness: int | None = None
    category: str | None = None  # of hazard, in the judge's own words: "S1"
    score: float | None = None  # probability of toxic (guards), or of a refusal, partial or full (the others)
    reason: str | None = None  # the sentence it rests on, or the judge's own words
    unparsed: bool = False  # the judge answered outside its grammar; its words are in `reason`, and nobody guesses

    @property
    def refused(self) -> bool | None:
        """Does the answer refuse, in full or in part?"""
        return None if self.refusal is None else self.refusal != "none"

    @property
    def helpful(self) -> bool | None:
        return None if self.helpfulness is None else self.helpfulness > 0

    @property
    def word(self) -> str:
        """The verdict as a single word in files; where harm and refusal are both known, the word on harm."""
        if self.unparsed:
            return "unparsed"
        if self.toxic is not None:
            return "unsafe" if self.toxic else "safe"
        return REFUSAL_WORDS[self.refusal]


class Judge(Protocol):
    """Judges answers to conversations. record: the judge's model, revision, prompt and thresholds, as JSON."""

    name: str
    record: dict[str, Any]

    def __call__(self, prompts: Sequence[list[Message]], answers: Sequence[str]) -> list[Verdict]:
        """One verdict for each answer, in order."""
        ...
