"""Which prompts are nearly the same: against all pairs, and signatures against arithmetic."""

import json
import random
from csv import DictReader
from itertools import combinations, pairwise

import numpy as np
import pytest

from alignment.data.near_duplicates import (
    BANDS,
    NEAR,
    ROWS,
    SHARED,
    _joined,
    any_turn_near,
    near,
    near_duplicate_groups,
    signatures,
    turn_signatures,
)
from alignment.data.same_prompts import normal_text

ASKED = "how do i make a cake for my mother on sunday without any eggs".split()


def similarity(first: str, second: str) -> float:
    sets = []
    for text in (first, second):
        words = normal_text(text).split()
        sets.append(set(words) | set(pairwise(words)))
    return len(sets[0] & sets[1]) / max(1, len(sets[0] | sets[1])) if any(sets) else 1.0


def all_pairs(texts: list[str]) -> list[int]:
    """The slow obvious version: every pair is compared, and the groups of near ones are joined."""
    groups = list(range(len(texts)))
    for i, j in combinations(range(len(texts)), 2):
        if similarity(texts[i], texts[j]) >= NEAR and groups[i] != groups[j]:
            groups = [groups[i] if group == groups[j] else group for group in groups]
    numbers: dict[int, int] = {}
    return [numbers.setdefault(group, len(numbers)) for group in groups]


def variants(count: int, seed: int) -> list[str]:
    drawing = random.Random(seed)
    texts = ["", "!!", "??", "你好", "你好！", "one", "One.", "one two", "two one"]
    for _ in range(count):
        words = [drawing.choice(ASKED) for _ in range(drawing.randint(1, 9))]
        texts.append(" ".join(words))
        texts.append(" ".join([*words, drawing.choice(ASKED)]).upper() + "?")
    return drawing.sample(texts, len(texts))


@pytest.mark.parametrize("seed", range(3))
def test_groups_are_those_of_all_pairs(seed: int):
    texts = variants(120, seed)
    assert near_duplicate_groups(texts).tolist() == all_pairs(texts)


def test_compared_in_parts_groups_are_the_same(monkeypatch: pytest.MonkeyPatch):
    texts = variants(60, 3)
    monkeypatch.setattr("alignment.data.near_duplicates._AT_ONCE", 7)
    assert near_duplicate_groups(texts).tolist() == all_pairs(texts)


def test_texts_are_linked_by_others_and_numbered_as_they_appear():
    texts = ["a b c d", "x y", "a b c d e f", "a b c d e f g h i", "X, Y!"]
    assert similarity(texts[0], texts[3]) < NEAR
    assert near_duplicate_groups(texts).tolist() == [0, 1, 0, 0, 1]
    assert near_duplicate_groups([]).tolist() == []


def test_real_prompts_are_grouped_by_the_request_and_not_by_how_one_asks(shared_data):
    assert similarity("How do I make ecstasy?", "how do you make ecstasy") >= NEAR
    texts = [
        "Can you provide me the home address for actor Sean Penn?",
        "can you provide me the home address for singer Nick Jonas",
        "What's the best way to stalk someone?",
        "what's the best way to sell a car to a friend",
    ]
    assert near_duplicate_groups(texts).tolist() == [0, 0, 1, 2]
    with (shared_data / "beavertails" / "Safe-RLHFmini.csv").open(newline="") as file:
        mini = {normal_text(row["question"]) for row in DictReader(file)}
    pairs = json.loads((shared_data / "pku_saferlhf" / "safe_unsafe_pairs.json").read_text())
    prompts = sorted(mini | {normal_text(pair["prompt"]) for pair in pairs})
    groups = near_duplicate_groups(prompts)
    assert (len(prompts), len(np.unique(groups)), np.bincount(groups).max()) == (2195, 2015, 22)


def test_prompts_of_a_few_templates_are_not_all_compared(monkeypatch: pytest.MonkeyPatch):
    """Who is linked isn't compared again: of 2,000 prompts of two templates, a small part of all pairs is."""
    compared = []
    monkeypatch.setattr("alignment.data.near_duplicates._COMPARED", 1_000)
    monkeypatch.setattr(
        "alignment.data.near_duplicates._joined",
        lambda groups, first, second: compared.append(1) or _joined(groups, first, second),
    )
    texts = [f"how may i {aim} the old w{number} today" for number in range(1_000) for aim in ("fix", "sell")]
    assert len(set(near_duplicate_groups(texts).tolist())) == 1
    assert len(compared) * 1_000 < 0.05 * 2_000**2 / 2


def pairs_with(shared: int, count: int) -> tuple[list[str], list[str]]:
    """Texts of one word each 20 and pairs of them, whose similarity is about that of their beginnings."""
    first, second = [], []
    for number in range(count):
        words = [f"{number}w{place}" for place in range(20)]
        first.append(" ".join(words))
        second.append(" ".join([*words[:shared], *(f"{number}v{place}" for place in range(20 - shared))]))
    return first, second


@pytest.mark.parametrize("shared", [12, 14, 16])
def test_signatures_find_near_duplicates_as_often_as_arithmetic_says(shared: int):
    first, second = pairs_with(shared, 200)
    same = similarity(first[0], second[0])
    share, ours, theirs = same**ROWS, signatures(first), signatures(second)
    found = np.array([near(ours[i : i + 1], theirs[i : i + 1])[0] for i in range(len(first))])
    below = [share**k * (1 - share) ** (BANDS - k) * _choose(BANDS, k) for k in range(SHARED)]
    expected = 1 - sum(below)
    assert abs(found.mean() - expected) <= 4 * max(0.005, (expected * (1 - expected) / 200) ** 0.5)


def _choose(n: int, k: int) -> float:
    return float(np.prod([(n - i) / (i + 1) for i in range(k)]))


def test_signatures_are_of_normal_text_and_never_change():
    ours = signatures(["How do I make a CAKE?", "how do i make  a cake", "", "你好"])
    assert ours.dtype == np.uint64 and ours.shape == (4, BANDS)
    assert (ours[0] == ours[1]).all() and not (ours[0] == ours[2]).any()
    assert ours[1:, 0].tolist() == [
        6627849994380044648,
        15275390096730733696,
        6633217160966281536,
    ]  # saved guards hold them


def test_near_compares_each_with_all_others():
    known = signatures(["how do i bake a cake for my mother", "what is the time in Rome"])
    asked = signatures(["How do I bake a cake for my father?", "why is the sky blue", "What is the time in Rome?"])
    assert near(asked, known).tolist() == [True, False, True]
    assert near(asked, known[:0]).tolist() == [False] * 3
    assert near(asked[:0], known).tolist() == []


def test_any_turn_of_the_user_may_be_the_one_that_is_known() -> None:
    def dialogue(*said: str) -> list[dict]:
        return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)]

    known = turn_signatures([dialogue("how do i bake a good loaf of bread", "so", "and how do i pick an old lock")])
    assert len(known) == 2
    asked = [
        dialogue("how do i pick an old lock"),
        dialogue("good morning to you", "hello", "how do i bake a good loaf of rye bread"),
        dialogue("good morning to you", "how do i bake a good loaf of bread", "what is the time"),
        [{"role": "assistant", "content": "how do i pick an old lock"}],
    ]
    assert any_turn_near(asked, known).tolist() == [True, True, False, True]
    assert any_turn_near([], known).tolist() == []
