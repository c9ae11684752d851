"""torch.cuda's streams, events and pinned memory without a GPU: they copy at once, and check that nobody relies on it.

A copy that doesn't block the host is under way until an event that was recorded behind it on its stream is waited for.
Until then what it writes may not be read, nor may what it reads be written; it has to come after what computes its
source, and the source has to be kept for its stream (`record_stream`).
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor


class OrderError(RuntimeError):
    """On a GPU these calls would read or write numbers too early, or too late."""


class Stream:
    """What it has waited for: everything that was computed before `seen`."""

    def __init__(self, now: Callable[[], int]) -> None:
        self._now, self.seen = now, 0

    def wait_stream(self, other: "Stream") -> None:
        self.seen = self._now()


class Copy:
    """From one storage to another, under way on a stream. target: None where torch makes it."""

    def __init__(self, source: int, target: int | None, stream: Stream) -> None:
        self.source, self.target, self.stream = source, target, stream


class Streams:
    """All streams of a device, the current one first; a part of HostAndDevice, whose marks it reads."""

    def __init__(self, mode: Any) -> None:
        self._mode = mode
        self._clock = 0
        self._written: dict[int, int] = {}  # storages of the device -> when they were last computed
        self._pinned: set[int] = set()
        self._kept: set[tuple[int, int]] = set()  # storage, stream
        self._under_way: list[Copy] = []
        self._main = self._stream()
        self._current = [self._main]
        self._patches: list[Any] = []
        self._warns = False

    def install(self) -> None:
        """In the place of torch's own, which take no stream but their own."""
        twins = {
            "Stream": self._stream,
            "Event": self._event,
            "stream": self._within,
            "current_stream": lambda device=None: self._current[-1],
            "set_sync_debug_mode": self._speak,
            "set_device": lambda device: None,
            "get_device_name": str,
            "get_rng_state": lambda device: torch.get_rng_state(),  # what the device draws, the host's generator does
            "set_rng_state": lambda state, device: torch.set_rng_state(state),
        }
        there = {"is_available": lambda: True, "current_accelerator": lambda *check, **checks: None}  # to pin memory
        keep = {"record_stream": lambda tensor, stream: self._kept.add((_key(tensor), id(stream)))}
        for owner, names in ((torch.cuda, twins), (torch.accelerator, there), (torch.Tensor, keep)):
            self._patches += [mock.patch.object(owner, name, twin) for name, twin in names.items()]
        for patch in self._patches:
            patch.start()

    def remove(self) -> None:
        while self._patches:
            self._patches.pop().stop()

    # ---- pinned memory -----------------------------------------------------------------------------------------------

    def pin(self, tensor: Tensor) -> None:
        self._pinned.add(_key(tensor))

    def pinned(self, tensor: Tensor) -> bool:
        return _key(tensor) in self._pinned

    def of_tensor(self, func: Any, tensor: Tensor) -> Any:
        """The methods of tensors that are about pinned memory."""
        if func is torch.Tensor.is_pinned:
            return self.pinned(tensor)
        if self._mode.on_device(tensor):
            raise OrderError("only the host's memory can be pinned")
        copy = tensor.clone()
        self._mode.mark(copy, "host")
        self.pin(copy)
        return copy

    def being_read(self, source: Tensor) -> None:
        """By a copy to the device, which the host doesn't wait for."""
        self._under_way.append(Copy(_key(source), None, self._current[-1]))

    # ---- operations --------------------------------------------------------------------------------------------------

    def before(self, func: Any, args: tuple, kwargs: dict, given: list[Tensor]) -> None:
        """OrderError if an operation reads or writes what a copy has under way."""
        self._clock += 1
        if not self._under_way and func.overloadpacket.__name__ != "copy_":
            return
        targets, sources = ({getattr(copy, end) for copy in self._under_way} for end in ("target", "source"))
        if any(_key(one) in targets for one in given):
            raise OrderError(f"{func.overloadpacket.__name__} reads what a copy is still writing: wait for its event")
        named = zip(func._schema.arguments, args, strict=False)
        written = [one for argument, one in named if argument.alias_info is not None and argument.alias_info.is_write]
        if any(isinstance(one, Tensor) and _key(one) in sources for one in written):
            raise OrderError(f"{func.overloadpacket.__name__} writes what a copy is still reading")
        if func.overloadpacket.__name__ == "copy_":
            self._copies(args[0], args[1], kwargs.get("non_blocking", args[2] if len(args) > 2 else False))

    def _copies(self, target: Tensor, source: Tensor, non_blocking: bool) -> None:
        there, here = self._mode.on_device(source), self._mode.on_device(target)
        if there == here or not (self._mode.known(source) and self._mode.known(target)):
            return
        host, stream = target if there else source, self._current[-1]
        if not (non_blocking and self.pinned(host)):
            self._mode.wait("a copy to the host" if there else "a copy from the host, which is not pinned,")
            return
        if there and stream is not self._main and stream.seen < self._written.get(_key(source), 0):
            raise OrderError("the copy's stream doesn't wait for what computes its source")
        self._under_way.append(Copy(_key(source), _key(target) if there else None, stream))

    def after(self, results: Any) -> None:
        for one in results if isinstance(results, list | tuple) else [results]:
            if isinstance(one, Tensor) and self._mode.on_device(one):
                self._written[_key(one)] = self._clock

    def _speak(self, mode: str) -> None:
        self._warns = mode == "warn"

    def waited(self) -> None:
        """For the current stream, by the host: its copies are done."""
        if self._warns:
            warnings.warn("called a synchronizing operation", stacklevel=2)
        self._under_way = [copy for copy in self._under_way if copy.stream is not self._current[-1]]

    # ---- torch.cuda's names ------------------------------------------------------------------------------------------

    def _stream(self, device: Any = None) -> Stream:
        return Stream(lambda: self._clock)

    @contextmanager
    def _within(self, stream: Stream) -> Iterator[None]:
        self._current.append(stream)
        try:
            yield
        finally:
            self._current.pop()

    def _event(self, *args: Any, **kwargs: Any) -> "Event":
        return Event(self)

    def finish(self, copies: list[Copy]) -> None:
        for copy in copies:
            if copy.stream is not self._main and (copy.source, id(copy.stream)) not in self._kept:
                raise OrderError("what a copy reads is not kept for its stream: record_stream")
        self._under_way = [copy for copy in self._under_way if copy not in copies]

    def issued(self) -> list[Copy]:
        return [copy for copy in self._under_way if copy.stream is self._current[-1]]


class Event:
    """Marks the copies that were issued before it on its stream."""

    def __init__(self, streams: Streams) -> None:
        self._streams, self._copies = streams, None

    def record(self, stream: Stream | None = None) -> None:
        self._copies = self._streams.issued()

    def synchronize(self) -> None:
        if self._copies is None:
            raise OrderError("an event is waited for that was never recorded")
        self._streams.finish(self._copies)


def _key(tensor: Tensor) -> int:
    with torch._C.DisableTorchFunction():
        return 0 if tensor.is_meta else tensor.untyped_storage()._cdata
