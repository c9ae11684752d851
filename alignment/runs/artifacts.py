"""The files of a run: what exists, how it is published, and how a killed run finds its way back.

A stage writes into a folder aside and the folder is renamed into place once everything in it, the manifest last, has
reached the disk. So a published stage is complete or it isn't there. The manifest names what the stage was made from
(configuration, inputs, versions) and the hash of every file; a stage is skipped when all of that still holds, and
rebuilt when anything differs or a file is damaged.

Light on purpose: nothing here imports torch, so that a cached run answers at once.
"""

import errno
import hashlib
import importlib.metadata
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from alignment.runs.locks import lock
from alignment.types import UserError

MANIFEST = "manifest.json"
REPLACED = ".replaced"
VERSIONED = (
    "repalign", "torch", "transformers", "trl", "peft", "accelerate", "deepspeed", "datasets", "tokenizers", "numpy",
    "scipy", "scikit-learn", "matplotlib",
)  # fmt: skip


@dataclass(frozen=True)
class RunDir:
    """Every file of a run, in the order in which the pipeline makes them."""

    root: Path

    def stage(self, name: str) -> Path:
        return self.root / name

    @property
    def data(self) -> Path:
        """The given pairs, once read: train.arrow, heldout.arrow, quarantine.jsonl, and data.json with the counts."""
        return self.root / "data"

    @property
    def judge_health(self) -> Path:
        """Of every judge that was held against people's labels: how it did, and under which settings."""
        return self.root / "judge_health.json"

    # inspect
    @property
    def inspection(self) -> Path:
        """What is in the data: columns, lengths, repetitions, contradictions, overlap, some rows."""
        return self.root / "inspect" / "inspection.json"

    # induce
    @property
    def induced(self) -> Path:
        """id, prompt, positive, negative: the contrastive set, one direction's worth of pairs."""
        return self.root / "induce" / "induced.parquet"

    # annotate
    @property
    def direction(self) -> Path:
        """The standard margin vector, and what it was read from, as safetensors metadata."""
        return self.root / "annotate" / "direction.safetensors"

    @property
    def pairs(self) -> Path:
        """The training pairs with `margin` and `margin_raw`."""
        return self.root / "annotate" / "pairs.parquet"

    @property
    def heldout_pairs(self) -> Path:
        """Pairs kept from training, annotated with the edges fitted on the training pairs."""
        return self.root / "annotate" / "heldout.parquet"

    @property
    def calibration(self) -> Path:
        """How good the margins are."""
        return self.root / "annotate" / "calibration.json"

    # train_rm
    def reward_model(self, margins: str, seed: int) -> Path:
        """One reward model as from_pretrained loads it."""
        return self.root / "train_rm" / margins / f"seed-{seed}"

    @property
    def reward_scores(self) -> Path:
        """set, id, margins, seed, chosen_score, rejected_score, and what the pair is."""
        return self.root / "train_rm" / "scores.parquet"

    @property
    def reward_summary(self) -> Path:
        """What the trainers did: rows used and dropped, parity, loss by step."""
        return self.root / "train_rm" / "training.json"

    # fit_reward
    @property
    def hybrid_reward(self) -> Path:
        """The hybrid reward as HybridReward.load reads it."""
        return self.root / "fit_reward" / "reward"

    @property
    def hybrid_report(self) -> Path:
        """How good each gate, layer and confidence is on pairs kept from training."""
        return self.root / "fit_reward" / "hybrid.json"

    # build_pairs
    @property
    def samples(self) -> Path:
        """id, prompt, sample, text, finished, score: everything that was sampled."""
        return self.root / "build_pairs" / "samples.parquet"

    @property
    def built_pairs(self) -> Path:
        """Pairs of the policy's own samples, as preference data."""
        return self.root / "build_pairs" / "pairs.parquet"

    @property
    def build_counts(self) -> Path:
        """Prompts asked, left out and why, pairs made."""
        return self.root / "build_pairs" / "build.json"

    # train_sft, train_dpo, train_cdpo
    def policy(self, stage: str, system: str, seed: int) -> Path:
        """One trained policy as from_pretrained loads it."""
        return self.root / stage / system / f"seed-{seed}" / "policy"

    def trainings(self, stage: str) -> Path:
        """What was trained: every point of the grid, its validation, and the log by step."""
        return self.root / stage / "trainings.json"

    # evaluate
    @property
    def answers(self) -> Path:
        """system, seed, set, id, prompt, answer."""
        return self.root / "evaluate" / "answers.parquet"

    @property
    def verdicts(self) -> Path:
        """system, seed, set, id, judge, and what it says of the answer."""
        return self.root / "evaluate" / "verdicts.parquet"

    @property
    def choices(self) -> Path:
        """system, id, subject, the four log-probabilities: multiple choice."""
        return self.root / "evaluate" / "choices.parquet"

    @property
    def task_scores(self) -> Path:
        """system, task, id, measure, value: of lm-evaluation-harness."""
        return self.root / "evaluate" / "lm_eval.parquet"

    @property
    def rankings(self) -> Path:
        """Reward model, set, id, subset, and its two scores."""
        return self.root / "evaluate" / "rankings.parquet"

    @property
    def evaluation_record(self) -> Path:
        """What was asked of whom, and how it was decoded and judged."""
        return self.root / "evaluate" / "record.json"

    @property
    def evaluation(self) -> Path:
        """system -> a list over seeds of set -> rates."""
        return self.root / "evaluate" / "evaluation.json"

    # best_of_n
    @property
    def best_of_n(self) -> Path:
        """scorer -> n -> rates, with their intervals over prompts."""
        return self.root / "best_of_n" / "best_of_n.json"

    @property
    def best_of_n_samples(self) -> Path:
        """set, id, harmful, prompt, sample, text, finished, what the oracle says, and the score of every scorer."""
        return self.root / "best_of_n" / "samples.parquet"

    # judge
    @property
    def judged(self) -> Path:
        """Every judge: what it is, its verdicts counted, what it counted on the way, its health."""
        return self.root / "judge" / "judged.json"

    @property
    def judged_answers(self) -> Path:
        """The judged file as it was written to judge.output; its suffix is the output's."""
        return self.root / "judge" / "verdicts"

    # report
    @property
    def scorecard(self) -> Path:
        """Every number of the evaluation with its interval and its rows, and the gates."""
        return self.root / "report" / "scorecard.json"

    @property
    def report(self) -> Path:
        return self.root / "report.json"

    # outside the stages
    @property
    def timings(self) -> Path:
        """Seconds per stage; kept out of every hash."""
        return self.root / "timings.json"

    @property
    def logs(self) -> Path:
        """What trackers write."""
        return self.root / "logs"

    def work(self, stage: str, key: str) -> Path:
        """Where a stage writes before it is published; a different key never sees it."""
        return self.root / ".work" / f"{stage}-{key[:16]}"


