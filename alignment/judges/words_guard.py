"""A guard of words alone: TF-IDF of words and pairs of words, and a logistic regression. No model, no torch.

It is the floor that every judge of harm must beat, and it shares no activations with anything that is trained. What the
answer says and what the prompt asks are read apart, each with a vocabulary and weights of its own.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt64
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy.special import expit

from alignment.data.near_duplicates import signatures, turn_signatures
from alignment.data.same_prompts import normal_text
from alignment.runs.artifacts import write_json
from alignment.types import Message, UserError

CARD, WEIGHTS = "words.json", "words.safetensors"
FORMAT = 1
# By cross-validation on Safe-RLHF mini (docs/judges.md): C of the logistic regression, in how many texts a term has to
# be, and what the length of the prompt's terms is to the answer's.
STRENGTH, LEAST_TEXTS, PROMPT_SHARE = 3.0, 2, 0.5
_READ = ("answer", "prompt")


def terms(text: str) -> list[str]:
    """The words of a text and its pairs of neighbouring words; its signs, where it has no words."""
    words = normal_text(text).split()
    return [*words, *map(" ".join, pairwise(words))]


@dataclass(frozen=True)
class Vocabulary:
    """The terms that count, each with how rare it is (inverse document frequency) and its weight."""

    terms: Sequence[str]
    rarity: Float[np.ndarray, " term"]
    weights: Float[np.ndarray, " term"]

    def __post_init__(self) -> None:
        both = zip(self.rarity.tolist(), self.weights.tolist(), strict=True)
        object.__setattr__(self, "_known", dict(zip(self.terms, both, strict=True)))

    def score(self, text: str) -> float:
        """The text's share of the logit: its terms, (1 + log count) times rarity, at length 1, times their weights."""
        total = length = 0.0
        for term, count in Counter(terms(text)).items():
            if (known := self._known.get(term)) is not None:
                value = (1 + log(count)) * known[0]
                total += value * known[1]
                length += value * value
        return total / sqrt(length) if length else 0.0


class WordsGuard:
    """How harmful answers are by their words. The logits are of a fit in which safe and unsafe answers weigh the same.

    temperature: of the probability, sigmoid(logit / temperature); threshold: unsafe from this probability on.
    digest: of the saved files, None before it is saved. seen: signatures of the prompts it was fitted on
    (data/near_duplicates.py), as far as they were given.
    """

    def __init__(
        self,
        answer: Vocabulary,
        prompt: Vocabulary,
        intercept: float,
        temperature: float = 1.0,
        threshold: float = 0.5,
        record: Mapping[str, Any] | None = None,
        digest: str | None = None,
        seen: UInt64[np.ndarray, "prompt band"] | None = None,
    ) -> None:
        self.answer, self.prompt, self.intercept = answer, prompt, intercept
        self.temperature, self.threshold = temperature, threshold
        self.record, self.digest = dict(record or {}), digest
        self.seen = signatures([]) if seen is None else seen

    def logits(self, prompts: Sequence[Sequence[Message]], answers: Sequence[str]) -> Float[np.ndarray, " answer"]:
        pairs = zip(map(asked, prompts), answers, strict=True)
        both = [self.answer.score(answer) + self.prompt.score(prompt) for prompt, answer in pairs]
        return np.array(both, dtype=float) + self.intercept

    def probabilities(
        self, prompts: Sequence[Sequence[Message]], answers: Sequence[str]
    ) -> Float[np.ndarray, " answer"]:
        return expit(self.logits(prompts, answers) / self.temperature)

    def save(self, folder: Path | str, temperature: float, threshold: float, record: Mapping[str, Any]) -> None:
        """Writes the guard with what its logits mean. record: what it was fitted on, and how good it is, as JSON."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {"intercept": np.array([self.intercept]), "seen": self.seen}
        for name in _READ:
            vocabulary = getattr(self, name)
            tensors |= {f"{name}.rarity": vocabulary.rarity, f"{name}.weights": vocabulary.weights}
        save_file(tensors, folder / WEIGHTS)
        card = {"format": FORMAT, "temperature": temperature, "threshold": threshold, "record": dict(record)}
        write_json(folder / CARD, {**card, "terms": {name: list(getattr(self, name).terms) for name in _READ}})

    @classmethod
    def load(cls, folder: Path | str, key: str = "judge.words.path") -> "WordsGuard":
        """The guard that `save` wrote into a folder. UserError for any other; key: of the setting that names it."""
        folder = Path(folder).expanduser()
        for name in (CARD, WEIGHTS):
            if not (folder / name).is_file():
                raise UserError(key, f"{folder} holds no {name}", "give a folder in which a guard of words was saved")
        try:
            card, tensors = json.loads((folder / CARD).read_text("utf-8")), load_file(folder / WEIGHTS)
            if card["format"] != FORMAT:
                raise ValueError(f"it is of format {card['format']}, not {FORMAT}")
            guard = cls(
                *(_vocabulary(name, card["terms"][name], tensors) for name in _READ),
                float(tensors["intercept"].item()),
                _number(card, "temperature", least=1e-6),
                _number(card, "threshold", least=0.0, most=1.0),
                card["record"],
                guard_hash(folder),
                tensors["seen"],
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            why = f"{type(error).__name__}: {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
            raise UserError(key, f"{folder} holds no whole guard of words ({why})", "fit and save it again") from error
        return guard


def guard_hash(folder: Path | str) -> str:
    """A hash of the guard's files: it changes when a weight, the temperature or the threshold does."""
    digest = hashlib.sha256()
    for name in (CARD, WEIGHTS):
        digest.update((Path(folder).expanduser() / name).read_bytes())
    return digest.hexdigest()


