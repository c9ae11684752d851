"""The judge of words: a verdict on harm by a guard of words alone (words_guard.py), on any text, without a model."""

from collections.abc import Sequence

from alignment.judges.verdicts import Verdict
from alignment.judges.words_guard import WordsGuard
from alignment.types import Message


class WordsJudge:
    name = "words"

    def __init__(self, guard: WordsGuard) -> None:
        self._guard = guard
        self.record = {
            "judge": self.name,
            "weights": guard.digest and guard.digest[:16],
            "temperature": guard.temperature,
            "threshold": guard.threshold,
            "guard": guard.record,
        }

    def __call__(self, prompts: Sequence[list[Message]], answers: Sequence[str]) -> list[Verdict]:
        scores = self._guard.probabilities(prompts, answers).tolist()
        return [Verdict(score >= self._guard.threshold, None, score=score) for score in scores]


def load_words(path: str) -> WordsJudge:
    """The judge from a folder in which a guard of words was saved."""
    return WordsJudge(WordsGuard.load(path))
