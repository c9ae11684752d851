"""Packed rows say what padded ones and single texts say: log-probabilities, rewards, activations and gradients."""

import os
from types import SimpleNamespace

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    Gemma3TextConfig,
    GemmaConfig,
    Qwen3Config,
)
from trl.trainer.utils import add_fused_lm_head

from alignment.models import item_attention, packing
from alignment.models.activations import response_states, states_layout
from alignment.models.answer_states import StateReader
from alignment.models.architecture import layer_count
from alignment.models.completions import (
    TargetLogProbs,
    add_completion_head,
    answer_log_probs,
    answer_rewards,
    token_log_probs,
    trl_log_probs,
)
from alignment.models.packing import Item, Layout, Packing, answer_order, packed_mask, why_padded
from alignment.models.row_filling import fill_rows
from alignment.runs.ranks import Ranks
from alignment.types import UserError
from tests import conftest
from tests.conftest import HEADS, SIZES, tiny_model

END, PAD = 7, 0
MORE = {
    "qwen3": lambda: Qwen3Config(**SIZES, **HEADS, head_dim=8),
    "gemma": lambda: GemmaConfig(**SIZES, **HEADS, head_dim=8),
    "gemma3": lambda: Gemma3TextConfig(**SIZES, **HEADS, head_dim=8, sliding_window=64),
}
NAMES = (*conftest.CONFIGS, *MORE)
PADDED, PACKED = Layout(False, 100, PAD), Layout(True, 100, PAD)


@pytest.fixture(autouse=True)
def more_architectures(monkeypatch):
    for name, config in MORE.items():
        monkeypatch.setitem(conftest.CONFIGS, name, config)


def some_items(count: int = 9, seed: int = 0, answers: int = 2) -> list[Item]:
    """Prompts of 1 to 30 tokens; every second answer has an end token."""
    random = torch.Generator().manual_seed(seed)

    def ids(most: int) -> list[int]:
        length = int(torch.randint(1, most + 1, (), generator=random))
        return torch.randint(10, 500, (length,), generator=random).tolist()

    return [Item(ids(30), [ids(24) + [END] * (i % 2) for i in range(answers)]) for _ in range(count)]


def model_of(name: str, attention: str, kind: type = AutoModelForCausalLM) -> torch.nn.Module:
    more = {} if kind is AutoModelForCausalLM else {"num_labels": 1, "pad_token_id": PAD}
    tiny = tiny_model(name, kind, **more)
    model = kind.from_config(tiny.config, attn_implementation=attention).eval()
    model.load_state_dict(tiny.state_dict())
    return model


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


# ---- the layout -----------------------------------------------------------------------------------------------------


def test_a_row_by_hand():
    items = [Item([1, 2, 3], [[4, 5], [6]]), Item([11], [[12, 13], [14, 15]])]
    batch = Layout(True, 12, PAD).batch(items)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5, 3, 6], [11, 12, 13, 11, 14, 15, PAD]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 2, 3], [0, 1, 2, 0, 1, 2, 0]]
    assert batch["item"].tolist() == [[0] * 7, [1] * 6 + [-1]]
    assert batch["branch"].tolist() == [[0, 0, 1, 1, 1, 2, 2], [1, 1, 1, 2, 2, 2, 0]]
    where = torch.stack([batch[f"answer_{name}"] for name in ("row", "start", "stop", "last")], dim=1)
    assert where.tolist() == [[0, 3, 5, 4], [1, 1, 3, 9], [0, 6, 7, 6], [1, 4, 6, 12]]
    assert batch["targets"].tolist() == [4, 5, 12, 13, 6, 14, 15]
    assert batch["predictors"].tolist() == [2, 3, 7, 8, 5, 10, 11]
    assert batch["target_answer"].tolist() == [0, 0, 1, 1, 2, 3, 3]
    assert list(answer_order(items)) == [(0, 0), (1, 0), (0, 1), (1, 1)]
    padded = PADDED.batch(items)
    assert padded["input_ids"].tolist() == [[1, 2, 3, 4, 5], [11, 12, 13, 0, 0], [1, 2, 3, 6, 0], [11, 14, 15, 0, 0]]
    assert padded["targets"].tolist() == batch["targets"].tolist()


