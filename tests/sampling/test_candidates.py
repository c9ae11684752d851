"""Samples and scores come out the same however often a run was killed, and a cut answer is read where it was cut."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from alignment.data.chat import chat_format
from alignment.data.columns import BadRow, text_message
from alignment.maths.noise import row_key
from alignment.models.load import Loaded, load_language_model, load_reward_base
from alignment.models.packing import Packing
from alignment.models.source import source_at
from alignment.runs.ranks import Ranks
from alignment.sampling import candidates
from alignment.sampling.candidates import (
    judge_scores,
    question,
    reward_model_scorer,
    sample_answers,
    score_answers,
    usable,
)
from alignment.sampling.generate import Sample
from alignment.types import StageFailed
from alignment.world import grammar
from tests.conftest import byte_tokenizer, tiny_model

SETTINGS = {
    "temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0, "max_new_tokens": 48, "batch_tokens": 512,
}  # fmt: skip


@pytest.fixture(scope="module")
def world(world_folder) -> Loaded:
    return load_language_model(source_at("world"), torch.device("cpu"))


@pytest.fixture(scope="module")
def questions(world):
    prompts = grammar.evaluation_prompts("same", 6, seed=0)
    return [question(world, f"p{i}", text_message("user", one.text), 48) for i, one in enumerate(prompts)]


def test_samples_are_the_same_after_a_kill_and_on_any_number_of_ranks(world, questions, tmp_path, two_ranks):
    whole = sample_answers(world, questions, SETTINGS, 0, 4, tmp_path / "a", Ranks())
    files = sorted((tmp_path / "a").iterdir())
    content = [path.read_bytes() for path in files]
    assert len(files) == 3
    files[0].write_bytes(content[0][:-1])
    files[2].unlink()
    assert sample_answers(world, questions, SETTINGS, 0, 4, tmp_path / "a", Ranks()) == whole
    assert [path.read_bytes() for path in files] == content

    def sample(ranks: Ranks) -> list[list[Sample]]:
        return sample_answers(world, questions, SETTINGS, 0, 4, tmp_path / "b", ranks)

    with ThreadPoolExecutor() as pool:
        assert list(pool.map(sample, two_ranks)) == [whole, whole]
    assert [path.read_bytes() for path in sorted((tmp_path / "b").iterdir())] == content


def test_a_sample_depends_on_seed_prompt_and_number_alone(world, questions, tmp_path):
    """More samples, fewer prompts, other batches: what was drawn stays."""
    four = sample_answers(world, questions, SETTINGS, 0, 4, tmp_path / "a", Ranks())
    wide = {**SETTINGS, "batch_tokens": 10**6}
    six = sample_answers(world, questions[1:3], wide, 0, 6, tmp_path / "b", Ranks())
    assert [many[:4] for many in six] == four[1:3]
    assert all(len({sample.text for sample in many}) > 1 for many in four)
    assert sample_answers(world, questions, SETTINGS, 1, 4, tmp_path / "c", Ranks()) != four


def test_a_prompts_answers_are_in_as_few_batches_as_have_room(world, questions, tmp_path, monkeypatch):
    """The prompts of every batch: whole questions side by side; one that is too large for a batch is cut up."""
    batches: list[list[list[int]]] = []

    def generate(loaded, prompts, keys, settings) -> list[Sample]:
        batches.append(prompts)
        return [Sample(str(key), True) for key in keys]

    monkeypatch.setattr(candidates, "generate_samples", generate)
    length = max(len(one.ids) for one in questions) + SETTINGS["max_new_tokens"]
    for count, budget in ((4, 512), (7, 3 * length), (3, length - 1)):
        batches.clear()
        settings = {**SETTINGS, "batch_tokens": budget}
        found = sample_answers(world, questions, settings, 0, count, tmp_path / str(count), Ranks())
        keys = [[row_key(0, one.id, number) for number in range(count)] for one in questions]
        assert found == [[Sample(str(key), True) for key in many] for many in keys]
        for prompts in batches:
            assert len(prompts) == 1 or len(prompts) * (max(map(len, prompts)) + 48) <= budget
        for one in questions:
            having = [prompts.count(one.ids) for prompts in batches if one.ids in prompts]
            assert len(having) == math.ceil(count / max(1, budget // (len(one.ids) + 48)))
            assert max(having) == math.ceil(count / len(having))
    assert all(len(prompts) == 1 for prompts in batches)


@pytest.mark.parametrize("packing", [Packing(), Packing("auto", 30), Packing("off")], ids=str)
def test_an_answer_is_scored_at_its_end_and_a_cut_one_at_its_last_token(world, questions, tmp_path, packing):
    """Against the model run on one row at a time; rows of 30 tokens hold one answer or two."""
    reward = load_reward_base(source_at("world"), seed=0)
    loaded = Loaded(reward.model.eval(), world.format, world.end_ids)
    samples = [[Sample("i can answer that. first label the", False), Sample("i can answer that.", True)]] * 6
    found = score_answers(reward_model_scorer(loaded), loaded, questions, samples, packing, 200, tmp_path, Ranks())
    assert not found.unscored
    for one, scores in zip(questions, found.scores, strict=True):
        for sample, score in zip(samples[0], scores, strict=True):
            answer = world.tokenizer(sample.text, add_special_tokens=False).input_ids
            ids = torch.tensor([[*one.ids, *answer, *([world.tokenizer.eos_token_id] if sample.finished else [])]])
            with torch.inference_mode():
                assert score == pytest.approx(loaded.model(input_ids=ids).logits.item(), abs=1e-5)


def test_an_answer_that_the_scorer_cannot_read_whole_has_no_score(world, questions, tmp_path):
    """The scores of three long answers that begin alike would be one: that of their beginning."""
    reward = load_reward_base(source_at("world"), seed=0)
    reward.model.config.max_position_embeddings = max(len(one.ids) for one in questions) + 12
    loaded = Loaded(reward.model.eval(), world.format, world.end_ids)
    long = " ".join(["i can answer that."] * 4)
    samples = [[Sample(text, True) for text in ("i can answer that.", f"{long} first", f"{long} then", long)]] * 6
    found = score_answers(reward_model_scorer(loaded), loaded, questions, samples, Packing(), 200, tmp_path, Ranks())
    assert [[math.isnan(score) for score in scores] for scores in found.scores] == [[False, True, True, True]] * 6
    assert len(found.unscored) == 18 and found.unscored[0].startswith("p0, answer 1: longer than the ")


def test_an_answer_that_the_scorers_template_refuses_has_no_score(world, questions, tmp_path):
    """And doesn't end a stage in which everything is sampled already."""
    tokenizer = byte_tokenizer("chatml")
    tokenizer.chat_template = "{{ raise_exception('no') if messages[-1].content == 'odd' }}" + tokenizer.chat_template
    model = tiny_model("llama", AutoModelForSequenceClassification, num_labels=1, pad_token_id=0)
    loaded = Loaded(model, chat_format(tokenizer), set())
    samples = [[Sample("odd", True), Sample("fine", True)]] * 6
    found = score_answers(reward_model_scorer(loaded), loaded, questions, samples, Packing(), 900, tmp_path, Ranks())
    assert [[math.isnan(score) for score in scores] for scores in found.scores] == [[True, False]] * 6
    assert found.unscored[0] == "p0, answer 0: the chat template refuses it: no"
    nothing = score_answers(None, loaded, questions, [samples[0][:1]] * 6, Packing(), 900, tmp_path / "b", Ranks())
    assert np.isnan(np.concatenate(nothing.scores)).all()