# ---- what a stage was made from -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rows:
    """read = written + quarantined, always."""

    read: int
    written: int
    quarantined: int


@dataclass(frozen=True)
class Manifest:
    """config, inputs and versions decide whether the stage is up to date; the rest is record."""

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
    found = {}
    for name in VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """The commit of the source checkout this package runs from; None when it was installed, or nobody can tell."""
    here = Path(__file__).resolve().parent.parent
    if not (here.parent / ".git").exists() or shutil.which("git") is None:
        return None
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


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
    """Why a folder has to be made, in words; None when it is there, whole, and made from what is wanted."""
    if not folder.exists():
        return "not there yet"
    if problem := damage(folder):
        return f"rebuilding: {problem}"
    published = Manifest.read(folder)
    return None if published.key == wanted.key else f"rebuilding: {difference(published, wanted)}"


def unusable(run: RunDir, stage: str) -> str | None:
    """Why a published stage must not be read: damaged, or made from files that have been made anew since."""
    folder = run.stage(stage)
    if problem := damage(folder):
        return problem
    for name, key in Manifest.read(folder).inputs.items():
        kind, _, source = name.partition(" ")
        if kind == "stage" and key and (unusable(run, source) or Manifest.read(run.stage(source)).key != key):
            return f"it was made from another {source}"
    return None