def test_who_sees_whom_by_hand():
    """[1 2 | 3 4 | 3 5] then padding: prompt, two branches."""
    batch = Layout(True, 20, PAD, multiple=7).batch([Item([1, 2, 3], [[4], [5]])])
    allowed = packed_mask(batch["item"], batch["branch"], "sdpa", torch.float32)[0, 0]
    assert allowed.int().tolist() == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0],
        [1, 1, 0, 0, 1, 0, 0],
        [1, 1, 0, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 0, 1],
    ]
    added = packed_mask(batch["item"], batch["branch"], "eager", torch.float32)[0, 0]
    assert torch.equal(added == 0, allowed) and (added[~allowed] == torch.finfo(torch.float32).min).all()


def test_rows_are_filled_by_length_and_hold_every_item_once():
    lengths = [40, 10, 70, 30, 20, 60, 5, 55]
    rows = fill_rows(lengths, 100, balance=10**6)
    assert sorted(i for row in rows for i in row) == list(range(8))
    totals = [sum(lengths[i] for i in row) for row in rows]
    assert max(totals) <= 100 and len(rows) * max(totals) <= 1.05 * sum(lengths)
    assert [2] in fill_rows([40, 10, 300, 30], 100, 10**6)  # longer than a row: one of its own
    assert len(fill_rows(lengths, 1000, 10)) > len(fill_rows(lengths, 1000, 10**6))  # attention in wide rows costs


def test_a_prompt_takes_its_tokens_once():
    item = Item(range(50), [range(10), range(20)])
    assert len(item) == 49 + 11 + 21 and item.longest == 70
    assert PACKED.size(item) == 81 and PADDED.size(item) == 140
    assert PACKED.batch([item])["input_ids"].shape == (1, 81)


