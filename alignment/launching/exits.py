"""The exit codes of a stage's ranks, kept for the launcher that started them: `accelerate launch` only returns 0 or 1.

Every rank that fails or stops leaves its exit code in run.dir/.exit/<stage>.<rank>. A rank that was killed leaves none,
and ranks that waited for it leave none either: that is how a launcher knows that trying again makes sense.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path

from alignment.types import Stopped

KILLED = 137  # the exit code of a stage whose ranks left none


def folder(root: Path) -> Path:
    return root / ".exit"


def clear(root: Path) -> None:
    """Removes the codes of an earlier attempt, before a stage begins."""
    shutil.rmtree(folder(root), ignore_errors=True)


def leave(root: Path, stage: str | None, code: int) -> None:
    """Leaves a rank's exit code, if it runs one stage for a launcher."""
    with suppress(OSError):  # the disk may be full, and the rank has yet to print what is wrong
        if stage is not None and root.is_dir():
            folder(root).mkdir(exist_ok=True)
            (folder(root) / f"{stage}.{os.environ.get('RANK', '0')}").write_text(f"{code}\n")


def exit_code(root: Path, stage: str) -> int:
    """The stage's exit code when its launcher has failed: that of a failure, else that of a request to stop."""
    codes = [int(path.read_text() or KILLED) for path in folder(root).glob(f"{stage}.*")]
    failed = [code for code in codes if code != Stopped.exit_code]
    return min(failed or codes or [KILLED])
