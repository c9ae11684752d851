"""The page as a run leaves it: what is no result at the top alone, and nothing lost where it can't be written."""

import json
from pathlib import Path

from alignment.run import run_recipe
from alignment.runs.run_files import RunDir
from alignment.settings.compose import compose_config
from alignment.stages import report
from tests.reports.test_page import blocks


def inspected(folder: Path, *more: str) -> RunDir:
    run = RunDir(folder)
    settings = ["+recipe=inspect", "data.pairs=20", "data.heldout=10", f"run.dir={folder}", *more]
    run_recipe(compose_config(settings))
    return run


def test_what_is_no_result_is_in_the_page_at_the_top_alone(tmp_path, capsys):
    run = inspected(tmp_path / "a")
    assert f"page                  {run.page_at_top}" in capsys.readouterr().out
    own, top = blocks(run.page.read_text()), blocks(run.page_at_top.read_text())
    assert "outside" not in own and top.keys() - own.keys() == {"outside"}
    outside = json.loads(top["outside"])
    assert (
        outside["seconds"].keys() == outside["memory"].keys() == {"inspect", "report"}
        and "recipe: inspect" in outside["settings"]
    )
    told = json.loads(own["run"])
    assert [stage["name"] for stage in told["stages"]] == ["inspect"] and told["verdict"]["state"] == "none"
    assert told["tables"] == run.tables.read_text()


def test_a_page_that_can_not_be_written_takes_nothing_with_it(tmp_path, capsys, monkeypatch):
    def write(*arguments):
        raise ZeroDivisionError("of a mistake of ours")

    monkeypatch.setattr(report, "write_page", write)
    run = inspected(tmp_path / "run")
    assert (
        "the page could not be written, everything else was: report/page_error.txt says why" in capsys.readouterr().out
    )
    assert json.loads(run.report.read_text())["recipe"] == "inspect" and run.tables.exists()
    assert "ZeroDivisionError: of a mistake of ours" in (run.page.parent / "page_error.txt").read_text()
    assert not run.page_at_top.exists()
