"""What every scorer says of a fold's pairs, each fitted on the pairs of the other folds alone.

The hybrid reward of each gate, and what it must beat:

length        the shorter answer, or the longer one where training pairs say so
words         the words of an answer, without a model: TF-IDF and a logistic regression
layer_0       a ridge on the mean of the answer's token embeddings, which no layer has read
joint_ridge   one ridge over all layers at once (maths/joint_ridge.py)

and a ridge on each layer alone, for a curve. All choices are made on inner folds, by prompt, of the training pairs.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from alignment.data.prompt_folds import dealt_folds
from alignment.maths.cross_fitting import FOLDS
from alignment.maths.hybrid import GATES
from alignment.maths.joint_ridge import fit_ridge
from alignment.models.hybrid_reward import HybridReward
from alignment.types import Pooling

BASELINES = ("length", "words", "layer_0", "joint_ridge")
SCORERS = (*GATES, *BASELINES)


class ReadPairs(NamedTuple):
    """Pairs as scorers read them, both answers of each, chosen first.

    states: of layers 1 to L. embedded: the mean of the answer's token embeddings. lengths: tokens. prompts: a number
    for each pair, shared by those whose prompts count as the same.
    """

    states: Tensor  # (pair, 2, layer, width)
    embedded: Tensor  # (pair, 2, width)
    lengths: np.ndarray  # (pair, 2)
    texts: list[tuple[str, str]]
    prompts: np.ndarray

    def only(self, which: np.ndarray) -> "ReadPairs":
        places = np.flatnonzero(which)
        rows = torch.from_numpy(places)
        texts = [self.texts[place] for place in places]
        return ReadPairs(self.states[rows], self.embedded[rows], self.lengths[places], texts, self.prompts[places])


def fold_scores(train: ReadPairs, heldout: ReadPairs, seed: int, margin: float, pooling: Pooling) -> dict[str, Tensor]:
    """(2, pair) scores of the held-out pairs' answers, chosen first, by every scorer; and by the ridge of each layer,
    (2, pair, layer)."""
    inner = torch.from_numpy(dealt_folds(train.prompts, FOLDS, seed, "reward.folds"))
    sides, fitted = train.states.unbind(1), heldout.states.unbind(1)
    rewards = HybridReward.fit_gates(*sides, GATES, seed, margin, pooling, train.prompts)
    joint = fit_ridge(*sides, inner)
    bare = fit_ridge(*train.embedded[:, :, None].unbind(1), inner)
    by_layer = [fit_ridge(*(side[:, [layer]] for side in sides), inner) for layer in range(sides[0].shape[1])]
    layers = [
        torch.stack([ridge.score(side[:, [layer]]) for layer, ridge in enumerate(by_layer)], dim=1) for side in fitted
    ]
    return {
        **{gate: torch.stack([reward.score(side) for side in fitted]) for gate, reward in rewards.items()},
        "length": _by_length(train.lengths, heldout.lengths),
        "words": _by_words(train.texts, heldout.texts),
        "layer_0": torch.stack([bare.score(side) for side in heldout.embedded[:, :, None].unbind(1)]),
        "joint_ridge": torch.stack([joint.score(side) for side in fitted]),
        "layers": torch.stack(layers),
    }


def _by_length(train: np.ndarray, heldout: np.ndarray) -> Tensor:
    longer = np.sign(train[:, 0] - train[:, 1]).sum() > 0
    return torch.from_numpy((heldout if longer else -heldout).T.astype(float))


def _by_words(train: Sequence[tuple[str, str]], heldout: Sequence[tuple[str, str]]) -> Tensor:
    vectors = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    known = vectors.fit_transform([text for pair in zip(*train, strict=True) for text in pair])
    model = LogisticRegression(max_iter=1000).fit(known, [1] * len(train) + [0] * len(train))
    sides = [model.decision_function(vectors.transform(side)) for side in zip(*heldout, strict=True)]
    return torch.from_numpy(np.stack(sides))