def asked(prompt: Sequence[Message]) -> str:
    """A whole conversation as the guard reads it."""
    return "\n".join(message["content"] for message in prompt)


def fit_words(
    prompts: Sequence[Sequence[Message]], answers: Sequence[str], toxic: Bool[np.ndarray, " answer"], seed: int
) -> WordsGuard:
    """A guard fitted on labelled answers of both kinds. seed: of the order in which the solver goes through them."""
    from scipy.sparse import hstack  # here: a guard that judges needs neither
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    toxic = np.asarray(toxic, dtype=bool)
    if toxic.all() or not toxic.any():
        raise ValueError("a guard is fitted on safe and unsafe answers")
    tables, vocabularies = [], []
    for texts in (answers, [asked(prompt) for prompt in prompts]):
        rows = [terms(text) for text in texts]
        common = max(Counter(term for row in rows for term in set(row)).values(), default=0)
        least = LEAST_TEXTS if common >= LEAST_TEXTS else 1
        reader = TfidfVectorizer(analyzer=list, sublinear_tf=True, min_df=least)
        tables.append(reader.fit_transform(rows))
        vocabularies.append((reader.get_feature_names_out().tolist(), reader.idf_))
    fitted = LogisticRegression(C=STRENGTH, class_weight="balanced", solver="liblinear", dual=True, max_iter=10_000)
    fitted.set_params(random_state=seed).fit(hstack([tables[0], PROMPT_SHARE * tables[1]], format="csr"), toxic)
    weights, first = fitted.coef_[0], len(vocabularies[0][0])
    parts = (weights[:first].copy(), PROMPT_SHARE * weights[first:])
    answer, prompt = (Vocabulary(*known, own) for known, own in zip(vocabularies, parts, strict=True))
    return WordsGuard(answer, prompt, float(fitted.intercept_[0]), seen=turn_signatures(prompts))


def _vocabulary(name: str, known: Sequence[str], tensors: Mapping[str, np.ndarray]) -> Vocabulary:
    rarity, weights = tensors[f"{name}.rarity"], tensors[f"{name}.weights"]
    if not rarity.shape == weights.shape == (len(known),):
        raise ValueError(f"{len(known)} terms of the {name} have {len(rarity)} rarities and {len(weights)} weights")
    if not (np.isfinite(rarity).all() and np.isfinite(weights).all()):
        raise ValueError(f"a weight of the {name} is not a number")
    return Vocabulary(known, rarity, weights)


def _number(card: Mapping[str, Any], name: str, least: float, most: float = float("inf")) -> float:
    value = float(card[name])
    if not least <= value <= most:
        raise ValueError(f"its {name} is {value}")
    return value
