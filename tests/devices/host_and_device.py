"""Host and device told apart on a machine that has no device: which tensor lives where, and when the host waits.

All tensors are a CPU's. A storage is marked by where it was made: by `device=`, `.to`, `.cpu`, and otherwise by what it
was computed from. A marked tensor says that its device is DEVICE, so that code takes the way it takes on a GPU. What a
GPU refuses is refused: an operation on tensors of both kinds, a device's tensor as an array of numpy. What makes the
host wait for a GPU is counted, with the line that did it.

Two modes do this. Calls from Python pass HostAndDevice (torch functions), which takes `device=` away and sets marks;
what they are made of, and what a backward pass computes, passes _Operations (dispatch), which checks and counts.
"""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode, _pop_mode, _push_mode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.devices.gpu_rules import MixedError, kept_quiet, refuse_mixture, waits_for
from tests.devices.streams import Streams

DEVICE, CPU = torch.device("cuda", 0), torch.device("cpu")
HOST, ON_DEVICE, UNKNOWN = "host", "device", "unknown"  # unknown: made inside an operation, of nothing that is marked

OWN = tuple(str(Path(__file__).with_name(name)) for name in ("host_and_device.py", "streams.py"))
_GET = {
    torch.Tensor.device.__get__: lambda there: DEVICE if there else CPU,
    torch.Tensor.is_cuda.__get__: lambda there: there,
    torch.Tensor.is_cpu.__get__: lambda there: not there,
    torch.Tensor.get_device: lambda there: 0 if there else -1,
}
_FROM_PYTHON = (torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor)  # their numbers are the host's
_group = torch._C._group_tensors_by_device_and_dtype
_TO_ARRAY = (torch.Tensor.numpy, torch.Tensor.__array__)


