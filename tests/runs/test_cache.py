"""What is made once in the cache: by one process, whole or not there."""

import threading
import time

import pytest

from alignment.runs.cache import cache_folder, made_once


def test_the_cache_is_where_the_user_has_it(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "repalign"


def test_of_several_that_want_it_one_makes_it(tmp_path):
    made = []

    def make(folder):
        made.append(folder)
        time.sleep(0.1)
        (folder / "file").write_text("whole")

    def want():
        assert (made_once(tmp_path / "cache" / "it", make) / "file").read_text() == "whole"

    threads = [threading.Thread(target=want) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


def test_what_a_kill_or_an_error_left_is_not_taken_for_it(tmp_path):
    def fail(folder):
        (folder / "file").write_text("half")
        raise ValueError("it went wrong")

    with pytest.raises(ValueError, match="it went wrong"):
        made_once(tmp_path / "it", fail)
    assert not (tmp_path / "it").exists()
    (tmp_path / ".it.unfinished").mkdir()
    (tmp_path / ".it.unfinished" / "left over").touch()
    folder = made_once(tmp_path / "it", lambda folder: (folder / "file").write_text("whole"))
    assert [file.name for file in folder.iterdir()] == ["file"]
