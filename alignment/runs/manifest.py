"""What a published folder was made from, and so whether it is up to date and whole.

The manifest names what a stage was made from (configuration, inputs, versions) and the hash of every file; a stage is
skipped when all of that still holds, and rebuilt when anything differs or a file is damaged.

Nothing here imports torch, so that a run that is up to date says so at once.
"""

import hashlib
import importlib.metadata
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignment.runs.run_files import RunDir

MANIFEST = "manifest.json"
FRESH = "not there yet"  # why a stage is made that nobody made before
VERSIONED = (
    "repalign", "torch", "transformers", "trl", "peft", "accelerate", "deepspeed", "datasets", "tokenizers", "numpy",
    "scipy", "scikit-learn", "matplotlib",
)  # fmt: skip


@dataclass(frozen=True)
class Rows:
    """How many rows a stage read, wrote and quarantined: read = written + quarantined, always."""

    read: int
    written: int
    quarantined: int


@dataclass(frozen=True)
class Manifest:
    """config, inputs and versions decide whether the stage is up to date; the other fields only tell."""

    stage: str
    config: dict[str, Any]
    inputs: dict[str, str]
    versions: dict[str, str]
    git_commit: str | None = None
    rows: Rows | None = None
    files: dict[str, str] | None = None

    @property
    def key(self) -> str:
        made_from = {"config": self.config, "inputs": self.inputs, "versions": self.versions, "stage": self.stage}
        return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        content = json.loads((folder / MANIFEST).read_text())
        return cls(**{**content, "rows": Rows(**content["rows"]) if content["rows"] else None})


def versions() -> dict[str, str]:
    """The libraries that can change a result."""
    installed = {}
    for name in VERSIONED:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def git_commit() -> str | None:
    """The commit of the source checkout this package runs from; None if it was installed, or if there is no git."""
    here = Path(__file__).resolve().parent.parent
    if not (here.parent / ".git").exists() or shutil.which("git") is None:
        return None
    answer = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False)
    return answer.stdout.strip() or None


def damage(folder: Path) -> str | None:
    """What is wrong with a published folder, in words; None when every file is as its manifest says."""
    try:
        manifest = Manifest.read(folder)
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (json.JSONDecodeError, TypeError, KeyError, UnicodeDecodeError):
        return f"{MANIFEST} is not readable"
    for name, expected in (manifest.files or {}).items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if hash_file(path) != expected:
            return f"{name} is damaged (its content differs from the manifest)"
    return None


def why_made(folder: Path, wanted: Manifest) -> str | None:
    """Why a folder has to be made, in words; None when it is there, whole, and made as the wanted manifest says."""
    if not folder.exists():
        return FRESH
    if problem := damage(folder):
        return f"rebuilding: {problem}"
    published = Manifest.read(folder)
    return None if published.key == wanted.key else f"rebuilding: {difference(published, wanted)}"


def unusable(run: RunDir, stage: str) -> str | None:
    """Why a published stage must not be read: it is damaged, or the files it was made from have been made anew."""
    folder = run.stage(stage)
    if problem := damage(folder):
        return problem
    for name, key in Manifest.read(folder).inputs.items():
        kind, _, source = name.partition(" ")
        if kind == "stage" and key and (unusable(run, source) or Manifest.read(run.stage(source)).key != key):
            return f"it was made from another {source}"
    return None


def difference(old: Manifest, new: Manifest) -> str:
    """Why a stage is not up to date, in words: everything that differs."""
    reasons = []
    for field in ("config", "inputs", "versions"):
        before, now = getattr(old, field), getattr(new, field)
        for name in sorted(before.keys() | now.keys()):
            if before.get(name) != now.get(name):
                was, now_is = _short(before.get(name)), _short(now.get(name))
                hashed = field == "inputs" and name != "device"
                reasons.append(f"{name} changed" if hashed else f"{name} was {was}, is {now_is}")
    return "; ".join(reasons) or "up to date"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def hash_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def hash_folder(folder: Path) -> str:
    """One hash for the names and contents of a folder's files."""
    digest = hashlib.sha256()
    for path in files_in(folder):
        digest.update(f"{path.relative_to(folder)} {hash_file(path)}\n".encode())
    return digest.hexdigest()
