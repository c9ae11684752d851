"""packing=segments: texts one behind the other in a row, told apart by positions alone, as flash attention needs it."""

from itertools import pairwise

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AutoModelForCausalLM, AutoModelForSequenceClassification, MistralConfig
from transformers.modeling_flash_attention_utils import _is_packed_sequence, prepare_fa_kwargs_from_position_ids

from alignment.data.chat import Rendered
from alignment.models.completions import add_completion_head, answer_log_probs, answer_rewards
from alignment.models.lower_states import NumberedTexts, token_states
from alignment.models.packing import Item, Layout, Packing
from alignment.models.packing_check import checked_layout, why_different
from alignment.runs.ranks import Ranks
from tests import conftest
from tests.conftest import HEADS, SIZES
from tests.models.test_architectures import model_of as architecture
from tests.models.test_architectures import read_of
from tests.models.test_packing import PAD, PADDED, model_of, relative, some_items

SEGMENTS = Layout(False, 100, PAD, segments=True)
VARLEN = "varlen_on_a_cpu"


def varlen(module, query, key, value, attention_mask, position_ids=None, scaling=None, **more):
    """What transformers does around flash attention's kernel for texts of any length, with sdpa as the kernel."""
    assert attention_mask is None and _is_packed_sequence(position_ids, len(query))
    (starts, _), (longest, _) = prepare_fa_kwargs_from_position_ids(position_ids)
    starts, groups = starts.tolist(), query.shape[1] // key.shape[1]
    assert longest == max(stop - start for start, stop in pairwise(starts))
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    parts = [
        scaled_dot_product_attention(*(t[:, :, start:stop] for t in (query, key, value)), is_causal=True, scale=scaling)
        for start, stop in pairwise(starts)
    ]
    return torch.cat(parts, dim=2).transpose(1, 2), None


AttentionInterface.register(VARLEN, varlen)


def test_a_row_by_hand():
    """Prompt and answer, of each text; the padding at the end is texts of one token."""
    items = [Item([1, 2, 3], [[4, 5], [6]]), Item([], [[12, 13], [14, 15]])]
    layout = Layout(False, 4, PAD, multiple=8, segments=True)
    batch = layout.batch(items)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5, 12, 13, 1, 2, 3, 6, 14, 15, PAD, PAD, PAD]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 0, 1, 0, 1, 2, 3, 0, 1, 0, 0, 0]]
    where = torch.stack([batch[f"answer_{name}"] for name in ("row", "start", "stop", "last")], dim=1)
    assert where.tolist() == [[0, 3, 5, 4], [0, 5, 7, 6], [0, 10, 11, 10], [0, 11, 13, 12]]
    assert batch["predictors"].tolist() == [2, 3, 5, 9, 11] and batch["targets"].tolist() == [4, 5, 13, 6, 15]
    assert layout.inputs(batch, None)["attention_mask"] is None
    assert [layout.size(item) for item in items] == [9, 4] and sum(map(len, batch["targets"][None])) == 5


@pytest.mark.parametrize("name", ["Llama 2, 3", "Qwen 3", "GPT-2", "Gemma 3, text", "Cohere 2", "Qwen 3, experts"])
@pytest.mark.parametrize("attention", ["sdpa", VARLEN])
def test_they_are_padded_rows_forward_and_backward(name, attention):
    model = architecture(name)
    add_completion_head(model)
    model.set_attn_implementation(attention)
    layout, line = Packing("segments").layout([model], model.device, PAD, lambda: 1000)
    assert layout == Layout(False, 4096, PAD, 1, layout.balance, layout.window, segments=True)
    assert line == "  rows: segments, a micro-batch's texts one behind the other, without padding"
    items = [*some_items(5), Item([], [[20, 21, 22], [23, 24]])]
    if attention == VARLEN:
        together = read_of(model)(layout, items)
        model.set_attn_implementation("sdpa")
        for value, expected in zip(together.values(), read_of(model)(PADDED, items).values(), strict=True):
            assert relative(value, expected) < 1e-5
    else:
        assert why_different(read_of(model), model, layout, items, torch.float32, gradient=True) is None


def test_windows_are_their_own(monkeypatch):
    """Packed rows can't have texts beyond a window: our mask has none. transformers' masks and kernels do."""
    config = MistralConfig(**SIZES, **HEADS, sliding_window=9)
    monkeypatch.setitem(conftest.CONFIGS, "mistral", lambda: config)
    model, items = model_of("mistral", "sdpa"), some_items()
    add_completion_head(model)
    assert max(item.longest for item in items) > 9
    packed, line = Packing().layout([model], model.device, PAD, lambda: 48)
    assert not packed.packed and line.endswith("a text has 48 tokens and the model's sliding window 9")
    layout, _ = Packing("segments").layout([model], model.device, PAD, lambda: 48)
    assert why_different(read_of(model), model, layout, items, torch.float32, gradient=True) is None


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_rewards_are_those_of_padded_rows(name):
    items = some_items(6)
    items[2].answers[1].extend([PAD, PAD])
    model = model_of(name, "sdpa", AutoModelForSequenceClassification)
    with torch.no_grad():
        found = [answer_rewards(model, model, layout, layout.batch(items)) for layout in (SEGMENTS, PADDED)]
    assert relative(*found) < 1e-5


def test_states_of_all_tokens_are_those_of_padded_rows():
    texts = [([5, 6, 7], [8]), ([5, 6, 7], [9, 10]), ([11], [12, 13])]
    rendered = [Rendered(torch.tensor([*prompt, *answer]).numpy(), len(prompt), False) for prompt, answer in texts]
    items, model = NumberedTexts.of(rendered, PAD).items, model_of("llama", "sdpa").base_model
    found = [token_states(model, layout, items) for layout in (SEGMENTS, PADDED)]
    assert len(found[0]) == 9 and relative(*found) < 1e-5


def test_models_that_carry_states_on_are_padded(capsys):
    model, items = architecture("BLOOM"), some_items()
    layout = checked_layout("log-probabilities", None, model, Packing("segments"), PAD, items, Ranks())
    assert not layout.together and "BLOOM" not in (said := capsys.readouterr().out)
    assert said == "  rows: padded, one answer a row: bloom takes no positions: it counts the tokens of a row\n"


def test_segments_that_are_not_told_apart_are_found_out(capsys):
    """By an attention that sees the whole row, say."""
    model, items = model_of("llama", "sdpa", AutoModelForCausalLM), some_items()
    add_completion_head(model)

    def read(layout, some):
        return answer_log_probs(model, model, layout, layout.batch(some))

    assert checked_layout("log-probabilities", read, model, Packing("segments"), PAD, items, Ranks()).segments
    rows = Layout.inputs

    def without_positions(layout, batch, inner):
        return {name: value for name, value in rows(layout, batch, inner).items() if name != "position_ids"}

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Layout, "inputs", without_positions)
        assert not checked_layout("log-probabilities", read, model, Packing("segments"), PAD, items, Ranks()).segments
    assert "in segments, log-probabilities of some rows differ by " in capsys.readouterr().out
