"""A change of what the trainers compute is always seen: the first twenty steps of each are committed.

If one is meant: python -m tests.trainers.test_trajectories writes them anew, and the commit says why they changed.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.trainers.trajectory import OLDEST

COMMITTED = Path(__file__).with_name("trajectories.json")


def computed(to: Path) -> dict[str, list[dict[str, float]]]:
    """In a process of its own: which instructions are used is settled when torch is imported."""
    command = [sys.executable, "-m", "tests.trainers.trajectory", str(to)]
    subprocess.run(command, cwd=REPOSITORY, env={**os.environ, **OLDEST}, check=True, capture_output=True, text=True)
    return json.loads(to.read_text())


@pytest.mark.slow
def test_each_trainer_takes_the_steps_it_took(tmp_path):
    committed, found = json.loads(COMMITTED.read_text()), computed(tmp_path / "trajectories.json")
    assert found.keys() == committed.keys()
    for trainer, steps in committed.items():
        assert len(found[trainer]) == len(steps) == 20
        for number, (now, then) in enumerate(zip(found[trainer], steps, strict=True)):
            assert now == pytest.approx(then, rel=1e-5, abs=1e-6), f"{trainer}, step {number + 1}"


if __name__ == "__main__":
    computed(COMMITTED)
