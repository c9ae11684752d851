"""What workers do in the tests of side_by_side: apart from these, so that a worker imports no more than it needs."""

import os
import signal
import time
from pathlib import Path

import torch

from alignment.runs import stopping
from alignment.types import Stopped, UserError


def note(folder: Path, number: int, progress) -> None:
    (folder / str(number)).write_text(f"{os.getpid()} {torch.get_num_threads()}")
    time.sleep(0.3)


def refuse(folder: Path, number: int, progress) -> None:
    note(folder, number, progress)
    if number == 1:
        raise UserError("the thing", "is wrong", "mend it")


def crash(folder: Path, number: int, progress) -> None:
    raise ZeroDivisionError("by hand")


def be_killed(folder: Path, number: int, progress) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def until_asked(folder: Path, number: int, progress) -> None:
    """As a training: asked to stop it saves, and says so."""
    (folder / str(number)).touch()
    while not stopping.asked():
        time.sleep(0.05)
    raise Stopped(f"training {number}, at step 3 of 9")


def never_ends(folder: Path, number: int, progress) -> None:
    (folder / f"{number}.new").write_text(str(os.getpid()))
    (folder / f"{number}.new").rename(folder / str(number))
    time.sleep(600)
