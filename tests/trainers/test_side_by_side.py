"""Workers: every task once, errors and stops passed on, and no process that outlives the one that started it."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch

from alignment.runs import stopping
from alignment.runs.ranks import Ranks
from alignment.trainers.side_by_side import Workers, side_by_side
from alignment.types import StageFailed, Stopped, UserError
from tests.conftest import REPOSITORY
from tests.trainers.work_beside import be_killed, crash, note, refuse, until_asked


def _wait_for(folder: Path, count: int) -> None:
    until = time.monotonic() + 120
    while len([path for path in folder.iterdir() if not path.suffix]) < count:
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.mark.slow
def test_each_task_is_done_once_in_processes_of_few_threads(tmp_path):
    side_by_side(partial(note, tmp_path), 5, Workers(2, 1), "tasks", "train_rm")
    notes = {path.name: path.read_text().split() for path in tmp_path.iterdir()}
    assert notes.keys() == {"0", "1", "2", "3", "4"}
    assert {threads for _, threads in notes.values()} == {"1"}
    workers = {process for process, _ in notes.values()}
    assert 1 <= len(workers) <= 2 and str(os.getpid()) not in workers  # the first may be done before the second begins


@pytest.mark.slow
def test_a_mistake_is_told_as_it_was_and_no_further_task_is_begun(tmp_path):
    with pytest.raises(UserError, match="the thing: is wrong; mend it"):
        side_by_side(partial(refuse, tmp_path), 40, Workers(2, 1), "tasks", "train_rm")
    assert len(list(tmp_path.iterdir())) < 10


@pytest.mark.slow
def test_a_crash_keeps_its_traceback_and_a_kill_is_named(tmp_path):
    with pytest.raises(RuntimeError, match="ZeroDivisionError: by hand"):
        side_by_side(partial(crash, tmp_path), 1, Workers(1, 1), "tasks", "train_rm")
    with pytest.raises(StageFailed, match="train_rm: one of its processes was killed"):
        side_by_side(partial(be_killed, tmp_path), 1, Workers(1, 1), "tasks", "train_rm")


@pytest.mark.slow
def test_a_request_to_stop_reaches_every_worker(tmp_path, monkeypatch):
    monkeypatch.setattr(stopping, "asked", lambda: len(list(tmp_path.iterdir())) == 2)
    with pytest.raises(Stopped, match=r"training \d, at step 3 of 9"):
        side_by_side(partial(until_asked, tmp_path), 9, Workers(2, 1), "tasks", "train_rm")
    assert len(list(tmp_path.iterdir())) == 2, "none was begun after it"


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_die_with_the_process_that_started_them(tmp_path, how):
    code = (
        "import sys, signal, os; from pathlib import Path; from functools import partial; "
        "from tests.trainers.work_beside import never_ends; "
        "from alignment.trainers.side_by_side import Workers, side_by_side; "
        "signal.signal(signal.SIGINT, lambda *_: os._exit(130)); "
        "side_by_side(partial(never_ends, Path(sys.argv[1])), 2, Workers(2, 1), 'tasks', 'train_rm')"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=REPOSITORY, start_new_session=True)
    _wait_for(tmp_path, 2)
    workers = [psutil.Process(int(path.read_text())) for path in tmp_path.iterdir()]
    if how == signal.SIGINT:
        os.killpg(parent.pid, how)  # as a terminal does: to all of them
    else:
        parent.send_signal(how)
    parent.wait(timeout=30)
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive


def test_threads_are_given_back():
    before = torch.get_num_threads()
    with Workers(1, before + 2).here():
        assert torch.get_num_threads() == before + 2
    with Workers(1, None).here():
        assert torch.get_num_threads() == before
    assert torch.get_num_threads() == before


def test_how_many_workers_there_are(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr("alignment.trainers.side_by_side.cores", lambda: 8)
    monkeypatch.setattr("alignment.trainers.side_by_side.accelerator", lambda: None)
    assert Workers.of(None, True, 10, Ranks()) == Workers(8, 1)
    assert Workers.of(None, True, 1, Ranks()) == Workers(1, 1)
    assert Workers.of(None, True, 0, Ranks()) == Workers(1, 1)
    assert Workers.of(3, True, 10, Ranks()) == Workers(3, 1)
    assert Workers.of(None, False, 10, Ranks()) == Workers(1, None)
    assert Workers.of(3, False, 10, Ranks()) == Workers(3, 2)
    assert Workers.of(None, True, 10, Ranks(count=2)) == Workers(1, None)
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert Workers.of(None, True, 10, Ranks()) == Workers(1, None), "a launcher has said who computes where"
    with pytest.raises(UserError, match=r"run\.workers: 2, where a launcher or a GPU is; leave it out"):
        Workers.of(2, True, 10, Ranks())
