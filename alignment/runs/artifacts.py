"""How files come into a run: each is complete and on disk, or it isn't there.

A stage writes into a folder of its own, which is renamed into place once everything in it, the manifest last, has
reached the disk. So a published stage is complete or it isn't there.

Nothing here imports torch, so that a run that is up to date says so at once.
"""

import errno
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from alignment.runs.manifest import MANIFEST, Manifest, files_in, hash_file
from alignment.runs.run_files import RunDir

REPLACED = ".replaced"
LONG = 60.0  # seconds; what took longer is not thrown away when a setting is changed


def publish(work: Path, target: Path, manifest: Manifest, aside: Path | None = None) -> None:
    """Adds its manifest to `work` and puts it in the place of `target`. aside: where that goes; None: it is removed.

    Killed at any moment, it leaves `target` whole, old or new, or where it was put aside.
    """
    _open_to_others(work)
    sync_tree(work)
    files = {str(path.relative_to(work)): hash_file(path) for path in files_in(work) if path.name != MANIFEST}
    write_json(work / MANIFEST, {**asdict(manifest), "files": files})
    replaced = target.with_name(f".{target.name}{REPLACED}")
    shutil.rmtree(replaced, ignore_errors=True)
    if target.exists() and aside is not None:
        aside.parent.mkdir(exist_ok=True)
        if aside.exists():
            aside.rename(replaced)
        target.rename(aside)
    elif target.exists():
        target.rename(replaced)
    work.rename(target)
    _sync_folder(target.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def long_seconds(run: RunDir, stage: str) -> float | None:
    """The seconds that a published stage took, if they were many; None if they weren't, or if it isn't there."""
    seconds = read_json_if_intact(run.timings).get(stage, 0.0)
    return seconds if seconds > LONG and run.stage(stage).exists() else None


def _open_to_others(work: Path) -> None:
    """Gives every file the mode that the umask allows: libraries write weights that their owner alone may read."""
    mask = os.umask(0)
    os.umask(mask)
    for path in files_in(work):
        mode = path.stat().st_mode
        if missing := (0o666 & ~mask) & ~mode:
            with suppress(OSError):  # a file system that keeps no modes, or has its own
                path.chmod(mode | missing)


def clear_replaced(run: RunDir) -> None:
    """Removes the old stages that a kill left behind when new ones had just taken their place."""
    for folder in run.root.glob(f".*{REPLACED}"):
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A path to write to; the file gets its name, complete and on disk, when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield unfinished
        with open(unfinished, "rb+") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
        _sync_folder(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def sync_tree(folder: Path) -> None:
    """Forces to disk what a library wrote into a folder."""
    for path in files_in(folder):
        with open(path, "rb+") as file:
            os.fsync(file.fileno())
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network file systems sync files but no folders
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def write_json(path: Path, content: Any) -> None:
    with atomic_file(path) as file:
        file.write_text(json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def read_json_if_intact(path: Path) -> dict:
    """The content of a JSON file; nothing if it is lost or can't be read."""
    try:
        return read_json(path)
    except (FileNotFoundError, ValueError):
        return {}


def write_rows(path: Path, rows: list[dict], schema: pa.Schema) -> None:
    """Rows as parquet; a row may lack the schema's nullable columns."""
    with atomic_file(path) as file:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), file)


def read_rows(path: Path) -> list[dict]:
    return pq.read_table(path).to_pylist()


def write_lines(path: Path, rows: Iterable[dict]) -> None:
    """Rows as json lines."""
    with atomic_file(path) as file:
        file.write_text("".join(json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n" for row in rows))
