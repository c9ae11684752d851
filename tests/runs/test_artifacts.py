"""Published or not there, damaged and noticed, planned once: the promises of the run folder."""

import errno
import fcntl
import os
import pickle
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Barrier, Event, Thread

import psutil
import pyarrow as pa
import pytest

from alignment.runs import artifacts, locks
from alignment.runs.locks import Holder, link_or_copy
from alignment.runs.manifest import Manifest, Rows, damage, difference, git_commit
from alignment.runs.run_files import RunDir, locked, open_run
from alignment.types import StageFailed, UserError
from tests.conftest import tiny_model

MANIFEST = Manifest("annotate", {"layer": 2, "pooling": "mean"}, {"data": "abc"}, {"torch": "1"})


def published(tmp_path):
    work, target = tmp_path / "work", tmp_path / "annotate"
    (work / "sub").mkdir(parents=True)
    (work / "a.txt").write_text("one")
    (work / "sub" / "b.bin").write_bytes(bytes(range(256)) * 100)
    artifacts.publish(work, target, MANIFEST)
    return target


def test_a_published_folder_is_whole(tmp_path):
    target = published(tmp_path)
    assert damage(target) is None
    assert Manifest.read(target).key == MANIFEST.key
    assert not (tmp_path / "work").exists()


def test_what_took_long_is_put_aside_the_last_one_of_it_and_nothing_is_lost_by_a_kill(tmp_path, monkeypatch):
    run, rename = RunDir(tmp_path), Path.rename

    def publish(text: str) -> None:
        shutil.rmtree(tmp_path / "work", ignore_errors=True)
        (tmp_path / "work").mkdir()
        (tmp_path / "work" / "a.txt").write_text(text)
        aside = run.aside("train_cdpo") if artifacts.long_seconds(run, "train_cdpo") else None
        artifacts.publish(tmp_path / "work", run.stage("train_cdpo"), MANIFEST, aside)

    def texts() -> list[str]:
        places = run.aside("train_cdpo"), run.stage("train_cdpo")
        return [(place / "a.txt").read_text() for place in places if place.exists()]

    artifacts.write_json(run.timings, {"train_cdpo": 61.0})
    assert artifacts.long_seconds(run, "train_cdpo") is None, "there is none"
    publish("first")
    for kill in (0, 1):  # before the published one is moved, and between both moves
        moves = iter([rename] * kill)
        with monkeypatch.context() as patch, pytest.raises(StopIteration):
            patch.setattr(Path, "rename", lambda folder, target, moves=moves: next(moves)(folder, target))
            publish("second")
        assert texts() == ["first"]
    publish("second")
    assert texts() == ["first", "second"]
    publish("third")
    assert texts() == ["second", "third"] and not list(tmp_path.glob(".train_cdpo*"))
    artifacts.write_json(run.timings, {"train_cdpo": 59.0})
    publish("fourth")
    assert texts() == ["second", "fourth"]


def test_a_folder_is_whole_when_it_takes_its_place(tmp_path, monkeypatch):
    """A kill may come right after."""
    rename, problems = Path.rename, []

    def renamed(folder: Path, target: Path) -> Path:
        problems.append(damage(folder))
        return rename(folder, target)

    monkeypatch.setattr(Path, "rename", renamed)
    published(tmp_path)
    assert problems == [None]


def test_a_file_is_on_disk_when_it_takes_its_name_and_then_its_name_is(tmp_path, monkeypatch):
    fsync, replace, happened = os.fsync, Path.replace, []

    def forced(descriptor: int) -> None:
        happened.append(("on disk", os.fstat(descriptor).st_ino))
        fsync(descriptor)

    def replaced(path: Path, target: Path) -> Path:
        happened.append(("named", path.stat().st_ino))
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", forced)
    monkeypatch.setattr(Path, "replace", replaced)
    artifacts.write_json(tmp_path / "file.json", {"a": 1})
    file, folder = (path.stat().st_ino for path in (tmp_path / "file.json", tmp_path))
    assert happened == [("on disk", file), ("named", file), ("on disk", folder)]


def test_publishing_again_replaces_the_old(tmp_path):
    published(tmp_path)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "c.txt").write_text("new")
    artifacts.publish(tmp_path / "work", tmp_path / "annotate", MANIFEST)
    assert sorted(path.name for path in (tmp_path / "annotate").iterdir()) == ["c.txt", "manifest.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["annotate"]


@pytest.mark.parametrize("name", ["a.txt", "sub/b.bin", "manifest.json"])
@pytest.mark.parametrize("how", ["truncated", "flipped", "emptied", "removed"])
def test_any_damage_is_found_and_named(tmp_path, name, how):
    target = published(tmp_path)
    path = target / name
    content = bytearray(path.read_bytes())
    if how == "removed":
        path.unlink()
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes({"truncated": path.read_bytes()[:-1], "flipped": bytes(content), "emptied": b""}[how])
    problem = damage(target)
    if name == "manifest.json" and how in ("truncated", "flipped"):
        # the last byte is a newline, and a flipped bit may leave valid json that names other files or hashes
        assert problem is None or "manifest" in problem or "damaged" in problem or "missing" in problem
    else:
        assert problem is not None and (name in problem or "manifest" in problem)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.json"
    artifacts.write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), artifacts.atomic_file(path) as unfinished:
        unfinished.write_text("half")
        raise RuntimeError
    assert artifacts.read_json(path) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.json"]
    with pytest.raises(ValueError):
        artifacts.write_json(path, {"a": float("nan")})
    assert artifacts.read_json(path) == {"a": 1}


