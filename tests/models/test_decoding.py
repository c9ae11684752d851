"""The tokens are those of transformers' own generate; a prompt is computed once, and a row that is done is not."""

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MambaConfig,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from alignment.data.chat import chat_format
from alignment.maths.noise import gumbel, row_key
from alignment.models.decoding import generate_ids
from alignment.models.load import Loaded
from alignment.sampling import generate
from alignment.sampling.generate import Draw, Sample, generate_greedily, likeliest
from alignment.types import UserError
from tests.conftest import byte_tokenizer, tiny_model

MODELS = {  # windows shorter than the prompts
    "llama": {},
    "qwen2": {},
    "gpt2": {},
    "gemma2": {"sliding_window": 6},
    "gemma3": {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
}
PROMPTS = [list(range(first, first + length)) for first, length in ((40, 3), (60, 17), (40, 3), (100, 9), (60, 17))]
KEYS = [row_key(0, "prompt", sample) for sample in range(len(PROMPTS))]
SETTINGS = {"temperature": 1.4, "top_k": 8, "top_p": 0.95, "repetition_penalty": 1.2}
LIMIT = 24


def load(name: str, attention: str = "eager") -> Loaded:
    """A random model of 300 bytes and marks, of which twenty end an answer."""
    model = tiny_model(name, AutoModelForCausalLM, vocab_size=300, **MODELS[name])
    model.set_attn_implementation(attention)
    return Loaded(model, chat_format(byte_tokenizer("chatml")), set(range(0, 300, 15)))


def transformers_own(loaded: Loaded, processors: list[LogitsProcessor]) -> list[list[int]]:
    """Every prompt computed for itself, every row until the last is done, and what comes after an end cut off."""
    width = max(len(prompt) for prompt in PROMPTS)
    generated = loaded.model.generate(
        input_ids=torch.tensor([prompt[:1] * (width - len(prompt)) + prompt for prompt in PROMPTS]),
        attention_mask=torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in PROMPTS]),
        generation_config=GenerationConfig(
            do_sample=False, max_new_tokens=LIMIT, eos_token_id=sorted(loaded.end_ids), pad_token_id=299
        ),
        logits_processor=LogitsProcessorList(processors),
    )[:, width:].tolist()
    ends = [next((i for i, token in enumerate(row) if token in loaded.end_ids), LIMIT) for row in generated]
    return [row[: end + 1] for row, end in zip(generated, ends, strict=True)]


@pytest.mark.parametrize("name", MODELS)
def test_the_likeliest_tokens_are_those_of_generate(name):
    loaded = load(name)
    assert generate_ids(loaded, PROMPTS, LIMIT, likeliest) == transformers_own(loaded, [])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("top_k", [0, 8])
def test_the_drawn_tokens_are_those_of_generate_with_the_same_noise(name, attention, top_k):
    """The whole vocabulary or a few tokens of it: transformers sees all scores to the end."""
    if name == "gemma2" and attention == "sdpa":
        pytest.skip("transformers has none for Gemma 2")
    loaded = load(name, attention)
    found = generate_ids(loaded, PROMPTS, LIMIT, Draw(KEYS, {**SETTINGS, "top_k": top_k}, loaded.model.device))
    warpers: list[LogitsProcessor] = [RepetitionPenaltyLogitsProcessor(1.2), TemperatureLogitsWarper(1.4)]
    warpers += [TopKLogitsWarper(top_k)] if top_k else []
    assert found == transformers_own(loaded, [*warpers, TopPLogitsWarper(0.95), Noise(17)])
    assert len({len(answer) for answer in found}) > 1  # they don't end together


class Noise(LogitsProcessor):
    def __init__(self, width: int) -> None:
        self._width = width

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores.double() + gumbel(torch.tensor(KEYS), input_ids.shape[1] - self._width, scores.shape[1])


def test_tokens_as_likely_as_the_last_of_top_k_can_be_drawn():
    """As in transformers: five tokens tie for three places, and all come up."""
    scores = torch.tensor([[2.0, 1.0, 1.0, 1.0, 1.0, 0.0]]).repeat(500, 1)
    draw = Draw(
        [row_key(0, "tie", sample) for sample in range(500)], {**SETTINGS, "top_k": 3, "top_p": 1.0}, scores.device
    )
    tokens = draw(torch.full((500, 1), 5), scores, torch.arange(500), 0)
    assert set(tokens.tolist()) == {0, 1, 2, 3, 4}


