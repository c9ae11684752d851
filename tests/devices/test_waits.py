"""Reading, scoring and answering on a device: the same numbers as on the host, which waits for none of them.

Of every architecture that is packed. An answer's token is the exception: the host looks whether it was the last.
"""

from collections.abc import Callable

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from alignment.data.chat import chat_format
from alignment.models import annotator as annotator_module
from alignment.models.activations import response_states, states_layout
from alignment.models.annotator import Annotator, RawMargins
from alignment.models.decoding import generate_ids
from alignment.models.devices import to_device, to_host
from alignment.models.hybrid_reward import HybridReward
from alignment.models.load import Loaded
from alignment.models.lower_states import StoredStates
from alignment.models.packing import Packing
from alignment.models.scoring import add_log_probs, hybrid_scores, packed_log_probs, packed_reward_scores
from alignment.runs.ranks import Ranks
from alignment.sampling.generate import Draw, likeliest
from tests.conftest import byte_tokenizer
from tests.devices.host_and_device import DEVICE, HostAndDevice
from tests.devices.rewards import some_reward
from tests.models.test_annotator import annotator, direction_of, rendered, rows
from tests.models.test_decoding import KEYS, PROMPTS, SETTINGS
from tests.models.test_packing import (  # noqa: F401 (more_architectures: a fixture)
    END,
    NAMES,
    PACKED,
    PAD,
    model_of,
    more_architectures,
    relative,
    some_items,
)

FORMAT = chat_format(byte_tokenizer("chatml"))


def attention_of(name: str) -> str:
    return "eager" if name == "gemma2" else "sdpa"  # transformers has no sdpa for it


@pytest.mark.parametrize("name", sorted(set(NAMES)))
def test_reading_and_scoring_wait_for_nothing(name):
    items, reward = some_items(), some_reward()
    model = model_of(name, attention_of(name))
    rewards = model_of(name, attention_of(name), AutoModelForSequenceClassification)
    add_log_probs(model)
    loaded, backbone = Loaded(model, FORMAT, {END}), model.base_model
    computed: dict[str, Callable[[], torch.Tensor]] = {
        "one layer": lambda: response_states(backbone, PACKED, items, [2], "endpoint", {END})[0],
        "poolings": lambda: response_states(backbone, PACKED, items, [1, 3], ["mean", "last_text"], {END})[0],
        "hybrid reward": lambda: hybrid_scores(loaded, reward, PACKED, items),
        "rewards": lambda: packed_reward_scores(rewards, PACKED, items),
        "log-probabilities": lambda: packed_log_probs(model, PACKED, items),
    }
    here = {what: compute() for what, compute in computed.items()}
    with HostAndDevice() as mode:
        for module in (model, rewards, reward):
            module.to(DEVICE)
        mode.waits.clear()  # for the weights
        for what, compute in computed.items():
            found = compute()
            assert mode.waits == [] and found.device == DEVICE, what
            assert relative(to_host(found)(), here[what]) < 1e-5, what


@pytest.mark.parametrize("name", sorted(set(NAMES)))
def test_an_answer_waits_once_a_token(name):
    """The likeliest token, and one that is drawn; the answers don't end together."""
    loaded = Loaded(model_of(name, attention_of(name)), FORMAT, set(range(0, 600, 5)))
    settings = [None, SETTINGS, *([{**SETTINGS, "top_k": 0}] if name == "llama" else [])]

    def answers(setting: dict | None) -> list[list[int]]:
        choose = likeliest if setting is None else Draw(KEYS, setting, loaded.model.device)
        return generate_ids(loaded, PROMPTS, 8, choose)

    here = [answers(setting) for setting in settings]
    assert len({len(answer) for answer in here[1]}) > 1
    with HostAndDevice() as mode:
        loaded.model.to(DEVICE)
        for setting, expected in zip(settings, here, strict=True):
            mode.waits.clear()
            assert answers(setting) == expected
            assert len(mode.waits) == max(map(len, expected)) and {why.split()[0] for why in mode.waits} == {"tolist"}


def test_annotation_waits_for_nothing(tmp_path, monkeypatch):
    """Once its layers were checked; the margins of a batch are written while the next one is computed."""
    induced, pairs = rows(("positive", "negative")), rows(("chosen", "rejected"))

    def margins(ours: Annotator) -> RawMargins:
        direction = direction_of(ours, "smv", 2, rendered(ours, induced, ("positive", "negative"), ""))
        return ours.margins("train", rendered(ours, pairs, ("chosen", "rejected"), ""), direction, 0)

    here = margins(annotator(tmp_path / "host"))
    with HostAndDevice() as mode:
        there = annotator(tmp_path / "device")
        there.loaded.model.to(DEVICE)
        monkeypatch.setattr(annotator_module, "check_layers", lambda *given: mode.waits.clear())
        found = margins(there)
    assert mode.waits == []
    assert found.raw == pytest.approx(here.raw, rel=1e-5) and found.random == pytest.approx(here.random, rel=1e-4)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_packed_rows_are_put_to_the_test_on_a_device_too(name):
    with HostAndDevice():
        model = model_of(name, "sdpa").to(DEVICE)
        layout = states_layout(model.base_model, Packing(), PAD, some_items(), Ranks())
    assert layout.packed and model.config._attn_implementation == "sdpa"


def test_states_of_the_disk_are_looked_up_by_numbers_that_the_host_waits_for():
    rows = torch.arange(12.0).view(4, 3).to(torch.float16)
    with HostAndDevice() as mode:
        numbers = to_device(torch.tensor([[7, 9]]), DEVICE)
        found = StoredStates(rows, padding=7)(numbers)
        assert len(mode.waits) == 1 and found.device == DEVICE and found.dtype == torch.float32
        assert to_host(found)().tolist() == [[[0, 1, 2], [6, 7, 8]]]


def test_a_reward_of_wide_states_is_fitted_on_a_device(monkeypatch):
    """The host waits for it all the time, as every step of the fit decides what follows; nothing is mixed."""
    random = torch.Generator().manual_seed(0)
    chosen, rejected = (torch.randn(20, 1, 64, generator=random) + shift for shift in (0.2, -0.2))
    here = HybridReward.fit(chosen, rejected, gate="uniform")
    with HostAndDevice() as mode, monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        there = HybridReward.fit(chosen, rejected, gate="uniform")
        assert mode.waits and not mode.on_device(there.weight)
    assert torch.equal(here.weight, there.weight) and here.alpha == there.alpha
