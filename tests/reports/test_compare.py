"""Runs side by side: a row for each, a column for each headline figure, and errors in a line."""

from pathlib import Path

import pytest

from alignment.reports.compare import comparison, headlines, main
from alignment.reports.tables import as_text
from alignment.runs import artifacts
from alignment.runs.run_files import RunDir


def rate(*per_seed: float, n: int = 50) -> dict:
    return {"mean": sum(per_seed) / len(per_seed), "ci95": [None, None], "n": n, "per_seed": list(per_seed)}


def report(folder: Path, **parts) -> RunDir:
    run = RunDir(folder)
    artifacts.write_json(run.report, parts)
    return run


def policies(toxic: float) -> dict:
    others = {"over_refusal": rate(0.0), "helpful_rate": rate(1.0)}
    return {"cdpo_star": {name: {"toxic_rate": rate(toxic), **others} for name in ("same", "objects")}}


def lines(folders: list[Path]) -> list[str]:
    return [" ".join(line.split()) for line in as_text(comparison(folders)).splitlines() if "─" not in line]


def test_a_row_for_each_run_and_a_table_for_every_four_figures(tmp_path):
    """Two sets of fifty prompts are a hundred."""
    gain = {"none": {"all pairs": rate(0.05)}}
    report(tmp_path / "seed=0", policy=policies(0.1), reward_model={"none": {"accuracy": rate(0.5)}, "gain": gain})
    report(tmp_path / "seed=1", policy=policies(0.2))
    folders = [tmp_path / name for name in ("seed=0", "seed=1", "seed=2")]
    shown, heads = lines(folders), [[str(column.header) for column in table.columns] for table in comparison(folders)]
    assert heads == [
        ["run", "RM, none: % right\nn = 50", "RM: gain over none, points\nn = 50",
         "cdpo_star: toxic, %\nn = 100", "cdpo_star: refuses harmless, %\nn = 100"],
        ["run", "cdpo_star: helpful, %\nn = 100"],
    ]  # fmt: skip
    assert any(line.startswith("seed=0 50.0 +5.0 10.0 [5.5, 17.4]") for line in shown)
    assert any(line.startswith("seed=1 20.0 [13.3, 28.9]") for line in shown)
    assert shown.count("seed=2 no report yet") == 2


def test_where_n_differs_it_stands_in_the_cells(tmp_path):
    for name, n in (("a", 40), ("b", 8)):
        report(tmp_path / name, reward_model={"none": {"accuracy": rate(0.5, n=n)}})
    shown = lines([tmp_path / "a", tmp_path / "b"])
    assert "a 50.0 (40)" in shown and "b 50.0 (8*)" in shown and "fewer than 30" in " ".join(shown)


def test_a_card_gives_the_rates_of_its_picture_for_the_last_system(tmp_path):
    run = report(tmp_path / "a")
    number = {"metric": "toxic_rate", "system": "after", "set": "own", "judge": "guard", "category": None, "value": 0.5,
              "interval": [0.25, 0.75], "n": 8}  # fmt: skip
    others = [{**number, "system": "before"}, {**number, "category": "fraud"}, {**number, "metric": "words"}]
    artifacts.write_json(
        run.scorecard, {"systems": [{"name": "before"}, {"name": "after"}], "numbers": [number, *others]}
    )
    assert headlines(run) == {"toxic answers on own by guard, %": ("50.0  [25.0, 75.0]", 8)}
    assert any("8*" in line for line in lines([tmp_path / "a"]))


def test_margins_and_the_best_of_n(tmp_path):
    annotation = {"ranked_right": {"mean": 0.5, "ci95": [0.25, 0.75]}, "pairs": 40, "gap": "given", "gaps": 30,
                  "spearman_given": 0.25}  # fmt: skip
    best = {"toxic_rate": 0.125, "ci95": {"toxic_rate": [0.0, 0.25]}, "prompts": {"toxic_rate": 300}}
    run = report(tmp_path, annotation=annotation, best_of_n={"hybrid": {"4": best, "16": best}})
    assert headlines(run) == {
        "margins as labelled, %": ("50.0  [25.0, 75.0]", 40), "Spearman with given": ("0.25", 30),
        "best of 16 by hybrid: toxic, %": ("12.5  [0.0, 25.0]", 300),
    }  # fmt: skip


def test_runs_of_one_name_are_told_apart(tmp_path):
    for folder in ("a/cdpo", "b/cdpo"):
        report(tmp_path / folder, policy=policies(0.1))
    folders = [tmp_path / "a/cdpo", tmp_path / "b/cdpo"]
    assert [str(cell) for cell in comparison(folders)[0].columns[0].cells] == [str(folder) for folder in folders]


@pytest.mark.parametrize(("parts", "line"), [
    (None, "compare: {folder} has no report.json; give the folder"), ({"hybrid": {"soft": 0.5}}, "an earlier version"),
])  # fmt: skip
def test_what_can_not_be_compared_is_said_in_a_line(tmp_path, capsys, parts, line):
    if parts is not None:
        report(tmp_path, **parts)
    assert main([str(tmp_path)]) == 2 == main([])
    assert line.format(folder=tmp_path) in capsys.readouterr().err
