"""What a stage is given, and what it hands back of rows that it could not use."""

import pytest

from alignment.inputs.job import Job
from alignment.runs.manifest import Rows
from alignment.runs.ranks import Ranks
from alignment.runs.run_files import QUARANTINE, RunDir


@pytest.mark.parametrize("rank", [0, 1])
def test_rows_that_are_set_aside_are_counted_on_every_rank_and_written_by_the_main_one(tmp_path, rank):
    out = tmp_path / "work" / "out"
    out.mkdir(parents=True)
    job = Job(None, RunDir(tmp_path), out, Ranks(rank, 2))
    assert job.set_aside([{"source": "a", "line": 3, "reason": "b"}], read=5) == Rows(5, 4, 1)
    files = {path.name: path.read_text() for path in out.iterdir()}
    assert files == ({QUARANTINE: '{"line": 3, "reason": "b", "source": "a"}\n'} if job.ranks.main else {})
    assert job.work == tmp_path / "work"
