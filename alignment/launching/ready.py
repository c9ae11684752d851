"""Whether every node sees the run folder and reaches the first node, checked before ranks are started on several nodes.

python -m alignment.launching.ready <number> <nodes> <address of the first> <port> <run.dir> <stage>

The first node waits at most SECONDS until all others have called. Both sides name the node that is missing. A node that
doesn't see the stage's batch script in the run folder sees another folder: trying again would not help, and the first
node leaves an exit code that tells the batch script so, as a rank would.
"""

import os
import socket
import sys
import time
from contextlib import closing
from pathlib import Path

from alignment.launching import exits
from alignment.types import UserError

SECONDS = 30.0


def main(number: int, nodes: int, address: str, port: int, run: str, stage: str, seconds: float = SECONDS) -> None:
    """Returns when all nodes are ready; exits with one line that names the node that isn't."""
    if nodes == 1:
        return
    until = time.monotonic() + seconds
    if number == 0:
        for name in _receive(nodes, port, until, seconds):
            exits.leave(Path(run), stage, UserError.exit_code)
            _stop(f"{name} doesn't see {run}; set run.dir to a folder that all nodes share")
    else:
        seen = (Path(run) / "slurm" / f"{stage}.sbatch").is_file()
        _call(f"{number} {_name()} {'sees' if seen else 'misses'}\n", address, port, until, seconds)


def _receive(nodes: int, port: int, until: float, seconds: float) -> list[str]:
    """The names of nodes that don't see the run folder. All are answered when all have called."""
    names = os.environ.get("REPALIGN_NODE_NAMES", "").split()
    calls: dict[int, socket.socket] = {}
    blind: list[str] = []
    with closing(socket.create_server(("", port))) as server:
        while len(calls) < nodes - 1:
            server.settimeout(max(0.0, until - time.monotonic()) or 0.001)
            try:
                call, _ = server.accept()
            except TimeoutError:
                names += [f"number {node}" for node in range(len(names), nodes)]
                absent = ", ".join(names[node] for node in range(1, nodes) if node not in calls)
                _stop(f"node {absent} has not reached {_name()} on port {port} within {seconds:g} s")
            call.settimeout(max(0.001, until - time.monotonic()))
            try:
                node, name, sees = call.makefile().readline().split()
                calls[int(node)] = call
                blind += [name] if sees == "misses" else []
            except (OSError, ValueError):
                call.close()  # it is no node's
    for call in calls.values():
        with closing(call):
            call.sendall(b"ready\n")
    return blind


def _call(line: str, address: str, port: int, until: float, seconds: float) -> None:
    """Calls the first node, which may start later than this one, until it answers."""
    while True:
        left = until - time.monotonic()
        if left <= 0:
            _stop(f"the first node, {address}, can't be reached from {_name()} on port {port} within {seconds:g} s")
        try:
            with closing(socket.create_connection((address, port), timeout=left)) as call:
                call.sendall(line.encode())
                call.settimeout(left + 5)
                if call.makefile().readline() == "ready\n":
                    return
        except OSError:
            pass
        time.sleep(0.1)


def _name() -> str:
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def _stop(problem: str) -> None:
    sys.exit(f"repalign: {problem}")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), *sys.argv[5:])
