"""What is said to a device beside what it computes is said in one module, which has a twin here."""

import re
from pathlib import Path

import pytest
import torch

import alignment
from alignment.models.devices import to_device, to_host, without_a_trace
from tests.devices.host_and_device import DEVICE, HostAndDevice
from tests.devices.streams import OrderError

SAID = (
    r"non_blocking|pin_memory\(|record_stream|wait_stream|fork_rng|set_rng_state"
    r"|cuda\.(Stream|stream|Event|synchronize)"
)
# The world lies below it, and draws on the host alone.
OTHERS = {"models/devices.py", "world/language_model.py"}


def test_no_other_module_speaks_to_a_device():
    package = Path(alignment.__file__).parent
    files = {str(path.relative_to(package)): path.read_text() for path in package.rglob("*.py")}
    assert {name for name, text in files.items() if re.search(SAID, text)} == OTHERS


def test_what_is_copied_to_the_host_is_there_once_it_was_waited_for():
    """The device goes on, and the tensor is gone: neither changes what comes."""
    with HostAndDevice() as mode:
        tensor = to_device(torch.arange(4.0), DEVICE) * 2
        waited = to_host(tensor)
        del tensor
        _ = torch.ones(4, device=DEVICE) + 1
        assert mode.waits == [] and waited().tolist() == [0, 2, 4, 6] and mode.waits == []


@pytest.mark.parametrize("left_out", ["wait_stream", "record_stream", "synchronize"])
def test_a_copy_without_one_of_its_calls_is_found_out(left_out, monkeypatch):
    """Without waiting for what computes it, keeping it for the stream, or waiting for the event."""
    with HostAndDevice() as mode, pytest.raises(OrderError):
        stream, event = type(torch.cuda.Stream()), type(torch.cuda.Event())
        owner = {"wait_stream": stream, "record_stream": torch.Tensor, "synchronize": event}[left_out]
        monkeypatch.setattr(owner, left_out, lambda *given: None)
        to_host(torch.zeros(4, device=DEVICE) + 1)() + 1
        assert mode.waits == []


def test_numbers_drawn_aside_change_none_after_them():
    with HostAndDevice():
        torch.manual_seed(0)
        expected = torch.rand(3).tolist()
        torch.manual_seed(0)
        for device in (torch.device("cpu"), DEVICE):
            with without_a_trace(device):
                torch.rand(5)
        assert torch.rand(3).tolist() == expected
