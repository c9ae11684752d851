"""What of a disk other file systems than this one's may not know: locks and hard links."""

import errno
import fcntl
import os
import shutil
import sys
from pathlib import Path
from typing import IO

UNKNOWN = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}  # Lustre mounted without flock, some NFS


def lock(file: IO, wait: bool) -> None:
    """Holds an open file until it is closed; BlockingIOError if another process holds it, and this one won't wait.

    Where the file system knows no locks, nobody is kept out, which is said.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in UNKNOWN:
            raise
        where = Path(file.name).parent
        print(f"repalign: {where}: its file system has no locks; start one run at a time there", file=sys.stderr)


def link_or_copy(source: str, target: str) -> str:
    """As shutil.copytree's copy_function: no second copy of what is large, where that can be."""
    try:
        os.link(source, target)
        return target
    except OSError:  # no links there, or too many, or another file system
        return shutil.copy2(source, target)
