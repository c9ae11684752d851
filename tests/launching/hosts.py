"""Two hosts on this machine: network namespaces with an address and a host name each, and a cable between them."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ADDRESSES = {"one": "10.0.0.1", "two": "10.0.0.2"}
NOBODY = "02:00:00:00:00:99"  # the hardware address of neither


def not_permitted() -> str:
    """Why there can be no hosts here; empty if they can be."""
    if shutil.which("ip") is None:
        return "no ip here: tests/launching/install.sh installs it"
    probe = f"probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", probe], text=True, capture_output=True)
    if made.returncode != 0:
        return f"network namespaces aren't permitted here: {made.stderr.strip()}"
    _ip("netns", "delete", probe)
    return ""


@contextmanager
def hosts() -> Iterator["Hosts"]:
    """Whatever happens inside, neither a process nor a namespace is left behind."""
    folder = Path(tempfile.mkdtemp(prefix="hosts-"))
    pair = Hosts(folder)
    try:
        pair.connect()
        yield pair
    finally:
        pair.remove()
        shutil.rmtree(folder)


class Hosts:
    """They are called one and two, and know each other by these names."""

    def __init__(self, folder: Path) -> None:
        self.names = folder / "hosts"
        self.namespaces = {host: f"{folder.name}-{host}" for host in ADDRESSES}

    def start(self, host: str, command: list[str], **settings) -> subprocess.Popen:
        """A command on a host. settings: those of subprocess.Popen."""
        enter = ["ip", "netns", "exec", self.namespaces[host], "unshare", "--uts"]
        become = 'mount --bind "$0" /etc/hosts && hostname "$1" && shift && exec "$@"'  # seen by this command only
        return subprocess.Popen([*enter, "sh", "-c", become, str(self.names), host, *command], text=True, **settings)

    def cut(self) -> None:
        """Packets are lost from now on, and nobody is told: not the plug pulled, which the hosts would see."""
        for host, other in _pairs():
            peer = ["to", ADDRESSES[other], "dev", "eth0"]
            _ip("-n", self.namespaces[host], "neighbour", "replace", *peer, "lladdr", NOBODY, "nud", "permanent")

    def join(self) -> None:
        for host, other in _pairs():
            _ip("-n", self.namespaces[host], "neighbour", "delete", "to", ADDRESSES[other], "dev", "eth0")

    def connect(self) -> None:
        """The caller's part is to call remove, also when this fails."""
        addresses = {"localhost": "127.0.0.1", **ADDRESSES}
        self.names.write_text("".join(f"{address} {name}\n" for name, address in addresses.items()))
        for namespace in self.namespaces.values():
            _ip("netns", "add", namespace)
        one, two = self.namespaces.values()
        _ip("link", "add", "eth0", "netns", one, "type", "veth", "peer", "name", "eth0", "netns", two)
        for host, namespace in self.namespaces.items():
            _ip("-n", namespace, "address", "add", f"{ADDRESSES[host]}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", namespace, "link", "set", device, "up")

    def remove(self) -> None:
        for namespace in self.namespaces.values():
            if not Path("/run/netns", namespace).exists():  # connecting failed before it was made
                continue
            while processes := _ip("netns", "pids", namespace).split():
                for process in processes:
                    with suppress(ProcessLookupError):
                        os.kill(int(process), signal.SIGKILL)
            _ip("netns", "delete", namespace)


def _pairs() -> list[tuple[str, str]]:
    one, two = ADDRESSES
    return [(one, two), (two, one)]


def _ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], text=True, capture_output=True)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
    return done.stdout