class HostAndDevice(TorchFunctionMode):
    """The mode, and what it has counted: `waits`, a line for each time the host waited for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.streams = Streams(self)
        self._marks: dict[int, tuple[StorageWeakRef, str]] = {}  # the reference keeps the address from being used again
        self._operations = _Operations(self)
        self._grouping = mock.patch.object(torch._C, "_group_tensors_by_device_and_dtype", self._grouped)
        self._quiet = 0

    def __enter__(self) -> "HostAndDevice":
        self._operations.__enter__()
        self.streams.install()
        self._grouping.start()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._grouping.stop()
        self.streams.remove()
        self._operations.__exit__(*error)

    # ---- marks -------------------------------------------------------------------------------------------------------

    def where(self, tensor: Tensor) -> str:
        """Storages that nothing is known of came from elsewhere: from numpy, from a file, from before the mode."""
        return self._marks.get(key_of(tensor), (None, HOST))[1]

    def on_device(self, tensor: Tensor) -> bool:
        return self.where(tensor) == ON_DEVICE

    def known(self, tensor: Tensor) -> bool:
        return self._marks.get(key_of(tensor), (None, UNKNOWN))[1] != UNKNOWN

    def mark(self, tensor: Tensor, where: str) -> None:
        if not tensor.is_meta:
            self._marks[key_of(tensor)] = (StorageWeakRef(tensor.untyped_storage()), where)

    def mark_new(self, results: Any, where: str) -> None:
        for tensor in tensors_of((results,)):
            if not self.known(tensor):
                self.mark(tensor, where)

    def wait(self, why: str) -> None:
        if not self._quiet:
            self.waits.append(f"{why} at {_line()}")
            self.streams.waited()

    # ---- calls from Python -------------------------------------------------------------------------------------------

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if (told := _GET.get(func)) is not None:
            return func(*args, **kwargs) if args[0].is_meta else told(self.on_device(args[0]))
        given = [*tensors_of(args), *tensors_of(kwargs.values())]
        there = any(map(self.on_device, given))
        if func in (torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.cuda):
            return self._moved(func, *args, **kwargs)
        if func is torch.Tensor.backward:  # a Function's own backward is Python, too
            return self._backward(*args, **kwargs)
        if there and func in _TO_ARRAY:
            raise MixedError("a device's tensor is no array of numpy: copy it to the host first")
        if there and func is torch.Tensor.tolist:
            self.wait("tolist")
        if func in (torch.Tensor.pin_memory, torch.Tensor.is_pinned):
            return self.streams.of_tensor(func, args[0])
        pinned = kwargs.get("pin_memory", False)
        if pinned:
            kwargs = {**kwargs, "pin_memory": False}
        wanted = kwargs.get("device")
        if wanted is not None and torch.device(wanted).type != "meta":
            kwargs = {**kwargs, "device": CPU}
            wanted = ON_DEVICE if torch.device(wanted).type == DEVICE.type else HOST
        else:
            wanted = None
        if func is torch.Tensor.new_tensor and wanted is None and there:
            wanted = ON_DEVICE
        with self._silence(kept_quiet(func)):
            result = func(*args, **kwargs)
        if wanted is not None and isinstance(result, Tensor):
            result = self._made(result, wanted, of_the_host=func in _FROM_PYTHON and not there)
        self.mark_new(result, ON_DEVICE if there else HOST)
        if pinned:
            self.streams.pin(result)
        return result

    def _backward(
        self,
        loss: Tensor,
        gradient: Any = None,
        retain_graph: Any = None,
        create_graph: bool = False,
        inputs: Any = None,
    ) -> None:
        with self._again():
            torch.autograd.backward(loss, gradient, retain_graph, create_graph, inputs=inputs)

    def _grouped(self, lists: list[list[Tensor | None]], with_indices: bool = False) -> dict:
        """What optimisers and clipping do with many tensors together asks C++ where these are."""
        found = _group(lists, with_indices)
        there = any(self.on_device(one) for one in lists[0] if one is not None)
        return {(DEVICE if there else device, dtype): group for (device, dtype), group in found.items()}

    def _made(self, result: Tensor, wanted: str, of_the_host: bool) -> Tensor:
        if of_the_host and wanted == ON_DEVICE and result.numel():
            self.wait("a copy from the host, which is not pinned,")
            result = result.clone()  # as_tensor may have shared it
        elif self.known(result) and self.where(result) != wanted:
            result = result.clone()
        self.mark(result, wanted)
        return result

    def _moved(self, func: Any, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """`.to` and its like: the conversion by torch, the move by marks."""
        if func is torch.Tensor.to:
            device, kwargs = self._target(args, kwargs)
        else:
            device, kwargs = (CPU if func is torch.Tensor.cpu else DEVICE), {**kwargs}
        non_blocking = kwargs.pop("non_blocking", False)
        converted = tensor.to(**kwargs) if kwargs else tensor
        there = self.on_device(tensor)
        if tensor.is_meta or device is None or (device.type == DEVICE.type) == there:
            self.mark_new(converted, ON_DEVICE if there else HOST)
            return converted if device is None or device.type != "meta" else converted.to(device)
        if converted.untyped_storage()._cdata == tensor.untyped_storage()._cdata:
            converted = converted.clone()
        if there and non_blocking:
            raise MixedError(".to('cpu', non_blocking=True) gives numbers before they are there: use to_host")
        if there:
            self.wait("a copy to the host")
        elif not (non_blocking and self.streams.pinned(tensor)):
            self.wait("a copy from the host, which is not pinned,")
        else:
            self.streams.being_read(tensor)
        self.mark(converted, HOST if there else ON_DEVICE)
        return converted

    def _target(self, args: tuple, kwargs: dict) -> tuple[torch.device | None, dict]:
        """The device that `.to` was given, and its arguments without it."""
        kwargs, device = {**kwargs}, kwargs.get("device")
        kwargs.pop("device", None)
        first, *rest = args or (None,)
        if isinstance(first, Tensor):
            device, kwargs["dtype"] = DEVICE if self.on_device(first) else CPU, first.dtype
        elif isinstance(first, torch.dtype):
            kwargs["dtype"] = first
        elif args:
            device = first
            if rest and (rest[0] is None or isinstance(rest[0], torch.dtype)):
                kwargs["dtype"], *rest = rest
        kwargs |= dict(zip(("non_blocking", "copy"), rest, strict=False))
        given = {name: value for name, value in kwargs.items() if value is not None}
        return None if device is None else torch.device(device), given

    @contextmanager
    def _again(self) -> Iterator[None]:
        _push_mode(self)
        try:
            yield
        finally:
            _pop_mode()

    @contextmanager
    def _silence(self, quiet: bool) -> Iterator[None]:
        self._quiet += quiet
        try:
            yield
        finally:
            self._quiet -= quiet


class _Operations(TorchDispatchMode):
    """Every operation of torch, whoever asks for it: refuses mixtures, counts waits, marks results."""

    def __init__(self, mode: HostAndDevice) -> None:
        super().__init__()
        self._mode = mode

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs, mode = kwargs or {}, self._mode
        if torch.is_inference_mode_enabled():  # there operations come whole that are made of others
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        with torch._C.DisableTorchFunction():
            given = [*tensors_of(args), *tensors_of(kwargs.values())]
            there = any(map(mode.on_device, given))
            if there:
                refuse_mixture(
                    func, args, kwargs, mode.on_device, lambda one: mode.known(one) and not mode.on_device(one)
                )
                for why in waits_for(func, args, kwargs, mode.on_device):
                    mode.wait(why)
            mode.streams.before(func, args, kwargs, given)
            result = func(*args, **kwargs)
            known = [one for one in given if mode.known(one)]
            host = len(known) == len(given) > 0 or any(one.dim() for one in known)
            mode.mark_new(result, ON_DEVICE if there else HOST if host else UNKNOWN)
            mode.streams.after(result)
        return result


def key_of(tensor: Tensor) -> int:
    with torch._C.DisableTorchFunction():
        return 0 if tensor.is_meta else tensor.untyped_storage()._cdata


def tensors_of(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among these, and among the items of lists and tuples."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors_of(value)


def _line() -> str:
    """The place in this project or a library's Python that asked, from the inside out."""
    frame, inside = sys._getframe(2), None
    while frame is not None:
        file = frame.f_code.co_filename
        if "/torch/" not in file and not file.startswith(OWN):
            place = f"{file.rpartition('/site-packages/')[2]}:{frame.f_lineno}"
            inside = inside or place
            if "/alignment/" in file:
                own = f"alignment/{file.rpartition('/alignment/')[2]}:{frame.f_lineno}"
                return own if inside.endswith(own) else f"{inside}, from {own}"
        frame = frame.f_back
    return inside or "?"