def difference(old: Manifest, new: Manifest) -> str:
    """Why a stage is not up to date, in words."""
    for what in ("config", "inputs", "versions"):
        before, now = getattr(old, what), getattr(new, what)
        for name in sorted(before.keys() | now.keys()):
            if before.get(name) != now.get(name):
                if what == "config":
                    return f"{name} was {_short(before.get(name))}, is {_short(now.get(name))}"
                return f"{name} changed" if what == "inputs" else f"{name} {before.get(name)} -> {now.get(name)}"
    return "up to date"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def hash_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_folder(folder: Path) -> str:
    """One hash for the files of a model folder: names and content."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder)} {hash_file(path)}\n".encode())
    return digest.hexdigest()


# ---- publishing -----------------------------------------------------------------------------------------------------


def publish(work: Path, target: Path, manifest: Manifest) -> None:
    """Seals `work` with its manifest and puts it in the place of `target`."""
    _open_to_others(work)
    sync_tree(work)
    files = {str(path.relative_to(work)): hash_file(path) for path in _files(work) if path.name != MANIFEST}
    write_json(work / MANIFEST, {**asdict(manifest), "files": files})
    replaced = target.with_name(f".{target.name}{REPLACED}")
    shutil.rmtree(replaced, ignore_errors=True)
    if target.exists():
        target.rename(replaced)
    work.rename(target)
    _sync_folder(target.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _open_to_others(work: Path) -> None:
    """Libraries write weights that their owner alone may read; here the umask decides, as for any other file."""
    mask = os.umask(0)
    os.umask(mask)
    for path in _files(work):
        mode = path.stat().st_mode
        if wanted := (0o666 & ~mask) & ~mode:
            with suppress(OSError):  # a file system that keeps no modes, or has its own
                path.chmod(mode | wanted)


def clear_replaced(run: RunDir) -> None:
    """Old stages that a kill left behind when new ones had just taken their place."""
    for folder in run.root.glob(f".*{REPLACED}"):
        shutil.rmtree(folder, ignore_errors=True)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A path to write to; it takes the wanted name, complete and on disk, when the block ends well."""
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
    for path in _files(folder):
        with open(path, "rb+") as file:
            os.fsync(file.fileno())
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network file systems know this of files alone
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def write_json(path: Path, content: Any) -> None:
    with atomic_file(path) as file:
        file.write_text(json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def write_rows(path: Path, rows: list[dict], schema: pa.Schema) -> None:
    """Rows as parquet; the schema says which columns there are, a row may lack the nullable ones."""
    with atomic_file(path) as file:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), file)


def read_rows(path: Path) -> list[dict]:
    return pq.read_table(path).to_pylist()


def write_lines(path: Path, rows: Iterable[dict]) -> None:
    """Rows as json lines."""
    with atomic_file(path) as file:
        file.write_text("".join(json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n" for row in rows))


# ---- the run folder itself ------------------------------------------------------------------------------------------


def open_run(root: Path) -> RunDir:
    """Creates the run folder and checks that it can be written, before anything expensive has begun."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe = root / f".writable.{os.getpid()}"
        probe.write_bytes(b"x" * 4096)
        probe.unlink()
    except OSError as error:
        raise UserError("run.dir", f"cannot write to {root}: {error.strerror}", "choose another folder") from error
    return RunDir(root)


@contextmanager
def locked(run: RunDir, what: str = "") -> Iterator[None]:
    """One run at a time in a folder; what: another lock of it, of this name."""
    path = run.root / f".lock{what and '.'}{what}"
    with open(path, "a+") as file:
        try:
            lock(file, wait=False)
        except BlockingIOError as error:
            file.seek(0)
            owner = file.read().strip() or "another process"
            raise UserError(
                "run.dir", f"{run.root} is in use by {owner}", "wait for it or choose another folder"
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield
