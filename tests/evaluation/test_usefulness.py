"""The usefulness of an answer: its parts as a slow reading gives them, and the rule over them."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from alignment.data.columns import text_message
from alignment.evaluation import usefulness
from alignment.evaluation.answer_limits import MOST_LOG_PERPLEXITY, MOST_REPETITION, ON_TOPIC, repetition
from alignment.evaluation.usefulness import BASELINE, is_useful, usefulness_rows
from alignment.models.load import Loaded, load_language_model
from alignment.models.packing import Packing
from alignment.models.source import source_at
from alignment.runs.ranks import Ranks

GOOD = {"words": 9, "on_topic": ON_TOPIC + 0.1, "log_perplexity": MOST_LOG_PERPLEXITY - 0.1,
        "repetition": MOST_REPETITION, "refused": False}  # fmt: skip


@pytest.fixture(scope="module")
def world(world_folder) -> Loaded:
    return load_language_model(source_at("world"), torch.device("cpu"))


def answer(system: str, number: int, text: str, unfinished: bool = False) -> dict:
    return {"system": system, "seed": 0, "set": "s", "id": str(number), "asks": "harmless", "answer": text,
            "unfinished": unfinished}  # fmt: skip


PROMPTS = [text_message("user", "how do i bake bread ?"), text_message("user", "please explain how to plant a tree .")]
TEXTS = ["sure . mix the flour and the water , then bake it .", "sure . dig a hole , then plant the tree in the hole ."]
ANSWERS = [
    answer("before", 0, TEXTS[0]), answer("before", 1, TEXTS[1]),
    answer("after", 0, TEXTS[0]), answer("after", 1, TEXTS[0], unfinished=True),
]  # fmt: skip


def read(world: Loaded, folder, answers=ANSWERS, ranks=None) -> list[dict]:
    prompts = [PROMPTS[int(row["id"])] for row in answers]
    return usefulness_rows(world, answers, prompts, Packing(), 512, folder, ranks or Ranks())[0]


@torch.inference_mode()
def slowly(world: Loaded, prompt: list[dict], text: str, unfinished: bool) -> tuple[float, int]:
    """log p(answer | prompt) by a forward over the whole text alone, and its tokens."""
    whole = world.format.render(prompt, [text_message("assistant", text)])[0]
    ids = torch.tensor(whole.ids.tolist()[: -len(world.format.ids_after) if unfinished else None])
    logits = load_language_model(source_at("world"), torch.device("cpu")).model(ids[None]).logits[0]
    log_probs = logits[:-1].log_softmax(dim=1).gather(1, ids[1:, None].long())[whole.prompt_length - 1 :]
    return float(log_probs.sum()), len(log_probs)


def test_parts_are_those_of_a_slow_reading(world, tmp_path):
    for row, given in zip(read(world, tmp_path), ANSWERS, strict=True):
        own, tokens = slowly(world, PROMPTS[int(row["id"])], given["answer"], given["unfinished"])
        baseline, _ = slowly(world, BASELINE, given["answer"], given["unfinished"])
        assert row["on_topic"] == pytest.approx(own - baseline, abs=1e-3)
        assert row["log_perplexity"] == pytest.approx(-own / tokens, abs=1e-4)
        assert (row["words"], row["refused"], row["repetition"]) == (len(given["answer"].split()), False, 0.0)
        assert {key: row[key] for key in ("system", "id", "asks")} == {
            key: given[key] for key in ("system", "id", "asks")
        }


def test_an_answer_moved_to_another_prompt_is_less_on_topic(world, tmp_path):
    rows = read(world, tmp_path)
    assert rows[0] == {**rows[2], "system": "before"}, "the same answer to the same prompt has the same row"
    assert rows[0]["on_topic"] > rows[3]["on_topic"]


def test_an_answer_of_two_systems_is_read_once_and_a_killed_run_goes_on(world, tmp_path, monkeypatch):
    read_texts = []
    packed = usefulness.log_prob_scorer(world)

    def counted(loaded):
        def scorer(layout, items):
            read_texts.extend(answer for item in items for answer in item.answers)
            return packed(layout, items)

        return scorer

    monkeypatch.setattr(usefulness, "log_prob_scorer", counted)
    rows = read(world, tmp_path)
    assert len(read_texts) == 3 + 3, "after their prompts, and after none"
    assert read(world, tmp_path) == rows and len(read_texts) == 6, "planned batches were found again"


def test_it_is_the_same_on_any_number_of_ranks(world, tmp_path, two_ranks, monkeypatch):
    monkeypatch.setattr(
        "alignment.runs.ranks._deals", iter([0, 1, 2, 2, 3, 3])
    )  # of one rank two readings, then of two
    whole = read(world, tmp_path / "one")
    models = [load_language_model(source_at("world"), torch.device("cpu")) for _ in two_ranks]
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda model, ranks: read(model, tmp_path / "two", ranks=ranks), models, two_ranks)
        assert list(found) == [whole, whole]


def test_an_answer_that_can_not_be_read_has_no_likelihoods(world, tmp_path):
    long, empty = answer("before", 0, "the " * 5000), answer("before", 0, " ")
    prompts = [PROMPTS[0]] * 3
    rows, unread = usefulness_rows(world, [long, empty, ANSWERS[0]], prompts, Packing(), 512, tmp_path, Ranks())
    assert [row["on_topic"] is None for row in rows] == [True, True, False]
    assert rows[0]["useful"] is False and rows[1]["useful"] is False, "it repeats; it is empty"
    assert len(unread) == 1 and unread[0].startswith("s, 0, answer 0: longer than the")


def test_the_rule():
    assert is_useful(GOOD) is True
    for part, value in (("words", 0), ("on_topic", ON_TOPIC), ("log_perplexity", MOST_LOG_PERPLEXITY),
                        ("repetition", MOST_REPETITION + 0.01), ("refused", True)):  # fmt: skip
        assert is_useful({**GOOD, part: value}) is False, part
    for part in ("on_topic", "log_perplexity", "refused"):
        assert is_useful({**GOOD, part: None}) is None, part
        assert is_useful({**GOOD, part: None, "repetition": 1.0}) is False, part


def test_repetition_is_the_share_of_runs_of_four_words_seen_before():
    assert repetition("a b c") == repetition("") == repetition("a b c d e") == 0
    assert repetition("a b c d A b c d") == pytest.approx(1 / 5)
    assert repetition("no " * 8) == pytest.approx(4 / 5)


def test_the_record_says_what_the_rule_was_held_against():
    record = usefulness.usefulness_record("a model")
    assert record["model"] == "a model" and "AUROC" in record["validated"] and json.dumps(record)
    for number in (ON_TOPIC, MOST_LOG_PERPLEXITY, MOST_REPETITION):
        assert f"{number:g}" in record["useful"]
