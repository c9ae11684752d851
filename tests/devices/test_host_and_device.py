"""The modes that tell host and device apart, on mixtures and waits that are known."""

import copy

import pytest
import torch
from torch import nn

from tests.devices.host_and_device import DEVICE, HostAndDevice, MixedError
from tests.devices.known_operations import FREE, REFUSED, WAITING
from tests.devices.streams import OrderError


@pytest.fixture
def mode():
    with HostAndDevice() as mode:
        yield mode


def there(*shape: int) -> torch.Tensor:
    return torch.zeros(*shape, device=DEVICE)


def test_a_tensor_says_where_it_was_made(mode):
    made = {
        "device": [
            there(2), torch.zeros_like(there(2)), there(2).new_ones(3), there(2)[1:], there(2) + 1,
            torch.ones(2).to(DEVICE), torch.ones(2).to(there(1)), torch.tensor([1], device="cuda"),
            torch.ones(2).cuda(),
            there(2) * torch.ones(()),
            nn.Linear(2, 2).to(DEVICE).weight, nn.Parameter(there(2)), copy.deepcopy(there(2)), there(2).detach(),
            torch.zeros_like(torch.ones(2), device=DEVICE), torch.cat([there(2), there(2)]), there(2).to(torch.float64),
        ],
        "host": [
            torch.ones(2), there(2).cpu(), there(2).to("cpu"), torch.from_numpy(torch.ones(2).numpy()), torch.arange(3),
            torch.zeros_like(there(2), device="cpu"), nn.Linear(2, 2).weight, torch.ones(2).to("cpu", torch.float64),
        ],
    }  # fmt: skip
    assert all(tensor.device == DEVICE and tensor.is_cuda and not tensor.is_cpu for tensor in made["device"])
    assert all(tensor.device.type == "cpu" and not tensor.is_cuda for tensor in made["host"])
    assert there(2).to(DEVICE).dtype == torch.float32 and torch.ones(2).to(DEVICE, torch.float64).dtype == torch.float64


def test_gradients_are_where_their_parameters_are(mode):
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3)).to(DEVICE)
    ids = torch.tensor([[1, 2], [3, 3]]).to(DEVICE)
    mode.waits.clear()
    loss = model(ids).log_softmax(dim=-1)[:, :, 0].mean()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    torch.optim.AdamW(model.parameters()).step()
    assert all(parameter.grad.device == DEVICE for parameter in model.parameters()) and mode.waits == []
    assert [float(loss)] and len(mode.waits) == 1 and mode.waits[0].startswith("item at")


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_gpu_refuses_is_refused(mode, name):
    with pytest.raises(MixedError):
        REFUSED[name](there(4))


def test_numbers_of_the_host_and_copies_may_mix(mode):
    target = there(3)
    target += torch.ones(())
    target[1] = 5.0
    assert mode.waits == []
    target.copy_(torch.arange(3.0))
    assert target.tolist() == [0, 1, 2] and len(mode.waits) == 2


@pytest.mark.parametrize("name", WAITING | FREE)
def test_what_makes_the_host_wait_is_counted(mode, name):
    tensor = there(4)
    (WAITING | FREE)[name](tensor)
    assert len(mode.waits) == (name in WAITING), mode.waits


def test_every_item_is_counted(mode):
    [int(one) for one in there(4)]
    assert len(mode.waits) == 4
    assert [float(torch.ones(4).sum())] == [4.0] and len(mode.waits) == 4, "the host's own are nobody's business"


# ---- the order of copies --------------------------------------------------------------------------------------------


def copied(mode, waits_for_source: bool = True, kept: bool = True):
    source, stream = there(3) + 1, torch.cuda.Stream()
    target = torch.empty(3, pin_memory=True)
    if waits_for_source:
        stream.wait_stream(torch.cuda.current_stream())
    done = torch.cuda.Event()
    with torch.cuda.stream(stream):
        target.copy_(source, non_blocking=True)
        done.record()
    if kept:
        source.record_stream(stream)
    return source, target, done


def test_a_copy_is_read_after_its_event(mode):
    source, target, done = copied(mode)
    source + 1  # the device may go on
    done.synchronize()
    assert target.tolist() == [1, 1, 1] and mode.waits == []


@pytest.mark.parametrize("wrong", ["read", "overwritten", "not kept", "begun early"])
def test_calls_in_another_order_are_refused(mode, wrong):
    with pytest.raises(OrderError):
        source, target, done = copied(mode, wrong != "begun early", wrong != "not kept")
        if wrong == "read":
            target + 1
        elif wrong == "overwritten":
            source += 1
        done.synchronize()


def test_pinned_memory_under_way_is_not_written():
    with HostAndDevice() as mode:
        numbers = torch.ones(3).pin_memory()
        assert numbers.is_pinned() and numbers.to(DEVICE, non_blocking=True).device == DEVICE and mode.waits == []
        with pytest.raises(OrderError, match="writes what a copy is still reading"):
            numbers += 1
