"""How the ranks of a stage ended, for the launcher that started them: `accelerate launch` itself only tells 0 from 1.

Every rank that ends otherwise than well leaves its exit code in run.dir/.exit/<stage>.<rank>. A rank that was killed
leaves none, and those that waited for it don't either: that is how a launcher knows that trying again makes sense.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path

from alignment.types import Stopped

KILLED = 137  # what a launcher says of a stage whose ranks said nothing


def folder(root: Path) -> Path:
    return root / ".exit"


def clear(root: Path) -> None:
    """Before a stage begins."""
    shutil.rmtree(folder(root), ignore_errors=True)


def leave(root: Path, stage: str | None, code: int) -> None:
    """By a rank, when it runs one stage for a launcher."""
    with suppress(OSError):  # of a full disk, say; what is wrong must still be said
        if stage is not None and root.is_dir():
            folder(root).mkdir(exist_ok=True)
            (folder(root) / f"{stage}.{os.environ.get('RANK', '0')}").write_text(f"{code}\n")


def found(root: Path, stage: str) -> int:
    """The stage's exit code when its launcher has failed: of a mistake first, then of a request to stop."""
    codes = [int(path.read_text() or KILLED) for path in folder(root).glob(f"{stage}.*")]
    failed = [code for code in codes if code != Stopped.exit_code]
    return min(failed or codes or [KILLED])