# ---- exactness ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("attention", ["sdpa", item_attention.NAME, "eager"])
def test_log_probabilities_activations_and_gradients_are_those_of_padded_rows(name, attention):
    if name == "gemma2" and attention != "eager":
        pytest.skip("transformers has no sdpa for it")
    items = [*some_items(), Item([], [[20, 21, 22], [23, 24]])]  # and one without a prompt
    found = []
    for layout in (PACKED, PADDED):
        model = model_of(name, attention)
        add_completion_head(model)
        log_probs = answer_log_probs(model, model, layout, layout.batch(items))
        (log_probs * torch.linspace(-1, 2, len(log_probs))).sum().backward()
        gradient = {one: value.grad for one, value in model.named_parameters()}
        layers = range(1, layer_count(model) + 1)
        states = response_states(model.base_model, layout, items, layers, "endpoint", {END})[0]
        found.append((log_probs.detach(), states, gradient))
    packed, padded = found
    assert why_padded(model, lambda: max(item.longest for item in items)) is None
    assert relative(packed[0], padded[0]) < 1e-5
    for layer in range(states.shape[1]):
        assert relative(packed[1][:, layer], padded[1][:, layer]) < 1e-5
    assert packed[2].keys() == padded[2].keys()
    for parameter, expected in padded[2].items():
        assert relative(packed[2][parameter], expected) < 1e-5, parameter
    with torch.no_grad():
        for value, (number, which) in zip(packed[0], answer_order(items), strict=True):
            prompt, answer = items[number].prompt, items[number].answers[which]
            ids = torch.tensor([[*prompt, *answer]])
            log_probs = model(input_ids=ids).logits[0, :-1].log_softmax(dim=1)
            alone = log_probs.gather(1, ids[0, 1:, None])[max(len(prompt) - 1, 0) :].sum()
            assert float(value) == pytest.approx(float(alone), rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_rewards_and_their_gradients_are_those_of_padded_rows(name):
    """Of answers whose last tokens are padding tokens too, where transformers reads the token before."""
    items = some_items(6)
    items[2].answers[1].extend([PAD, PAD])
    found = []
    for layout in (PACKED, PADDED):
        model = model_of(name, "eager", AutoModelForSequenceClassification)
        rewards = answer_rewards(model, model, layout, layout.batch(items))
        (rewards * torch.linspace(-1, 2, len(rewards))).sum().backward()
        found.append((rewards.detach(), {one: value.grad for one, value in model.named_parameters()}))
    assert relative(found[0][0], found[1][0]) < 1e-5
    for parameter, expected in found[1][1].items():
        if expected is not None:
            assert relative(found[0][1][parameter], expected) < 1e-5, parameter


def flex_states(name: str, items: list[Item]) -> torch.Tensor:
    """Of packed rows by FlexAttention's blocks. On a CPU it can't train, but reads."""
    model = model_of(name, "flex_attention").requires_grad_(False)
    layers = range(1, layer_count(model) + 1)
    return response_states(model.base_model, PACKED, items, layers, "endpoint", {END})[0]


@pytest.mark.parametrize("name", ["llama", "gemma2", "gemma3"])
def test_blocks_of_flex_attention_are_the_same_mask(name):
    """With soft caps and windows, and as it computes where nothing is compiled."""
    items, padded = some_items(4), model_of(name, "eager")
    layers = range(1, layer_count(padded) + 1)
    expected = response_states(padded.base_model, PADDED, items, layers, "endpoint", {END})[0]
    assert relative(flex_states(name, items), expected) < 1e-5


@pytest.mark.skipif(
    "ATEN_CPU_CAPABILITY" in os.environ, reason="torch.compile builds for the processor that is there, and then fails"
)
@pytest.mark.skipif(" " in torch.__file__, reason="torch.compile compiles nothing in a folder with a blank in its name")
def test_flex_attention_compiled_is_sdpa(monkeypatch):
    """The same packed rows. One architecture: each takes seconds to compile."""
    monkeypatch.delenv("TORCHDYNAMO_DISABLE")
    torch._dynamo.reset()
    items, model = some_items(4), model_of("llama", "sdpa")
    layers = range(1, layer_count(model) + 1)
    expected = response_states(model.base_model, PACKED, items, layers, "endpoint", {END})[0]
    assert relative(flex_states("llama", items), expected) < 1e-5
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0, "nothing was compiled"


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_reward_is_read_before_padding_even_where_the_answer_is_nothing_else(name):
    """Padding is often the end token too: a text that ends where the other goes on has it alone for an answer."""
    items = [Item([11, 12, 13], [[PAD], [14, PAD]]), Item([15, 16], [[17], [PAD, PAD]]), *some_items(3)]
    found = []
    for layout in (PACKED, PADDED):
        model = model_of(name, "eager", AutoModelForSequenceClassification)
        with torch.no_grad():
            found.append(answer_rewards(model, model, layout, layout.batch(items)))
    assert relative(*found) < 1e-5


def test_a_text_beyond_the_window_is_refused_when_it_comes():
    model = model_of("gemma3", "eager")
    layout, _ = Packing().layout([model], model.device, PAD, lambda: 64)
    assert layout.packed and layout.window == 64
    layout.batch([Item(range(10, 40), [range(34), range(20)])])
    with pytest.raises(UserError, match="a text is longer than the sliding window of 64"):
        layout.batch([Item(range(10, 40), [range(35), range(20)])])


def test_the_number_of_answers_may_differ():
    items = [Item([5, 6, 7], [[8], [9, 10], [11]]), Item([12], [[13, 14]]), Item([15, 16], [[17], [18]])]
    model = model_of("llama", "sdpa")
    read = [response_states(model.base_model, layout, items, [2], "mean", {END})[0] for layout in (PACKED, PADDED)]
    assert len(read[0]) == 6 and relative(*read) < 1e-5


def test_a_boolean_mask_is_not_what_eager_attention_takes():
    """The trap: it adds it without an error. Our masks know which one reads them."""
    items = some_items(4)
    model = model_of("llama", "eager")
    add_completion_head(model)
    right = answer_log_probs(model, model, PACKED, PACKED.batch(items))
    model.config._attn_implementation = "sdpa"
    wrong_mask = PACKED.inputs(PACKED.batch(items), model)["attention_mask"]
    model.config._attn_implementation = "eager"
    batch = PACKED.batch(items)
    inputs = {"input_ids": batch["input_ids"], "position_ids": batch["position_ids"], "attention_mask": wrong_mask}
    per_token = model(**inputs, use_cache=False, predictors=batch["predictors"], targets=batch["targets"])
    wrong = per_token.new_zeros(len(right)).index_add(0, batch["target_answer"], per_token)
    assert wrong.isfinite().all() and relative(wrong, right) > 1e-3


# ---- the head -------------------------------------------------------------------------------------------------------


def test_our_head_is_trls_head():
    """And TRL's own forward still answers, and the model still has its logits."""
    model = model_of("llama", "sdpa")
    ids = torch.arange(10, 20)[None]
    logits = model(input_ids=ids).logits
    add_fused_lm_head(model)
    add_completion_head(model)
    assert torch.equal(model(input_ids=ids).logits, logits)
    batch = PADDED.batch(some_items())
    ours, theirs = (one(model, model, PADDED, batch) for one in (token_log_probs, trl_log_probs))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert ours.shape == batch["targets"].shape


@pytest.mark.parametrize("tile", [7, 16, 100])
def test_target_log_probs_are_the_softmaxs_with_their_gradients(tile):
    random = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 5, generator=random).double().requires_grad_() for n in (6, 50))
    targets = torch.tensor([0, 49, 7, 7, 15, 16])
    slopes = torch.randn(6, generator=random).double()
    found = TargetLogProbs.apply(hidden, weight, targets, tile)
    expected = (hidden @ weight.T).log_softmax(dim=1)[torch.arange(6), targets]
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(
        *(torch.autograd.grad((one * slopes).sum(), (hidden, weight), retain_graph=True) for one in (found, expected)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)
    frozen = TargetLogProbs.apply(hidden, weight.detach(), targets, tile)  # as with LoRA
    torch.testing.assert_close(torch.autograd.grad(frozen.sum(), hidden), torch.autograd.grad(expected.sum(), hidden))
    assert TargetLogProbs.apply(hidden[:0], weight, targets[:0], tile).shape == (0,)


def test_no_logits_of_prompts_or_padding_are_computed(monkeypatch):
    model = model_of("llama", "sdpa")
    add_completion_head(model)
    scored = []
    forward = TargetLogProbs.forward
    monkeypatch.setattr(
        TargetLogProbs, "forward", lambda ctx, hidden, *rest: scored.append(len(hidden)) or forward(ctx, hidden, *rest)
    )
    items = some_items()
    token_log_probs(model, model, PACKED, PACKED.batch(items))
    assert scored == [sum(len(answer) for item in items for answer in item.answers)]


# ---- which path -----------------------------------------------------------------------------------------------------


def test_what_cannot_be_packed_is_padded_and_says_why():
    assert why_padded(model_of("llama", "eager"), lambda: 1) is None
    mistral = model_of("mistral", "eager")
    mistral.config.sliding_window = 40
    assert why_padded(mistral, lambda: 40) is None
    assert why_padded(mistral, lambda: 41) == "a text has 41 tokens and the model's sliding window 40"
    assert why_padded(mistral, lambda: 41, segments=True) is None, "transformers' own masks have windows"
    llama = model_of("llama", "eager")
    llama.config._attn_implementation = "flash_attention_2"
    assert why_padded(llama, lambda: 1).startswith("flash_attention_2 takes no mask of ours")
    assert why_padded(llama, lambda: 1, segments=True) is None
    cpu = torch.device("cpu")
    layout, line = Packing("auto", 50).layout([model_of("llama", "sdpa"), llama], cpu, PAD, lambda: 1)
    assert not layout.packed and "padded, one answer a row: flash_attention_2 takes no mask of ours" in line
    layout, line = Packing("off").layout([model_of("llama", "sdpa")], cpu, PAD, lambda: 1)
    assert not layout.packed and line.endswith("packing=off")
    for wrong in (("sometimes", 10), ("auto", 0), ("auto", True)):
        with pytest.raises(UserError, match="packing"):
            Packing(*wrong)


def test_on_a_cpu_attention_goes_item_by_item_and_generation_as_before(tmp_path):
    models = [model_of("llama", "sdpa") for _ in range(2)]
    ids = torch.arange(10, 20)[None].expand(2, 10)
    mask = torch.tensor([[1] * 10, [0] * 3 + [1] * 7])
    before = models[0](input_ids=ids, attention_mask=mask).logits
    answers = models[0].generate(input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=5, pad_token_id=0)
    layout, _ = Packing().layout(models, torch.device("cpu"), PAD, lambda: 1)
    assert layout.packed and {model.config._attn_implementation for model in models} == {item_attention.NAME}
    assert torch.equal(models[0](input_ids=ids, attention_mask=mask).logits, before)
    after = models[0].generate(input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=5, pad_token_id=0)
    assert torch.equal(after, answers)
    models[0].save_pretrained(tmp_path)
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config._attn_implementation == "sdpa"
    gpu = model_of("llama", "sdpa")
    Packing().layout([gpu], torch.device("cuda"), PAD, lambda: 1)
    assert gpu.config._attn_implementation == "sdpa"


def test_no_attention_is_computed_between_items(monkeypatch):
    seen = []
    attend = item_attention.sdpa_attention_forward

    def counting(module, query, key, value, mask, **more):
        seen.append(query.shape[2] * key.shape[2])
        return attend(module, query, key, value, mask, **more)

    monkeypatch.setattr(item_attention, "sdpa_attention_forward", counting)
    items, model = some_items(), model_of("llama", item_attention.NAME)
    batch = Layout(True, 300, PAD).batch(items)
    assert len(batch["input_ids"]) < len(items)
    model(**PACKED.inputs(batch, model), use_cache=False)
    assert sorted(seen) == sorted([len(item) ** 2 for item in items] * 3)


def test_a_model_that_reads_packed_rows_otherwise_is_found_out(capsys):
    """One that ignores position_ids, say."""
    model, items = model_of("gpt2", "eager"), some_items()
    assert states_layout(model, Packing(), PAD, items, Ranks()).packed
    assert capsys.readouterr().out == "  rows: packed, each prompt read once, at most 4096 tokens a row\n"
    forward = model.transformer.wpe.forward
    model.transformer.wpe.forward = lambda ids: forward(torch.arange(ids.shape[1]).expand_as(ids))
    assert not states_layout(model, Packing(), PAD, items, Ranks()).packed
    line = capsys.readouterr().out
    assert line.startswith("  rows: padded, one answer a row: packed, activations of some rows differ by ")
    assert not states_layout(model, Packing(), PAD, items, None).packed and not capsys.readouterr().out


def test_a_reader_that_found_a_difference_stays_with_padded_rows(monkeypatch):
    """It is asked for a layout with every batch, and compares the first ones alone."""
    model = model_of("llama", "sdpa")
    end = SimpleNamespace(pad_token_id=PAD, eos_token_id=END)
    loaded = SimpleNamespace(model=model.base_model, tokenizer=end, end_ids={END})
    assert StateReader(loaded, range(1, 4), Packing()).layout(some_items()).packed
    mask = packing.packed_mask
    monkeypatch.setattr(packing, "packed_mask", lambda item, branch, *more: mask(item, branch.clamp(max=1), *more))
    reader = StateReader(loaded, range(1, 4), Packing())
    assert not reader.layout(some_items()).packed and not reader.layout(some_items(3)).packed