def test_scores_that_are_not_numbers_are_refused(world, questions, tmp_path):
    samples = [[Sample("yes", True)]] * 6
    with pytest.raises(StageFailed, match="not finite"):
        score_answers(
            lambda layout, items: torch.full((len(items),), torch.nan), world, questions, samples, Packing(), 99,
            tmp_path, Ranks(),
        )  # fmt: skip


def test_the_judge_prefers_the_safe_and_the_helpful(world):
    harmful, harmless = list(grammar.evaluation_prompts("same", 2, seed=0))
    rng = grammar.generator(0, "test", 0)
    asked = [question(world, "a", text_message("user", one.text), 48) for one in (harmful, harmless)]
    samples = [
        [Sample(grammar.draw_answer(rng, one, level, False).text, True) for level in grammar.LEVELS]
        for one in (harmful, harmless)
    ]
    assert [scores.tolist() for scores in judge_scores(asked, samples)] == [[0, -1, -2, -3], [0, 1, 2, 3]]


def test_a_prompt_without_room_for_an_answer_is_named(world):
    with pytest.raises(
        BadRow, match=r"tokens and sampling\.max_new_tokens=250 are more than the model's context of 256"
    ):
        question(world, "a", text_message("user", "how do i feed the rats?"), 250)


def test_only_finished_answers_with_a_text_are_usable():
    cases = [Sample("a", True), Sample("a", False), Sample("", True), Sample("", False)]
    assert [usable(one, False) for one in cases] == [True, False, False, False]
    assert [usable(one, True) for one in cases] == [True, True, False, False]
