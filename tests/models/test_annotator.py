"""The annotator as a whole: against the release's procedure, the ablations, layer choice, and what it keeps."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from alignment.data.cells import BadRow
from alignment.data.chat import Rendered, chat_format, end_ids
from alignment.maths.direction import random_direction
from alignment.models.annotator import Annotator, Pair
from alignment.models.directions import Direction
from alignment.models.layer_zero import embedding_margins
from alignment.models.load import Loaded
from alignment.models.packing import Layout
from alignment.runs.ranks import Ranks
from alignment.types import UserError
from tests.conftest import byte_tokenizer, tiny_model

WORDS = "open close lift valve pump wick candle router stamp never gladly quickly".split()


def texts(count: int, seed: int) -> list[str]:
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, random.integers(1, 9))) for _ in range(count)]


def rows(sides: tuple[str, str], count: int = 12) -> list[dict]:
    columns = [texts(count, seed) for seed in (1, 2, 3)]
    return [
        {
            "prompt": [{"role": "user", "content": prompt}],
            sides[0]: [{"role": "assistant", "content": f"{first}."}],
            sides[1]: [{"role": "assistant", "content": f"{second}!"}],
        }
        for prompt, first, second in zip(*columns, strict=True)
    ]


def rendered(reader: Annotator, rows: list[dict], sides: tuple[str, str], joiner: str) -> list[Pair]:
    return [reader.render(row, sides, joiner) for row in rows]


def direction_of(reader: Annotator, kind: str, layer: int | str, induced: list[Pair], seed: int = 0) -> Direction:
    states = reader.side_states("induced", induced, reader.layers(layer)) if induced else None
    return reader.direction(kind, layer, states, seed)


def annotator(folder, prompt="chat", pooling="endpoint", tokens=400, name="llama", packed=True) -> Annotator:
    tokenizer = byte_tokenizer("llama2")
    model = tiny_model(name, max_position_embeddings=1024, n_positions=1024)
    loaded = Loaded(model, chat_format(tokenizer), end_ids(tokenizer, None))
    layout = Layout(packed, 1000, tokenizer.pad_token_id)
    return Annotator(loaded, pooling, prompt, 1000, tokens, folder, Ranks(), layout)


@pytest.mark.parametrize("packed", [True, False])
def test_release_settings_reproduce_the_authors_procedure(tmp_path, packed):
    """SMV.py and annotation.py, transcribed: batch 1, all hidden states, [-1][0, -1], joiners as they have them."""
    induced, pairs = rows(("positive", "negative")), rows(("chosen", "rejected"))[::-1]
    ours = annotator(tmp_path, "alpaca", "last_text", packed=packed)
    direction = direction_of(ours, "smv", "last", rendered(ours, induced, ("positive", "negative"), "\n"), seed=0)
    margins = ours.margins("train", rendered(ours, pairs, ("chosen", "rejected"), ""), direction, 0).raw

    model, tokenizer = ours.loaded.model, ours.loaded.tokenizer

    def get_embedding(text: str) -> np.ndarray:
        inputs = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            output = model(inputs.input_ids, output_hidden_states=True)
        return output.hidden_states[-1][0, -1].numpy()

    def embeddings(side: str) -> np.ndarray:
        head = ours.loaded.format.alpaca_prompt
        return np.stack([get_embedding(head(r["prompt"]) + "\n" + r[side][0]["content"]) for r in induced])

    hl, hm = embeddings("positive"), embeddings("negative")
    vector = np.mean(hl - hm, axis=0)
    norm = np.linalg.norm(vector)
    expected = []
    for row in pairs:
        prompt = ours.loaded.format.alpaca_prompt(row["prompt"])
        one, other = (get_embedding(prompt + row[side][0]["content"]) for side in ("chosen", "rejected"))
        expected.append((one - other).dot(vector) / norm)
    np.testing.assert_allclose(direction.vector.numpy(), vector, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(margins, expected, rtol=1e-4, atol=1e-4)
    assert np.std(expected) > 0.1


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_margins_do_not_depend_on_the_batch(tmp_path, name):
    found = []
    for tokens in (1, 400, 10000):
        reader = annotator(tmp_path / f"{name}-{tokens}", tokens=tokens, name=name)
        induced = rendered(reader, rows(("positive", "negative")), ("positive", "negative"), "")
        direction = direction_of(reader, "smv", "auto", induced, seed=0)
        pairs = rendered(reader, rows(("chosen", "rejected")), ("chosen", "rejected"), "")
        found.append((direction.layer, reader.margins("train", pairs, direction, 0).raw))
    for layer, raw in found[1:]:
        assert layer == found[0][0]
        np.testing.assert_allclose(raw, found[0][1], rtol=1e-4, atol=1e-4)


def test_a_language_model_head_changes_nothing(tmp_path):
    with_head = annotator(tmp_path / "head")
    pairs = rendered(with_head, rows(("chosen", "rejected")), ("chosen", "rejected"), "")
    direction = direction_of(with_head, "random", 2, [], seed=3)
    expected = with_head.margins("train", pairs, direction, 0).raw
    causal = tiny_model("llama", AutoModelForCausalLM, max_position_embeddings=1024)
    causal.model.load_state_dict(with_head.loaded.model.state_dict())
    other = Annotator(**{**vars(with_head), "work": tmp_path / "causal"})
    other.loaded.model = causal
    np.testing.assert_array_equal(other.margins("train", pairs, direction, 0).raw, expected)


def test_auto_takes_the_layer_that_separates_held_out_pairs_best(tmp_path):
    reader = annotator(tmp_path)
    induced = rendered(reader, rows(("positive", "negative"), 30), ("positive", "negative"), "")
    direction = direction_of(reader, "smv", "auto", induced, seed=0)
    by_layer = direction.separation_by_layer
    assert set(by_layer) == {1, 2, 3} and direction.layer == max(by_layer, key=by_layer.get)
    fixed = direction_of(annotator(tmp_path / "fixed"), "smv", direction.layer, induced, seed=0)
    torch.testing.assert_close(fixed.vector, direction.vector)


def test_ablations_have_no_vector_or_a_random_one(tmp_path):
    reader = annotator(tmp_path)
    pairs = rendered(reader, rows(("chosen", "rejected")), ("chosen", "rejected"), "")
    swapped = [(rejected, chosen) for chosen, rejected in pairs]
    for kind in ("distance", "cosine"):
        direction = direction_of(reader, kind, 3, [], seed=0)
        raw = reader.margins(kind, pairs, direction, 0).raw
        assert direction.vector is None and (raw > 0).all()
        np.testing.assert_allclose(reader.margins(f"{kind} swapped", swapped, direction, 0).raw, raw, rtol=1e-5)
    one, same, other = (direction_of(reader, "random", 3, [], seed=seed).vector for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_answers_without_an_end_and_cut_ones_are_counted(tmp_path):
    reader = annotator(tmp_path)
    pairs = rows(("chosen", "rejected"))
    lengths = [len(answer.ids) for pair in rendered(reader, pairs, ("chosen", "rejected"), "") for answer in pair]
    limit = sorted(lengths)[len(lengths) // 2]
    cutting = Annotator(**{**vars(reader), "max_length": limit})
    cut = rendered(cutting, pairs, ("chosen", "rejected"), "")
    reading = cutting.margins("train", cut, direction_of(cutting, "random", 1, []), 0)
    assert reading.truncated == reading.no_end == sum(length > limit for length in lengths) > 0


def labelled_rows() -> list[dict]:
    """Each answer to a prompt of its own, as labelled answers are."""
    pairs = rows(("positive", "negative"))
    others = [row["prompt"] for row in pairs[1:] + pairs[:1]]
    return [{**row, "negative_prompt": other} for row, other in zip(pairs, others, strict=True)]


@pytest.mark.parametrize("packed", [True, False])
def test_answers_to_different_prompts_are_read_after_their_own(tmp_path, packed):
    reader = annotator(tmp_path, packed=packed)
    sides = ("positive", "negative")
    states = reader.side_states("labelled", rendered(reader, labelled_rows(), sides, ""), [1, 3])
    alone = annotator(tmp_path / "alone", packed=packed)
    for side, found in zip(sides, (states.positive, states.negative), strict=True):
        own = [{**row, "prompt": row["prompt" if side == "positive" else "negative_prompt"]} for row in labelled_rows()]
        same = [{**row, "negative_prompt": None, **dict.fromkeys(sides, row[side])} for row in own]
        expected = alone.side_states(side, rendered(alone, same, sides, ""), [1, 3])
        torch.testing.assert_close(found, expected.positive, rtol=1e-4, atol=1e-4)


def test_pairs_at_equal_length_keep_the_words_of_the_shorter_and_both_ends(tmp_path):
    reader = annotator(tmp_path)
    for row in rows(("positive", "negative")):
        row["positive_finished"] = row["negative_finished"] = False  # cut off while they were generated
        pair = reader.render(row, ("positive", "negative"), "")
        one, other = reader.equally_long(pair)
        assert len(one.ids) - one.prompt_length == len(other.ids) - other.prompt_length
        texts = [reader.loaded.tokenizer.decode(answer.ids[answer.prompt_length :]) for answer in (one, other)]
        whole = [row[side][0]["content"] for side in ("positive", "negative")]
        shorter = min(range(2), key=lambda side: len(pair[side].ids) - pair[side].prompt_length)
        assert texts[shorter].strip() == f"{whole[shorter]} </s>"
        assert texts[1 - shorter].endswith("</s>")
        assert whole[1 - shorter].startswith(texts[1 - shorter].removesuffix("</s>").strip())


def test_an_answer_of_a_token_is_too_short_to_compare(tmp_path):
    reader = annotator(tmp_path)
    row = {**rows(("positive", "negative"))[0], "positive": [{"role": "assistant", "content": "a"}]}
    with pytest.raises(BadRow, match="one of its answers has less than 3 tokens: too few to compare at equal length"):
        reader.equally_long(reader.render(row, ("positive", "negative"), ""))


def test_random_directions_stand_beside_each_margin(tmp_path):
    reader = annotator(tmp_path)
    pairs = rendered(reader, rows(("chosen", "rejected")), ("chosen", "rejected"), "")
    found = reader.margins("train", pairs, reader.direction("distance", 2, None, 0), 0).random
    states = reader.side_states("states", pairs, [2])
    directions = random_direction(20, 32, torch.Generator().manual_seed(1))
    expected = (states.positive - states.negative)[:, 0] @ (directions / directions.norm(dim=1, keepdim=True)).T
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-3, atol=1e-4)


def test_token_embeddings_alone_are_mean_embeddings_along_their_own_difference(tmp_path):
    """The slow way: the embeddings of every answer."""
    reader = annotator(tmp_path)
    induced = rendered(reader, rows(("positive", "negative")), ("positive", "negative"), "")
    pairs = rendered(reader, rows(("chosen", "rejected"))[::-1], ("chosen", "rejected"), "")

    def embedded(answer: Rendered) -> torch.Tensor:
        ids = torch.from_numpy(answer.ids[answer.prompt_length :]).long()
        return reader.loaded.model.get_input_embeddings()(ids).detach().double().mean(dim=0)

    vector = torch.stack([embedded(one) - embedded(other) for one, other in induced]).mean(dim=0)
    expected = [((embedded(one) - embedded(other)) @ vector / vector.norm()).item() for one, other in pairs]
    np.testing.assert_allclose(embedding_margins(reader.loaded.model, induced, pairs), expected, rtol=1e-5)


def test_a_layer_the_model_lacks_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"annotator\.layer: the model has 3 layers"):
        annotator(tmp_path).layers(4)
