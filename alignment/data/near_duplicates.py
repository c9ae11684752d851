"""Which prompts are nearly the same: those that share half of their words and pairs of neighbouring words.

Folds that are to say how a judge does on new prompts have to keep such prompts together, for one differs from the other
in a word or a name. Two things are here: groups of all prompts that are at hand, exact; and signatures, by which a
saved judge tells whether a prompt is nearly one it was fitted on, without holding the text of any. Of a conversation
every turn of the user counts for that, and in groups what it opens with (same_prompts.opening).
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Int, UInt64
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from alignment.data.same_prompts import normal_text, text_hash, user_turns
from alignment.types import Message

# Of Safe-RLHF mini's and PKU's prompts, pairs above it are one request about another person, place or thing, or in
# other words; below it they are often no more than "what is the best way to ..." (docs/data.md).
NEAR = 0.5  # Jaccard similarity of two prompts' shingles: their words, and their pairs of neighbouring words
BANDS, ROWS = 128, 4  # of a signature: its hashes, and the smallest shingles that go into each
SHARED = 4  # bands that near-duplicates have in common at least
_AT_ONCE = 500  # prompts compared with all others at once: of so many, all that may be near are held in memory
_COMPARED = 100_000  # pairs that are compared before it is seen again who is linked


def near_duplicate_groups(texts: Sequence[str]) -> Int[np.ndarray, " text"]:
    """A number for each text; near-duplicates share it, and so do texts that are linked by others. Numbers go by first
    appearance.

    Exact, without comparing all with all: of two texts that share half of their shingles, each has one that they share
    among the rarer half of its own.
    """
    numbers: dict[str, int] = {}
    same = np.array([numbers.setdefault(normal_text(text), len(numbers)) for text in texts], dtype=np.int64)
    if not numbers:
        return same
    shingles, sizes = _shingle_table([_shingles(text) for text in numbers])
    rare = _rarest(shingles, sizes)
    by_shingle = rare.T.tocsr()
    groups = np.arange(len(numbers))
    for start in range(0, len(numbers), _AT_ONCE):
        first, second = (rare[start : start + _AT_ONCE] @ by_shingle).nonzero()
        first = first + start
        later = first < second
        first, second = first[later], second[later]
        while len(first):
            apart = groups[first] != groups[second]  # those that are linked already aren't compared
            first, second = first[apart], second[apart]
            a, b = first[:_COMPARED], second[:_COMPARED]
            shared = shingles[a].multiply(shingles[b]).sum(axis=1)
            near = shared >= NEAR * (sizes[a] + sizes[b] - shared)
            groups = _joined(groups, a[near], b[near])
            first, second = first[_COMPARED:], second[_COMPARED:]
    appeared: dict[int, int] = {}
    return np.array([appeared.setdefault(group, len(appeared)) for group in groups[same].tolist()])


def signatures(texts: Sequence[str]) -> UInt64[np.ndarray, "text band"]:
    """A row of band hashes for each text (MinHash): the more shingles two texts share, the more of them are equal.

    Equal on every machine and in every version, for they are saved with what was fitted.
    """
    sets = [_shingles(normal_text(text)) for text in texts]
    orders = np.array([text_hash(str(number)) | 1 for number in range(BANDS * ROWS)], dtype=np.uint64)
    signature = np.zeros((len(sets), BANDS), dtype=np.uint64)
    for start in range(0, len(sets), 32):  # so few that it all stays in the processor's cache
        part = sets[start : start + 32]
        hashes = np.array([_shingle_hash(shingle) for one in part for shingle in one], dtype=np.uint64)
        starts = np.cumsum([0, *map(len, part[:-1])])
        least = np.minimum.reduceat(hashes[:, None] * orders, starts, axis=0)
        for row in range(ROWS):
            signature[start : start + 32] = _mixed(signature[start : start + 32] ^ least[:, row::ROWS])
    return signature


def near(
    signatures: UInt64[np.ndarray, "text band"], others: UInt64[np.ndarray, "other band"]
) -> Bool[np.ndarray, " text"]:
    """Is a text nearly one of the others, by their signatures: do they share four bands of the 128?

    Each is shared with probability s^4 where s is the similarity: of those at the border, 0.5, 4 in 100 are missed, of
    those at 0.6 three in 100,000; and of those at 0.4 it finds 42 in 100, at 0.3 two. What leaves such prompts out of a
    fit has to ask this, too, not the groups: else what was fitted would say of some that it knows them.
    """
    found = np.zeros(len(signatures), dtype=bool)
    if not len(signatures) or not len(others):
        return found
    distinct, places = np.unique(np.concatenate([signatures, others]), return_inverse=True)
    bands = csr_array(
        (np.ones(places.size, dtype=np.int32), places.ravel(), np.arange(0, places.size + 1, BANDS)),
        shape=(len(signatures) + len(others), len(distinct)),
    )
    by_band = bands[len(signatures) :].T.tocsr()
    for start in range(0, len(signatures), _AT_ONCE):
        part = bands[start : min(start + _AT_ONCE, len(signatures))]
        found[start : start + _AT_ONCE] = (part @ by_band).max(axis=1).toarray().ravel() >= SHARED
    return found


def turn_signatures(prompts: Sequence[Sequence[Message]]) -> UInt64[np.ndarray, "turn band"]:
    """The signatures of all that the user says in these conversations, each once."""
    return signatures(list(dict.fromkeys(turn for prompt in prompts for turn in user_turns(prompt))))


def any_turn_near(
    prompts: Sequence[Sequence[Message]], others: UInt64[np.ndarray, "other band"]
) -> Bool[np.ndarray, " prompt"]:
    """Is any turn of the user in a conversation nearly one of the others?"""
    turns = list(dict.fromkeys(turn for prompt in prompts for turn in user_turns(prompt)))
    found = dict(zip(turns, near(signatures(turns), others).tolist(), strict=True))
    return np.array([any(found[turn] for turn in user_turns(prompt)) for prompt in prompts], dtype=bool)


@lru_cache(maxsize=2**17)
def _shingle_hash(shingle: str) -> int:
    return text_hash(shingle)


def _shingles(text: str) -> set[str]:
    """The words of a normal text and its pairs of neighbouring words; a text without any has one empty word."""
    words = text.split() or [""]
    return {*words, *map(" ".join, pairwise(words))}


def _shingle_table(sets: Sequence[set[str]]) -> tuple[csr_array, Int[np.ndarray, " text"]]:
    """Which text (row) has which shingles (columns, the rarest first), and how many it has."""
    known: dict[str, int] = {}
    columns = np.array([known.setdefault(shingle, len(known)) for one in sets for shingle in sorted(one)])
    sizes = np.array([len(one) for one in sets])
    common = np.bincount(columns)
    place = np.empty(len(known), dtype=np.int64)
    place[np.argsort(common, kind="stable")] = np.arange(len(known))
    ends = np.concatenate([[0], np.cumsum(sizes)])
    table = csr_array((np.ones(len(columns), dtype=np.int32), place[columns], ends), shape=(len(sets), len(known)))
    table.sort_indices()
    return table, sizes


def _rarest(shingles: csr_array, sizes: Int[np.ndarray, " text"]) -> csr_array:
    """The table without the commoner shingles of each text: two texts that are near share one of those that stay."""
    stay = sizes - np.ceil(NEAR * sizes).astype(np.int64) + 1
    within = np.arange(shingles.nnz) - np.repeat(shingles.indptr[:-1], sizes)
    kept = within < np.repeat(stay, sizes)
    ends = np.concatenate([[0], np.cumsum(stay)])
    return csr_array((shingles.data[kept], shingles.indices[kept], ends), shape=shingles.shape)


def _joined(groups: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The group of each text when these pairs are linked, too."""
    count = len(groups)
    links = csr_array((np.ones(len(first)), (groups[first], groups[second])), shape=(count, count))
    return connected_components(links, directed=False)[1][groups]


def _mixed(values: UInt64[np.ndarray, "..."]) -> UInt64[np.ndarray, "..."]:
    """Values in another order, one to one: the last steps of MurmurHash3."""
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        values = (values ^ (values >> np.uint64(33))) * np.uint64(factor)
    return values ^ (values >> np.uint64(33))
