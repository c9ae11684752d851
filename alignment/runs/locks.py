"""Locks and hard links, which some file systems don't know."""

import errno
import fcntl
import json
import os
import shutil
import socket
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import psutil

UNKNOWN = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}  # Lustre mounted without flock, some NFS


def lock(file: IO, wait: bool) -> None:
    """Locks an open file until it is closed; BlockingIOError if another process holds it, and this one won't wait.

    Where the file system knows no locks, no other process is kept out, and a line on the terminal says so.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in UNKNOWN:
            raise
        where = Path(file.name).parent
        print(f"repalign: {where}: its file system has no locks; start one run at a time there", file=sys.stderr)


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock, as the locked file tells it.

    space: where its number means something: containers count on their own. attempt: of the Slurm job, which may be
    requeued. started: as `_started` tells it.
    """

    process: int = 0
    host: str = ""
    space: str = ""
    started: float = 0.0
    job: str = ""
    attempt: int = 0

    @classmethod
    def here(cls) -> "Holder":
        own, environment = psutil.Process(), os.environ
        job, attempt = environment.get("SLURM_JOB_ID", ""), environment.get("SLURM_RESTART_COUNT", "0")
        return cls(own.pid, socket.gethostname(), _space(), _started(own), job, int(attempt))

    @classmethod
    def of(cls, content: str) -> "Holder":
        """The holder that a file tells; nobody, if it can't be read."""
        try:
            return cls(**json.loads(content))
        except (ValueError, TypeError):
            return cls()

    @property
    def content(self) -> str:
        return json.dumps(asdict(self))

    @property
    def says(self) -> str:
        job = f" in Slurm job {self.job}" if self.job else ""
        return f"process {self.process} on {self.host}{job}" if self.process else "another process"

    def may_lose_it(self) -> bool:
        """Is it gone, so that a child of its holds the lock, or is it left over from an earlier attempt of this job?"""
        own = Holder.here()
        left_over = bool(self.job) and self.job == own.job and self.attempt < own.attempt
        return left_over or (self._is_near() and self._process() is None)

    def end(self) -> None:
        """Ends it, if it is on this machine: it may write where another does now."""
        process = self._process() if self._is_near() else None
        if process is not None:
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def _is_near(self) -> bool:
        return (self.host, self.space) == (socket.gethostname(), _space())

    def _process(self) -> psutil.Process | None:
        """The process on this machine; None if it is gone, even if another has its number now."""
        try:
            process = psutil.Process(self.process)
            return process if _started(process) == self.started else None
        except (psutil.NoSuchProcess, ValueError):
            return None


def _started(process: psutil.Process) -> float:
    """When it started, which no change of the clock changes: on Linux in ticks since the machine did."""
    stat = Path(f"/proc/{process.pid}/stat")
    if not stat.exists():
        return process.create_time()
    return float(stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19])


def _space() -> str:
    with suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return ""


def taken_over(path: Path) -> IO:
    """A new locked file in the place of one that another process holds."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    file = open(unfinished, "a+")  # noqa: SIM115 (it is locked as long as it is open)
    lock(file, wait=False)
    unfinished.replace(path)
    return file


def link_or_copy(source: str, target: str) -> str:
    """A copy_function for shutil.copytree that makes no second copy of a file where the file system can link it."""
    try:
        os.link(source, target)
        return target
    except OSError:  # a file system without links, too many links, or another file system
        return shutil.copy2(source, target)
