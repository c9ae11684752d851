"""Two hosts and torchrun: one rank on each, a real network between them, and what happens when it is cut."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import small_recipe
from tests.launching.test_local import BEFORE_TRAINING
from tests.small_recipe import different

TIMEOUT = 15


def start(hosts, host: str, folder: Path) -> subprocess.Popen:
    """The recipe's rank on a host, its errors in a file."""
    torchrun = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d",
        "--rdzv-endpoint=one:29511", "--rdzv-id=1", "-m", "alignment.run",
    ]  # fmt: skip
    given = [*small_recipe.CDPO, f"run.dir={folder / 'run'}", f"launch.timeout_seconds={TIMEOUT}"]
    errors = (folder / f"{host}.err").open("a")
    environment = small_recipe.environment(GLOO_SOCKET_IFNAME="eth0")
    return hosts.start(host, [*torchrun, *given], cwd=folder, env=environment, stdout=errors, stderr=errors)


def finish(pair: list[subprocess.Popen], folder: Path) -> None:
    codes = [one.wait(300) for one in pair]
    assert codes == [0, 0], said(folder)


def said(folder: Path) -> str:
    return "".join(f"--- {path.name}\n{path.read_text()[-4000:]}" for path in sorted(folder.glob("*.err")))


@pytest.mark.slow
def test_two_hosts_that_are_cut_off_say_so_and_go_on_when_they_are_joined(hosts, undisturbed, tmp_path):
    """What they make in the end is what two ranks on one host make, from copies of what comes before the training."""
    whole = undisturbed(*small_recipe.CDPO, "launch=ddp", "launch.processes=2").run
    folder = tmp_path / "cut"
    small_recipe.copy_stages(whole, folder / "run", BEFORE_TRAINING)
    pair = [start(hosts, host, folder) for host in ("one", "two")]
    until = time.monotonic() + 240
    while not list(folder.glob("run/.work/train_cdpo-*/done/**/checkpoint-*/manifest.json")):
        assert time.monotonic() < until
        time.sleep(0.1)
    hosts.cut()
    cut = time.monotonic()
    line = "repalign: train_cdpo: one and two don't reach each other any more, though all ranks are alive"
    while not all(line in (folder / f"{host}.err").read_text() for host in ("one", "two")):
        assert time.monotonic() < cut + 180, said(folder)  # the time-out, and what a busy machine takes to say it
        time.sleep(0.2)
    print(f"both ranks said so {time.monotonic() - cut:.0f} s after the cut")
    assert pair[0].wait(60) != 0
    pair[1].kill()  # torchrun's launcher there looks for the first host's for ever
    assert not (folder / "run/train_cdpo").exists()
    hosts.join()
    finish([start(hosts, host, folder) for host in ("one", "two")], folder)
    assert not different(folder / "run", whole)
