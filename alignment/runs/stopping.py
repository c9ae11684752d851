"""Requests to stop: from Slurm before a time limit or a preemption, or from `kill`.

A signal's handler only notes the request. The work that is under way looks for it where it can stop, agrees with the
other ranks, saves and raises Stopped; the same command goes on from there. A second SIGTERM, some seconds later, ends
the process at once.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from multiprocessing.synchronize import Event
from types import FrameType

SIGNALS = (signal.SIGUSR1, signal.SIGTERM)
AGAIN = 5.0  # seconds; a signal that comes sooner is the same request, passed on by the launcher
_first: float | None = None
_parents_event: Event | None = None


def listen() -> None:
    """From here on a signal is a request, even if the process was started with the signal ignored."""
    for number in SIGNALS:
        signal.signal(number, _note)


def follow(event: Event) -> None:
    """Makes this process stop when the one that started it sets the event, and die when that one dies. Signals, Ctrl-C
    among them, are that one's to handle."""
    global _parents_event
    _parents_event = event
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    over()
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def over() -> None:
    """Ignores signals from here on: everything is saved, and the interpreter is being taken down."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # Python gives signals with a handler back to the system, which kills


def asked() -> bool:
    """Has this process been asked to stop? Other ranks may not have been yet: decide together, with Ranks.any."""
    return _first is not None or (_parents_event is not None and _parents_event.is_set())


def _note(number: int, frame: FrameType | None) -> None:
    global _first
    if _first is None:
        _first = time.monotonic()
        if os.environ.get("RANK", "0") == "0":
            print("repalign: asked to stop; saving at the end of this step", file=sys.stderr, flush=True)
    elif number == signal.SIGTERM and time.monotonic() - _first > AGAIN:
        os._exit(128 + number)
