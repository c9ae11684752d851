"""Samples are the model's: against transformers' own sampling. Each belongs to its key: whatever batch it is in."""

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import AutoModelForCausalLM, GenerationConfig, TopPLogitsWarper

from alignment.data.chat import chat_format
from alignment.maths.noise import gumbel, row_key
from alignment.models.decoding import generate_ids
from alignment.models.load import Loaded
from alignment.sampling.generate import Draw, _nucleus, generate_greedily, generate_samples
from tests.conftest import byte_tokenizer, tiny_model
from tests.data.test_thinking import tokenizer_of
from tests.judges.guard_models import force

PLAIN = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0, "max_new_tokens": 6}
RELEASED = {"temperature": 1.4, "top_k": 8, "top_p": 0.95, "repetition_penalty": 1.2, "max_new_tokens": 2}


@pytest.fixture(scope="module")
def tiny() -> Loaded:
    """A random model of 300 bytes and marks that prefers some to others, and never ends a turn by itself."""
    tokenizer = byte_tokenizer("chatml")
    model = tiny_model("llama", AutoModelForCausalLM, vocab_size=300)
    return Loaded(model, chat_format(tokenizer), {tokenizer.convert_tokens_to_ids("<|im_end|>")})


def keys(count: int, name: str = "prompt") -> list[int]:
    return [row_key(0, name, sample) for sample in range(count)]


@pytest.mark.parametrize("settings", [PLAIN, RELEASED], ids=["plain", "released"])
def test_samples_have_the_distribution_of_transformers_own(tiny, settings):
    """4,000 samples of two tokens from each: the same pairs of tokens equally often (chi-square of two samples)."""
    prompt, count = [72, 101, 108, 108, 111, 72, 101], 4000
    tiny.model.lm_head.weight.data *= 3.0  # peaked, so that there are pairs of tokens to count
    try:
        ours = torch.tensor(sample_ids(tiny, [prompt] * count, keys(count), {**settings, "max_new_tokens": 2}))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            config = GenerationConfig(
                **{**settings, "max_new_tokens": 2}, do_sample=True, eos_token_id=sorted(tiny.end_ids), pad_token_id=0
            )
            rows = torch.tensor([prompt] * count)
            theirs = type(tiny.model).generate(
                tiny.model, rows, attention_mask=torch.ones_like(rows), generation_config=config
            )[:, len(prompt) :]
    finally:
        tiny.model.lm_head.weight.data /= 3.0
    table = count_pairs(ours, theirs)
    assert table.shape[1] > 5
    assert stats.chi2_contingency(table).pvalue > 0.01


def sample_ids(loaded: Loaded, prompts: list[list[int]], keys: list[int], settings: dict) -> list[list[int]]:
    """The tokens of generate_samples' answers."""
    return generate_ids(loaded, prompts, settings["max_new_tokens"], Draw(keys, settings, loaded.model.device))


def count_pairs(ours: torch.Tensor, theirs: torch.Tensor) -> np.ndarray:
    """(2, pair of tokens): how often each came up; those expected less than five times together in one column."""
    codes = [(one[:, 0] * 1000 + one[:, 1]).numpy() for one in (ours, theirs)]
    values = np.unique(np.concatenate(codes))
    table = np.array([[(one == value).sum() for value in values] for one in codes])
    often = table.sum(axis=0) >= 10
    rare = table[:, ~often].sum(axis=1, keepdims=True)
    return np.concatenate([table[:, often], rare], axis=1) if rare.sum() else table[:, often]


def test_a_sample_is_the_same_in_any_batch(tiny):
    """Alone, beside longer and shorter prompts, and in another order."""
    prompts = [list(range(40, 40 + length)) for length in (3, 17, 5, 9, 30, 4)]
    all_keys = keys(6)
    settings = {**RELEASED, "max_new_tokens": 12}
    together = generate_samples(tiny, prompts, all_keys, settings)
    alone = [
        generate_samples(tiny, [prompt], [key], settings)[0] for prompt, key in zip(prompts, all_keys, strict=True)
    ]
    assert together == alone
    assert generate_samples(tiny, prompts[::-1], all_keys[::-1], settings) == together[::-1]
    assert len({sample.text for sample in generate_samples(tiny, [prompts[0]] * 6, all_keys, settings)}) == 6
    assert generate_samples(tiny, prompts, keys(6, "another"), settings) != together


def test_one_token_is_the_greedy_choice_without_chance(tiny):
    prompts = [[50, 60, 70], [80, 90]]
    settings = {**PLAIN, "top_k": 1}
    assert generate_samples(tiny, prompts, keys(2), settings) == generate_greedily(tiny, prompts, 6)
    cold = {**PLAIN, "temperature": 1e-6}
    assert generate_samples(tiny, prompts, keys(2), cold) == generate_greedily(tiny, prompts, 6)


