"""Locks and hard links, which some file systems don't know."""

import errno
import fcntl
import os
import shutil
import sys
from pathlib import Path
from typing import IO

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


def link_or_copy(source: str, target: str) -> str:
    """A copy_function for shutil.copytree that makes no second copy of a file where the file system can link it."""
    try:
        os.link(source, target)
        return target
    except OSError:  # a file system without links, too many links, or another file system
        return shutil.copy2(source, target)