def test_what_differs_is_said_in_words():
    def changed(**what):
        return Manifest(**{**vars(MANIFEST), **what})

    assert difference(MANIFEST, MANIFEST) == "up to date"
    assert difference(MANIFEST, changed(config={"layer": 3, "pooling": "mean"})) == "layer was 2, is 3"
    assert difference(MANIFEST, changed(inputs={"data": "abd"})) == "data changed"
    assert difference(MANIFEST, changed(versions={"torch": "2"})) == 'torch was "1", is "2"'
    both = changed(config={"layer": 3, "pooling": "last"}, inputs={"data": "abd"})
    assert difference(MANIFEST, both) == 'layer was 2, is 3; pooling was "mean", is "last"; data changed'
    for other in (changed(config={}), changed(inputs={}), changed(versions={}), changed(stage="induce")):
        assert other.key != MANIFEST.key
    assert changed(git_commit="x", rows=Rows(1, 1, 0)).key == MANIFEST.key


def test_rows_keep_their_schema(tmp_path):
    schema = pa.schema([("a", pa.int8()), ("b", pa.string())])
    artifacts.write_rows(tmp_path / "x.parquet", [{"a": 1, "b": "ü"}, {"a": None}], schema)
    assert artifacts.read_rows(tmp_path / "x.parquet") == [{"a": 1, "b": "ü"}, {"a": None, "b": None}]


def test_one_run_at_a_time(tmp_path):
    run = open_run(tmp_path / "run")
    used = f"in use by process {os.getpid()}"
    with locked(run), pytest.raises(UserError, match=used), locked(run):
        pass
    with locked(run):
        pass


