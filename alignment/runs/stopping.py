"""Being asked to stop: by Slurm before a time limit or a preemption, or by `kill`.

A handler only takes note. Whoever works looks at the next good moment, agrees with the other ranks, saves and raises
Stopped; the same command goes on from there. A second SIGTERM, some seconds later, ends the process at once.
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
AGAIN = 5.0  # seconds; sooner, one request reached us twice: from Slurm, and from the launcher that got it too
_first: float | None = None
_told: Event | None = None


def listen() -> None:
    """From here on a signal is a request. Also where the process was started with the signal ignored."""
    for number in SIGNALS:
        signal.signal(number, _note)


def follow(event: Event) -> None:
    """This process works for the one that started it: signals are that one's to understand, Ctrl-C too, and it sets the
    event. If it dies, so does this process."""
    global _told
    _told = event
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    over()
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def over() -> None:
    """What there was to save is saved: a signal from here on, while the interpreter is taken down, changes nothing."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # Python gives signals with a handler back to the system, which kills


def asked() -> bool:
    """Has this process been asked to stop? Other ranks may not have been yet: decide together, with Ranks.any."""
    return _first is not None or (_told is not None and _told.is_set())


def _note(number: int, frame: FrameType | None) -> None:
    global _first
    if _first is None:
        _first = time.monotonic()
        if os.environ.get("RANK", "0") == "0":
            print("repalign: asked to stop; saving at the end of this step", file=sys.stderr, flush=True)
    elif number == signal.SIGTERM and time.monotonic() - _first > AGAIN:
        os._exit(128 + number)
