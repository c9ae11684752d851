"""Before ranks start: every node is there and sees the run folder, or one line says which doesn't."""

import socket
import subprocess
import sys
import time

import pytest

from alignment.launching import exits
from alignment.launching.ready import main


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(autouse=True)
def script(tmp_path):
    """What a node that sees the run folder finds there."""
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm/train.sbatch").touch()


def node(number: int, nodes: int, port: int, run, seconds: float = 20) -> subprocess.Popen:
    """Its own process, as on a node."""
    given = (number, nodes, "127.0.0.1", port, str(run), "train", seconds)
    code = f"from alignment.launching.ready import main; main(*{given!r})"
    names = {"SLURMD_NODENAME": f"n{number}", "REPALIGN_NODE_NAMES": "n0 n1 n2"}
    return subprocess.Popen([sys.executable, "-c", code], env=names, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_nodes_find_each_other_in_any_order(order, tmp_path):
    port, nodes = free_port(), []
    for number in order:
        nodes.append(node(number, 3, port, tmp_path))
        time.sleep(0.3)
    assert [one.wait(30) for one in nodes] == [0, 0, 0], [one.stderr.read() for one in nodes]


def test_a_caller_that_is_no_node_is_not_counted(tmp_path):
    port = free_port()
    first = node(0, 2, port, tmp_path)
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port)) as stranger:
                stranger.sendall(b"GET / HTTP/1.1\n")
            break
        except ConnectionRefusedError:
            time.sleep(0.05)
    assert first.poll() is None
    assert node(1, 2, port, tmp_path).wait(30) == first.wait(30) == 0


def test_who_is_missing_is_named_on_both_sides(tmp_path):
    port = free_port()
    first, second = node(0, 3, port, tmp_path, seconds=2), node(1, 3, port, tmp_path, seconds=2)
    assert first.wait(10) == 1
    assert f"node n2 has not reached n0 on port {port} within 2 s" in first.stderr.read()
    assert second.wait(10) == 1
    assert f"the first node, 127.0.0.1, can't be reached from n1 on port {port}" in second.stderr.read()


def test_a_folder_that_a_node_does_not_see(tmp_path):
    """Its own of the same name, say: that is no matter of trying again, and the batch script is told so."""
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    for folder in (here, elsewhere):
        (folder / "slurm").mkdir(parents=True)
    (here / "slurm/train.sbatch").touch()
    port = free_port()
    first, second = node(0, 2, port, here), node(1, 2, port, elsewhere)
    assert first.wait(30) == 1 and second.wait(30) == 0
    assert f"repalign: n1 doesn't see {here}; set run.dir to a folder that all nodes share" in first.stderr.read()
    assert exits.exit_code(here, "train") == 2


def test_one_node_has_nobody_to_wait_for(tmp_path):
    main(0, 1, "127.0.0.1", 1, str(tmp_path), "train")
