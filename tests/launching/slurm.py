"""A real Slurm of two nodes on this machine: its daemons, its state and its logs in one temporary folder.

Several can run at once: each has ports, a munge key and a munge socket of its own, and nothing is read from /etc/slurm.
"""

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NODES = ("n1", "n2")
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"  # where daemons are, which is on no ordinary user's path
FINAL = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "BOOT_FAIL", "DEADLINE", "OUT_OF_MEMORY"}
NEVER = "DependencyNeverSatisfied"
PATIENCE = 30  # seconds for a daemon to answer; it needs less than one unless the machine is very busy

# A node has two CPUs whatever this machine has. cred_expire is also how long a requeued job waits before it may start
# (120 s unless set). Finished jobs are remembered for an hour: without accounting, scontrol is all that can be asked.
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmctldLogFile={folder}/slurmctld.log
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdSpoolDir={folder}/%n
SlurmdLogFile={folder}/%n.log
SlurmdPidFile={folder}/%n.pid
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
JobRequeue=1
ReturnToService=2
KillWait=5
SlurmdTimeout=10
MinJobAge=3600
NodeName=n1 NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=4000
NodeName=n2 NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=4000
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=01:00:00
PartitionName=endless Nodes=n1,n2 MaxTime=INFINITE
"""


def missing() -> str:
    """The programs that aren't here; empty if all are."""
    return ", ".join(name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name, path=PATH))


@contextmanager
def slurm() -> Iterator["Slurm"]:
    """Whatever happens inside, no process of this Slurm or of its jobs is left behind."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # short: the path of a socket has at most 107 characters
    cluster = Slurm(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder)


class Slurm:
    """environment: what a command needs in its environment to find this Slurm and no other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": PATH}

    def run(self, command: list[str], **settings) -> str:
        """What a command printed that must succeed. settings: those of subprocess.run."""
        settings = {"cwd": self.folder, "env": {**os.environ, **self.environment}, "timeout": PATIENCE, **settings}
        done = subprocess.run(command, text=True, capture_output=True, **settings)
        assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done.stdout

    def show(self, kind: str, name: str) -> dict[str, str]:
        """What scontrol knows of a job or a node: JobState, Restarts, State, Reason and more."""
        words = self.run(["scontrol", "-o", "show", kind, name]).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def state(self, number: str) -> str:
        """A job's; of one that waits for ever, because the job it depends on failed, that reason instead."""
        job = self.show("job", number)
        return NEVER if job["Reason"] == NEVER else job["JobState"]

    def wait(self, numbers: list[str], timeout: float) -> dict[str, str]:
        """The state in which each job ended."""
        self.until(lambda: all(self.state(number) in {*FINAL, NEVER} for number in numbers), timeout)
        return {number: self.state(number) for number in numbers}

    def until(self, true: Callable[[], bool], timeout: float = PATIENCE) -> None:
        """Waits until something is true; when that takes too long, the failure shows the logs."""
        deadline = time.monotonic() + timeout
        while not true():
            assert time.monotonic() < deadline, f"waited {timeout} s in vain\n{self.log()}"
            time.sleep(0.2)

    def stop_node(self, name: str) -> None:
        """As if its power were cut: the daemon, its steps and their tasks are killed."""
        _kill({"SLURM_CONF": self.environment["SLURM_CONF"], "SLURMD_NODENAME": name}, self.folder / f"{name}.log")

    def start_node(self, name: str) -> None:
        self._start_daemon(name)
        self.until(lambda: not {"DOWN", "NOT_RESPONDING"} & set(self.show("node", name)["State"].split("+")))

    def _start_daemon(self, name: str) -> None:
        # the name is in its environment for stop_node; Slurm puts it in that of the tasks
        self.run(["slurmd", "-N", name], env={**os.environ, **self.environment, "SLURMD_NODENAME": name})

    def log(self) -> str:
        """The queue, and the end of every log."""
        command = ["squeue", "-o", "%i %j %T %r %N"]
        queue = subprocess.run(command, env={**os.environ, **self.environment}, text=True, capture_output=True)
        logs = [f"{path.name}:\n{path.read_text(errors='replace')[-3000:]}" for path in self.folder.glob("*.log")]
        return "\n".join([queue.stdout, queue.stderr, *logs])

    def start(self) -> None:
        """The caller's part is to call stop, also when this fails."""
        host = socket.gethostname().partition(".")[0]
        configuration = CONFIGURATION.format(folder=self.folder, host=host, user=os.geteuid(), ports=_free_ports())
        (self.folder / "slurm.conf").write_text(configuration)
        (self.folder / "state").mkdir()
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        files = [f"--{kind}-file={self.folder}/munge.{kind}" for kind in ("key", "log", "pid", "seed")]
        self.run(["munged", "--force", f"--socket={self.folder}/munge.socket", *files])
        self.run(["slurmctld"])
        for name in NODES:
            self._start_daemon(name)
        idle = "\n".join(f"{name} idle" for name in NODES)
        self.until(lambda: self._sinfo() == idle)

    def _sinfo(self) -> str:
        """Nothing while the controller doesn't answer yet."""
        command = ["sinfo", "--noheader", "-N", "-p", "main", "-o", "%N %T"]
        return subprocess.run(
            command, env={**os.environ, **self.environment}, text=True, capture_output=True
        ).stdout.strip()

    def stop(self) -> None:
        _kill({"SLURM_CONF": self.environment["SLURM_CONF"]}, *self.folder.glob("*.log"))


def _free_ports() -> list[int]:
    """Three below those that the system gives to outgoing connections, so that a node that comes back finds its own."""
    ports: set[int] = set()
    while len(ports) < 3:
        port = random.randrange(10_000, 32_000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                ports.add(port)
    return list(ports)


def _kill(environment: dict[str, str], *logs: Path) -> None:
    """All processes with these in their environment, or with one of these logs open; until none is left.

    By their logs, because Slurm writes the title of a step's process over its environment.
    """
    wanted = {f"{name}={value}".encode() for name, value in environment.items()}
    names = {str(path) for path in logs}
    while ours := [process for process in Path("/proc").glob("[0-9]*") if _is_ours(process, wanted, names)]:
        for process in ours:
            with suppress(ProcessLookupError):
                os.kill(int(process.name), signal.SIGKILL)
        time.sleep(0.05)


def _is_ours(process: Path, wanted: set[bytes], logs: set[str]) -> bool:
    try:
        if wanted <= set((process / "environ").read_bytes().split(b"\0")):
            return True
        return any(os.readlink(descriptor) in logs for descriptor in (process / "fd").iterdir())
    except OSError:  # it ended just now, or is another user's
        return False
