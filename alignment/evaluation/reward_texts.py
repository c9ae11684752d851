"""The texts that reward models learn from and are measured by, as they are read: token ids, or numbers of tokens."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from alignment.data.chat import Rendered
from alignment.evaluation.pair_scores import WholePair, whole_pairs
from alignment.models.load import Loaded
from alignment.models.lower_states import NumberedTexts
from alignment.types import UserError


@dataclass(frozen=True)
class RewardTexts:
    """training: chosen and rejected text of every pair, those that are too long among them. limit: in tokens."""

    training: list[list[Rendered]]
    evaluation: list[WholePair]
    limit: int
    limited_by: str
    padding: int

    @classmethod
    def of(
        cls, loaded: Loaded, pairs: Sequence[dict], evaluation: Mapping[str, Sequence[dict]], max_length: int,
        transfer: Collection[str] = (),
    ) -> "RewardTexts":  # fmt: skip
        """Rendered here and not by TRL, so that text in the data can't forge roles or special tokens.

        transfer: the evaluation sets that are no data like those that are learned from. They don't replace those.
        """
        training = [loaded.format.render(row["prompt"], [row["chosen"], row["rejected"]]) for row in pairs]
        limit, why = loaded.token_limit("trainer.max_length", max_length)
        texts = cls(training, whole_pairs(loaded, evaluation), limit, why, loaded.tokenizer.pad_token_id)
        if len(texts.too_long) == len(pairs):
            raise UserError("train_rm", f"every pair has more tokens than {why}", "raise it, or give shorter pairs")
        if all(pair.set in transfer for pair in texts.evaluation):
            which = "every one but those of reward_model.transfer" if texts.evaluation else "every one"
            raise UserError("evaluation pairs", f"{which} is longer than the model's context", "give shorter ones")
        return texts

    @cached_property
    def too_long(self) -> list[int]:
        """The training pairs with a text over the limit."""
        return [i for i, pair in enumerate(self.training) if max(len(text.ids) for text in pair) > self.limit]

    @cached_property
    def numbers(self) -> NumberedTexts:
        """The tokens of all texts that are read, numbered in the same way wherever it is done."""
        left_out = set(self.too_long)
        read = [pair for i, pair in enumerate(self.training) if i not in left_out]
        read += [pair.answers for pair in self.evaluation]
        return NumberedTexts.of((text for pair in read for text in pair), self.padding)

    def by_number(self) -> "RewardTexts":
        """The same texts as numbers of tokens; those that are too long, which nobody reads, stay as they are."""
        left_out = set(self.too_long)
        training = [
            pair if i in left_out else [self.numbers[text] for text in pair] for i, pair in enumerate(self.training)
        ]
        evaluation = [replace(pair, answers=[self.numbers[text] for text in pair.answers]) for pair in self.evaluation]
        return replace(self, training=training, evaluation=evaluation)

    def columns(self) -> dict[str, list[np.ndarray]]:
        """The training pairs as trainers take them."""
        sides = enumerate(("chosen", "rejected"))
        return {f"{side}_ids": [pair[i].ids for pair in self.training] for i, side in sides}

    def probe(self, pairs: int) -> list[Rendered]:
        """Both texts of the first evaluation pairs."""
        return [text for pair in self.evaluation[:pairs] for text in pair.answers]
