"""What hooks read is what transformers calls hidden states, for any batch, and no layer runs in vain."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from alignment.maths.pooling import Spans
from alignment.models import activations
from alignment.models.activations import check_layers, reading, response_states
from alignment.models.architecture import decoder_blocks, layer_count
from alignment.models.packing import Item, Layout
from alignment.types import UserError
from tests.conftest import CONFIGS, tiny_model

END = 7
PADDED = Layout(packed=False, max_tokens=100, pad_id=0)


def texts(count: int = 6, seed: int = 0) -> list[Item]:
    """Texts of 5 to 20 tokens; every third one has no end token."""
    random = np.random.default_rng(seed)
    made = []
    for i in range(count):
        ids = random.integers(10, 500, random.integers(5, 20)).tolist()
        if i % 3:
            ids[-1] = END
        start = int(random.integers(1, len(ids) - 1))
        made.append(Item(ids[:start], [ids[start:]]))
    return made


@pytest.mark.parametrize("name", CONFIGS)
def test_hooks_read_the_hidden_states(name):
    """Bit for bit, at every layer; also inside a model with a language-model head, which is the same backbone."""
    for kind in (None, AutoModelForCausalLM):
        model = tiny_model(name) if kind is None else tiny_model(name, kind)
        ids = torch.randint(10, 500, (1, 9), generator=torch.Generator().manual_seed(0))
        at = ids.shape[1] - 1
        spans = Spans(torch.tensor([0]), torch.tensor([at]), torch.tensor([at + 1]), torch.tensor([True]), True)
        with torch.no_grad(), reading(model, range(1, layer_count(model) + 1), spans) as reader:
            output = model(input_ids=ids, output_hidden_states=True)
        assert len(output.hidden_states) == layer_count(model) + 1
        for layer, hidden in enumerate(output.hidden_states[1:]):
            assert torch.equal(reader.states[0, layer], hidden[0, at])


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("pooling", ["endpoint", "last_text", "mean"])
def test_a_batch_reads_what_one_by_one_reads(name, pooling):
    """Invariant 7 of Legend; padding may move float32 by rounding, no more."""
    model, layers = tiny_model(name), [1, 2, 3]
    together, ended = response_states(model, PADDED, texts(), layers, pooling, {END})
    alone = torch.cat([response_states(model, PADDED, [text], layers, pooling, {END})[0] for text in texts()])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    assert ended.tolist() == [i % 3 != 0 for i in range(6)]


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("places", [["endpoint", "mean"], ["mean", "endpoint"]])
def test_several_places_are_read_in_one_pass(name, places):
    """The highest layer, too, whose network is computed at single tokens where nothing else is read."""
    model, layers = tiny_model(name), [1, 3]
    both, ended = response_states(model, PADDED, texts(), layers, places, {END})
    each = [response_states(model, PADDED, texts(), layers, place, {END}) for place in places]
    torch.testing.assert_close(both, torch.cat([states for states, _ in each], dim=1), rtol=1e-5, atol=1e-5)
    assert torch.equal(ended, each[0][1])


def test_nothing_above_the_highest_layer_runs():
    model = tiny_model("llama", AutoModelForCausalLM)
    ran: list[str] = []
    blocks, norm = decoder_blocks(model)
    watched = {"block 1": blocks[0], "block 2": blocks[1], "block 3": blocks[2], "norm": norm, "head": model.lm_head}
    for name, module in watched.items():
        module.register_forward_pre_hook(lambda module, args, name=name: ran.append(name))
    everything = response_states(model, PADDED, texts(), [1, 2, 3], "endpoint", {END})[0]
    assert ran == ["block 1", "block 2", "block 3", "norm"]
    ran.clear()
    second = response_states(model, PADDED, texts(), [2], "endpoint", {END})[0]
    assert ran == ["block 1", "block 2"]
    assert torch.equal(second[:, 0], everything[:, 1])


def test_hooks_are_gone_afterwards_even_after_an_error():
    model = tiny_model("llama")
    spans = Spans(*(torch.tensor([at]) for at in (0, 0, 1)), torch.tensor([True]), True)
    with pytest.raises(RuntimeError, match="in the block"), reading(model, [1], spans):
        raise RuntimeError("in the block")
    assert not any(module._forward_hooks for module in model.modules())


def test_an_architecture_whose_layers_are_elsewhere_is_refused(monkeypatch):
    model = tiny_model("llama")
    check_layers(model, token_id=1)
    blocks, norm = decoder_blocks(model)
    monkeypatch.setattr(activations, "decoder_blocks", lambda model: (blocks[::-1], norm))
    with pytest.raises(UserError, match="layers where they can't be read"):
        check_layers(model, token_id=1)
    monkeypatch.undo()
    monkeypatch.setattr(model.config, "num_hidden_layers", 5)
    with pytest.raises(UserError, match="5 decoder blocks"):
        decoder_blocks(model)