@contextmanager
def held_by(run: RunDir, **holder) -> Iterator[None]:
    """The lock as a process holds it: a child of this test, or one that it tells of."""
    with open(run.root / ".lock", "w+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(replace(Holder.here(), **holder).content)
        file.flush()
        yield


def test_a_lock_is_taken_over_from_a_process_that_is_gone(tmp_path):
    """A child of its may hold it still. Another process may have its number by now, or count in another container."""
    run = open_run(tmp_path)
    for gone in ({"process": 2**22 - 1}, {"started": 1.0}):
        with held_by(run, **gone), locked(run) as held:
            assert held() and Holder.of((tmp_path / ".lock").read_text()) == Holder.here()
    for there in ({}, {"process": 2**22 - 1, "host": "elsewhere"}, {"process": 2**22 - 1, "space": "a container"}):
        with held_by(run, **there), pytest.raises(UserError, match="is in use by process"), locked(run):
            pass


def test_a_requeued_job_ends_what_its_earlier_attempt_left_and_takes_over(tmp_path, monkeypatch, capsys):
    run = open_run(tmp_path)
    left = subprocess.Popen(["sleep", "60"])
    holder = {"process": left.pid, "started": locks._started(psutil.Process(left.pid)), "job": "77", "attempt": 0}
    for job, attempt in (("77", "0"), ("78", "1")):
        monkeypatch.setenv("SLURM_JOB_ID", job)
        monkeypatch.setenv("SLURM_RESTART_COUNT", attempt)
        with held_by(run, **holder), pytest.raises(UserError, match="in Slurm job 77; wait for it"), locked(run):
            pass
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    with held_by(run, **holder), locked(run):
        assert left.wait(timeout=5) == -9
    assert f"taken over from process {left.pid}" in capsys.readouterr().out


def test_a_clock_that_is_set_makes_nobody_gone(tmp_path, monkeypatch):
    run = open_run(tmp_path)
    with held_by(run):
        honest = psutil.Process.create_time
        monkeypatch.setattr(psutil.Process, "create_time", lambda self: honest(self) + 3600)
        with pytest.raises(UserError, match="is in use by process"), locked(run):
            pass


def test_of_two_that_find_the_holder_gone_one_takes_over(tmp_path):
    run, got, both, refused = open_run(tmp_path), [], Barrier(2), Event()

    def come() -> None:
        both.wait()
        try:
            with locked(run):
                got.append("held")
                refused.wait(timeout=20)
        except UserError as error:
            got.append(str(error))
            refused.set()

    with held_by(run, process=2**22 - 1):
        comers = [Thread(target=come) for _ in range(2)]
        for comer in comers:
            comer.start()
        for comer in comers:
            comer.join()
    one, other = sorted(got)
    assert one == "held" and f"is in use by process {os.getpid()}" in other


def test_one_whose_lock_was_taken_over_notices(tmp_path, monkeypatch):
    """Ranks on a node that nobody reaches: they must not publish beside the job that goes on."""
    run = open_run(tmp_path)
    with locked(run) as first:
        assert first()
        content = replace(Holder.here(), host="elsewhere", job="77").content
        (tmp_path / ".lock").write_text(content)
        monkeypatch.setenv("SLURM_JOB_ID", "77")
        monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
        with locked(run) as second:
            assert second() and not first()


def test_every_file_of_a_run_has_one_name(tmp_path):
    run = RunDir(tmp_path)
    names = [name for name, value in vars(RunDir).items() if isinstance(value, property)]
    paths = {getattr(run, name) for name in names}
    assert len(paths) == len(names) > 8
    assert all(path.is_relative_to(tmp_path) for path in paths)


def test_what_a_stage_writes_lies_where_it_will_be_published(tmp_path):
    run = RunDir(tmp_path)
    assert run.inside(run.policy("train_dpo", "dpo", 3)) == Path("dpo/seed-3/policy")
    out = run.work("train_rm", "0123456789abcdef01") / "out"
    assert out == tmp_path / ".work/train_rm-0123456789abcdef/out" and run.work("data") == tmp_path / ".work/data"
    assert out / run.inside(run.reward_scores) == out / "scores.parquet"
    assert run.finished(out) == tmp_path / ".work/train_rm-0123456789abcdef/done"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_can_not_be_written_is_one_line(tmp_path):
    tmp_path.chmod(stat.S_IREAD | stat.S_IEXEC)
    with pytest.raises(UserError, match=r"run\.dir: cannot write"):
        open_run(tmp_path / "run")


def test_a_file_where_the_folder_should_be_is_one_line(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(UserError, match=r"run\.dir: cannot write to .*: Not a directory"):
        open_run(tmp_path / "runs" / "x")


def test_an_error_keeps_its_line_on_its_way_to_other_ranks():
    error = pickle.loads(pickle.dumps(StageFailed("a", "b", "c")))
    assert str(error) == "a: b; c" and error.exit_code == 1 and isinstance(error, StageFailed)


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)], ids=oct)
def test_what_is_published_may_be_read_by_whom_the_umask_lets(tmp_path, mask, mode):
    """save_pretrained writes weights for their owner alone."""
    before = os.umask(mask)
    try:
        tiny_model("llama").save_pretrained(tmp_path / "work")
        (tmp_path / "work/run.sh").touch(mode=0o700)
        assert (tmp_path / "work/model.safetensors").stat().st_mode & 0o777 == 0o600
        artifacts.publish(tmp_path / "work", tmp_path / "policy", MANIFEST)
    finally:
        os.umask(before)
    assert (tmp_path / "policy/model.safetensors").stat().st_mode & 0o777 == mode
    assert (tmp_path / "policy/run.sh").stat().st_mode & 0o777 == 0o700 | mode


# ---- disks and machines that lack something -------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_a_file_system_without_locks_is_worked_on_and_said(tmp_path, monkeypatch, capsys, number):
    def flock(file, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(RunDir(tmp_path)):
        pass
    assert "its file system has no locks; start one run at a time there" in capsys.readouterr().err


def test_another_error_of_a_lock_is_none_of_ours(tmp_path, monkeypatch):
    def flock(file, operation):
        raise OSError(errno.EIO, "broken disk")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="broken disk"), locked(RunDir(tmp_path)):
        pass


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.EXDEV, errno.EMLINK])
def test_where_there_are_no_hard_links_files_are_copied(tmp_path, monkeypatch, number):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/weights").write_bytes(b"1234")
    shutil.copytree(tmp_path / "a", tmp_path / "linked", copy_function=link_or_copy)
    assert (tmp_path / "linked/b/weights").stat().st_ino == (tmp_path / "a/b/weights").stat().st_ino

    def link(source, target):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", link)
    shutil.copytree(tmp_path / "a", tmp_path / "copied", copy_function=link_or_copy)
    assert (tmp_path / "copied/b/weights").read_bytes() == b"1234"
    assert (tmp_path / "copied/b/weights").stat().st_ino != (tmp_path / "a/b/weights").stat().st_ino


def test_folders_that_cannot_be_forced_to_disk_are_left_to_it(tmp_path, monkeypatch):
    """Of some network file systems; files can."""
    fsync = os.fsync

    def of_files_only(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", of_files_only)
    assert damage(published(tmp_path)) is None


def test_a_checkout_on_a_machine_without_git_has_no_commit(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_commit() is None