def test_a_prompt_is_computed_once_and_a_row_that_is_done_no_more():
    """The tokens that go into the model: three different prompts, then a token for each answer that goes on."""
    loaded = load("llama")
    prompts = [PROMPTS[0]] * 4 + [PROMPTS[1]] * 4 + [PROMPTS[3]] * 4
    keys = [row_key(0, "rows", sample) for sample in range(12)]
    seen: list[tuple[int, ...]] = []
    hook = loaded.model.get_input_embeddings().register_forward_pre_hook(
        lambda module, inputs: seen.append(tuple(inputs[0].shape))
    )
    answers = generate_ids(loaded, prompts, LIMIT, Draw(keys, SETTINGS, loaded.model.device))
    hook.remove()
    lengths = [len(answer) for answer in answers]
    assert len(set(lengths)) > 3
    assert seen[0] == (3, 17)
    assert seen[1:] == [(sum(length > step for length in lengths), 1) for step in range(1, max(lengths))]


def test_padding_is_no_token_of_a_prompt():
    """What a choice sees, and the repetition penalty with it, are the tokens of each row's own prompt and answer."""
    seen: list[list[set[int]]] = []

    def choose(ids: Tensor, scores: Tensor, numbers: Tensor, position: int) -> Tensor:
        seen.append([set(row) for row in ids.tolist()])
        return 200 + numbers

    generate_ids(load("llama"), PROMPTS, 2, choose)
    assert seen[0] == [set(prompt) for prompt in PROMPTS]
    assert seen[1] == [{*prompt, 200 + number} for number, prompt in enumerate(PROMPTS)]


def test_answers_to_one_prompt_are_those_computed_one_by_one():
    loaded = load("gemma3")
    keys = [row_key(0, "one", sample) for sample in range(8)]
    together = generate_ids(loaded, [PROMPTS[1]] * 8, LIMIT, Draw(keys, SETTINGS, loaded.model.device))
    alone = [generate_ids(loaded, [PROMPTS[1]], LIMIT, Draw([key], SETTINGS, loaded.model.device))[0] for key in keys]
    assert together == alone
    assert len({tuple(answer) for answer in together}) > 4


def test_a_stop_string_ends_an_answer_wherever_its_tokens_are_cut(monkeypatch):
    """Of a model without a chat template: the next turn's mark, beside one that only looks like it, and an end."""
    tokenizer = byte_tokenizer("plain")
    model = tiny_model("llama", AutoModelForCausalLM, vocab_size=len(tokenizer))
    loaded = Loaded(model, chat_format(tokenizer), {tokenizer.eos_token_id})
    assert loaded.format.stop == "\n\nHuman:"
    texts = ["yes\n\nHuman: and then?", "no\n\nHumans: are we", "so</s> and so on and on"]
    script = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]

    def choose(ids: Tensor, scores: Tensor, numbers: Tensor, position: int) -> Tensor:
        return torch.tensor([script[number][position] for number in numbers.tolist()])

    limit = len(texts[1])
    answers = generate_ids(loaded, [[50], [60, 70], [80]], limit, choose)
    assert [len(answer) for answer in answers] == [len("yes\n\nHuman:"), limit, len("so") + 1]
    monkeypatch.setattr(generate, "likeliest", choose)
    assert generate_greedily(loaded, [[50], [60, 70], [80]], limit) == [
        Sample("yes", True), Sample("no\n\nHumans: are we", False), Sample("so", True),
    ]  # fmt: skip


def test_a_model_without_keys_and_values_is_refused():
    model = AutoModelForCausalLM.from_config(MambaConfig(vocab_size=300, hidden_size=32, num_hidden_layers=1))
    loaded = Loaded(model, chat_format(byte_tokenizer("chatml")), {5})
    with pytest.raises(UserError, match="model: MambaForCausalLM keeps no keys and values"):
        generate_greedily(loaded, [[50]], 2)
