"""Asked to stop, a run saves, says so and exits 75; the same command goes on, and nothing differs in the end."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import TrainerCallback

from alignment.runs import stopping
from alignment.runs.batches import Pending, compute_in_batches
from alignment.runs.ranks import Ranks
from alignment.trainers.resuming import _Stops, train
from alignment.types import Stopped
from tests import small_recipe
from tests.small_recipe import different
from tests.trainers.test_cdpo import folder, new_trainer  # noqa: F401 (a fixture)


@pytest.fixture(autouse=True)
def nothing_asked(monkeypatch):
    monkeypatch.setattr(stopping, "_first", None)
    before = {number: signal.getsignal(number) for number in stopping.SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", stopping.SIGNALS)
def test_a_signal_is_a_request_and_two_at_once_are_one(number, capfd):
    """As from Slurm and from the launcher, which both send it."""
    stopping.listen()
    assert not stopping.asked()
    for _ in range(3):
        os.kill(os.getpid(), number)
    assert stopping.asked()
    assert capfd.readouterr().err == "repalign: asked to stop; saving at the end of this step\n"


def test_batches_stop_between_two_and_go_on(tmp_path):
    computed: list[list[int]] = []

    def compute(batch: list[int]) -> Pending:
        computed.append(batch)
        if len(computed) == 2:
            os.kill(os.getpid(), signal.SIGUSR1)
        return str(batch).encode

    stopping.listen()
    with pytest.raises(Stopped, match="items"):
        compute_in_batches(tmp_path, "items", [4, 3, 2, 1], 4, compute, Ranks())
    assert computed == [[0], [1]]
    stopping._first = None
    done = compute_in_batches(tmp_path, "items", [4, 3, 2, 1], 4, compute, Ranks())
    assert computed[2:] == [[2, 3]], "what was computed when the signal came was kept"
    assert [items for items, _ in done] == [[0], [1], [2, 3]]


class _AskAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        if state.global_step == self._step:
            os.kill(os.getpid(), signal.SIGUSR1)


def weights(trainer) -> torch.Tensor:
    return torch.cat([value.flatten() for value in trainer.model.state_dict().values()])


def test_a_training_stops_where_it_logs(folder, tmp_path):  # noqa: F811
    """What was added up since the last log would be lost, and the next entry be another."""
    stopping.listen()
    settings = {"max_steps": 7, "save_strategy": "steps", "save_steps": 100, "per_device_train_batch_size": 4}
    whole, steps = new_trainer(folder, tmp_path / "whole", confidence="paper", logging_steps=2, **settings)
    train(whole, "whole", Ranks())
    stopped, before = new_trainer(folder, tmp_path / "stopped", confidence="paper", logging_steps=2, **settings)
    stopped.add_callback(_AskAt(2))
    with pytest.raises(Stopped, match="at step 4 of 7"):
        train(stopped, "it", Ranks())
    stopping._first = None
    rest, after = new_trainer(folder, tmp_path / "stopped", confidence="paper", logging_steps=2, **settings)
    train(rest, "it", Ranks())
    assert [*before.of("loss"), *after.of("loss")] == steps.of("loss") and len(steps.logs) == 3


@pytest.mark.parametrize("max_steps", [5, 7])  # in the middle of an epoch, and at its end
def test_a_training_stops_after_a_step_and_goes_on_to_the_same_weights(folder, tmp_path, max_steps):  # noqa: F811
    stopping.listen()
    settings = {"max_steps": max_steps, "save_strategy": "steps", "save_steps": 100, "per_device_train_batch_size": 4}

    def trainer(name: str, *callbacks: TrainerCallback):
        made, _ = new_trainer(folder, tmp_path / name, confidence="paper", **settings)
        for callback in callbacks:
            made.add_callback(callback)
        return made

    whole = trainer("whole")
    train(whole, "whole", Ranks())
    for step in (1, 3):
        with pytest.raises(Stopped, match=f"at step {step + 1} of {max_steps}"):
            train(trainer("stopped", _AskAt(step)), "it", Ranks())
        stopping._first = None
    last = trainer("stopped", _AskAt(max_steps - 1))
    train(last, "it", Ranks())  # asked in its last step: then it is done
    assert last.state.global_step == max_steps
    assert torch.equal(weights(last), weights(whole))
    again = trainer("stopped")
    train(again, "it", Ranks())  # as after a kill between its last step and its publication
    assert again.state.global_step == max_steps and torch.equal(weights(again), weights(whole))


def test_a_rank_stops_with_one_that_was_asked():
    """Nobody asked this one; the others would wait for it at the next step."""
    stop = _Stops(SimpleNamespace(any=lambda here: True))
    control = SimpleNamespace(should_save=False, should_training_stop=False)
    stop.on_step_end(SimpleNamespace(logging_steps=2), SimpleNamespace(global_step=3), control)
    assert not control.should_training_stop, "a step that isn't logged"
    stop.on_step_end(SimpleNamespace(logging_steps=2), SimpleNamespace(global_step=4), control)
    assert control.should_save and control.should_training_stop and stop.step == 4


def wait_until_it_listens(process: int, number: int) -> None:
    """Linux keeps the signals that a process handles as bits."""
    until = time.monotonic() + 60
    handled = 0
    while not handled >> (number - 1) & 1:
        assert time.monotonic() < until
        time.sleep(0.05)
        status = Path(f"/proc/{process}/status").read_text()
        handled = int(next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16)


def test_a_signal_that_comes_when_all_is_done_changes_nothing(tmp_path):
    """As the interpreter is taken down, when Python has no handlers any more."""
    script = tmp_path / "late.py"
    script.write_text(
        "import os, signal\nfrom alignment.runs import stopping\n"
        "class Late:\n    def __del__(self, kill=os.kill, me=os.getpid(), number=signal.SIGTERM):\n"
        "        kill(me, number)\n"
        "stopping.listen()\nstopping.over()\nstopping.late = Late()\n"
    )
    assert subprocess.run([sys.executable, script], check=False, env=small_recipe.environment()).returncode == 0


@pytest.mark.slow
def test_a_recipe_asked_to_stop_again_and_again_ends_as_if_it_had_not_been(tmp_path, undisturbed):
    whole = undisturbed(*small_recipe.CDPO).run
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    moments, stopped = random.Random(seed), 0
    for _ in range(40):
        process = subprocess.Popen(
            small_recipe.command(*small_recipe.CDPO, "run.dir=run"), cwd=tmp_path, env=small_recipe.environment(),
            text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        number = stopping.SIGNALS[min(stopped, len(stopping.SIGNALS) - 1)]
        if stopped < len(stopping.SIGNALS):
            wait_until_it_listens(process.pid, number)
            time.sleep(0 if stopped == 0 else moments.uniform(0, 8))
            process.send_signal(number)
        said, error = process.communicate(timeout=120)
        if process.returncode == 0:
            break
        assert process.returncode == 75, error
        assert "asked to stop; saving" in error and "the same command goes on in run" in error
        stopped += 1
    assert process.returncode == 0 and stopped
    assert "done: run" in said and not different(tmp_path / "run", whole)