def test_the_models_own_settings_count_for_nothing(tiny, monkeypatch):
    prompts = [[50, 60, 70], [80, 90]]
    greedy, samples = generate_greedily(tiny, prompts, 6), generate_samples(tiny, prompts, keys(2), PLAIN)
    own = GenerationConfig(
        repetition_penalty=5.0, no_repeat_ngram_size=1, suppress_tokens=list(range(200)), min_new_tokens=5,
        temperature=0.1, top_k=1, do_sample=True, max_length=4,
    )  # fmt: skip
    monkeypatch.setattr(tiny.model, "generation_config", own)
    assert generate_greedily(tiny, prompts, 6) == greedy
    assert generate_samples(tiny, prompts, keys(2), PLAIN) == samples
    assert tiny.model.generation_config is own


def test_a_sample_without_an_end_is_not_finished(tiny):
    ends = Loaded(tiny.model, tiny.format, set(range(300)))  # whatever comes first ends the turn
    assert all(sample.finished and not sample.text for sample in generate_samples(ends, [[50]] * 4, keys(4), PLAIN))
    never = Loaded(tiny.model, tiny.format, {299})
    assert not any(sample.finished for sample in generate_samples(never, [[50]] * 4, keys(4), PLAIN))


def test_an_answer_ends_at_the_models_context(tiny, monkeypatch):
    monkeypatch.setattr(tiny.model.config, "max_position_embeddings", 12)
    assert [len(answer) for answer in sample_ids(tiny, [[50] * 9, [60] * 4], keys(2), PLAIN)] == [3, 3]


# ---- thoughts -------------------------------------------------------------------------------------------------------


def writes(text: str, template: str = "qwen3", thinking: bool = True) -> Loaded:
    """A model that writes this text, and then ends its turn."""
    tokenizer = tokenizer_of(template)
    model = tiny_model("llama", AutoModelForCausalLM, max_position_embeddings=2048)
    force(model, tokenizer, text)
    return Loaded(model, chat_format(tokenizer, thinking=thinking), {tokenizer.eos_token_id})


QUESTION = [{"role": "user", "content": "why?"}]
THINKERS = {
    "qwen3": "<think>\nhm\n</think>\n\nso.",
    "deepseek_r1_distill": "hm\n</think>\n\nso.",  # the prompt has begun them
    "gptoss": "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>so.",
}


@pytest.mark.parametrize("template", THINKERS)
def test_thoughts_are_kept_beside_the_answer(template):
    loaded = writes(THINKERS[template], template)
    (sample,) = generate_greedily(loaded, [loaded.format.prompt_ids(QUESTION)], 120)
    assert (sample.thoughts, sample.text, sample.finished) == ("hm", "so.", True)


@pytest.mark.parametrize("template", THINKERS)
def test_thoughts_that_are_cut_off_leave_no_answer(template):
    loaded = writes(THINKERS[template], template)
    count = THINKERS[template].index("hm") + 2
    (sample,) = generate_greedily(loaded, [loaded.format.prompt_ids(QUESTION)], count)
    assert (sample.thoughts, sample.text, sample.finished) == ("hm", "", False)


@pytest.mark.parametrize("text", ["so.", "what is <b>?", "Take powder.</think>I can't help.", "<think>Take powder."])
def test_a_model_that_does_not_think_answers_as_before(text):
    loaded = writes(text, thinking=False)
    (sample,) = generate_greedily(loaded, [loaded.format.prompt_ids(QUESTION)], 120)
    assert (sample.thoughts, sample.text, sample.finished) == ("", text, True)


def test_a_model_that_thinks_unasked_is_judged_by_its_answer_all_the_same():
    loaded = writes(THINKERS["qwen3"], "qwen2_5", thinking=False)
    (sample,) = generate_greedily(loaded, [loaded.format.prompt_ids(QUESTION)], 120)
    assert (sample.thoughts, sample.text) == ("hm", "so.")


@pytest.mark.parametrize("spread", [8.0, 1.0, 0.0], ids=["peaked", "flat", "all alike"])
def test_top_p_takes_the_tokens_of_transformers_whole_sort(spread):
    """Of 3,000 tokens a few, most of them, or nine in ten that tie: the same draws as from the whole row, sorted."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(40, 3000, generator=generator) * spread
    draw, row = Draw(keys(40), {**PLAIN, "top_p": 0.9}, torch.device("cpu")), torch.arange(40)
    chosen = draw(row[:, None], scores.clone(), row, 0)
    kept = TopPLogitsWarper(0.9)(row[:, None], scores.clone())
    if spread:
        assert torch.equal(chosen, (kept + gumbel(torch.tensor(keys(40)), 0, 3000)).argmax(dim=1))
    likeliest, tokens = _nucleus(scores, 0.9)
    sizes = (likeliest > -torch.inf).sum(dim=1)
    assert torch.equal(sizes, (kept > -torch.inf).sum(dim=1)) if spread else (sizes - 2700).abs().max() <= 1
    assert all(len(set(row.tolist())) == tokens.shape[1] for row in tokens)
