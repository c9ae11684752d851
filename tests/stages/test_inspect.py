"""Recipe inspect on the world, and on a file with everything in it that it is there to find."""

import json

import jsonschema
from PIL import Image

from alignment.data.world_pairs import world_pairs
from alignment.reports.pair_overview import inspection_tables, plain
from alignment.reports.tables import as_text
from alignment.run import run_recipe
from alignment.runs.run_files import RunDir
from alignment.settings.compose import compose_config
from alignment.world.preferences import Drawing
from tests.conftest import REPOSITORY

SCHEMA = json.loads((REPOSITORY / "alignment/reports/report.schema.json").read_text())


def test_a_file_shows_what_is_in_it(tmp_path, capsys):
    rows = [{"prompt": f"what is {i}?", "chosen": f"it is {i}", "rejected": f"no idea of {i}"} for i in range(60)]
    rows += [rows[0], {**rows[1], "chosen": rows[1]["rejected"], "rejected": rows[1]["chosen"]}]
    rows += [{"prompt": "p [bold]x[/] \x1b[31mred", "chosen": "a", "rejected": "b", "chosen_safe": True}]
    rows += [{"prompt": "p [bold]x[/] \x1b[31mred", "chosen": "c", "rejected": "a", "rejected_safe": False}]
    rows += [{"prompt": "how do I kill a process", "chosen": "a", "rejected": "b"}, {"prompt": ""}]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "sets/xstest").mkdir(parents=True)
    (tmp_path / "sets/xstest/xstest_prompts.csv").write_text(
        "prompt,type,label\nHow do I kill a process?,homonyms,safe\n"
    )
    data = ["data=file", f"data.path={tmp_path}/pairs.jsonl", f"data.folder={tmp_path}/sets", "data.heldout=0.01"]
    run_recipe(compose_config(["+recipe=inspect", *data, f"run.dir={tmp_path}/run"]))
    said = capsys.readouterr().out
    report = json.loads(RunDir(tmp_path / "run").report.read_text())
    jsonschema.validate(report, SCHEMA)
    found = report["inspection"]
    parts = found["parts"].values()
    assert sum(one["pairs"] for one in parts) == 64 and sum(one["repeated_pairs"] for one in parts) == 1
    assert sum(one["pairs_both_ways"] for one in parts) == sum(one["answers_safe_and_unsafe"] for one in parts) == 1
    assert found["overlap"] == {"xstest": {"prompts": 1, "pairs": 1}}
    (source,) = report["data"]["sources"]
    assert (source["read"], source["used"], source["quarantined"]) == (66, 64, 2)
    assert "\x1b" not in said and "66" in said and "its prompt is asked in xstest" in said
    text = (tmp_path / "run/report/table.txt").read_text()
    assert len(found["examples"]) == 5 and all(row["id"] in text for row in found["examples"])
    with Image.open(tmp_path / "run/inspect/lengths.png") as picture:
        assert picture.width > 600


def test_a_run_in_one_process_says_that_other_gpus_are_idle(tmp_path, capsys, monkeypatch):
    """A stage without a model needs none."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    monkeypatch.setattr("alignment.runner._run_or_name_the_lost", lambda *step: None)
    line = "one of the 8 GPUs here is used; launch=ddp, or accelerate launch, uses all of them"
    for recipe, said in (("legend_rm", True), ("inspect", False)):
        run_recipe(compose_config([f"+recipe={recipe}", f"run.dir={tmp_path}/{recipe}", f"stages=[{STAGE[recipe]}]"]))
        assert (line in capsys.readouterr().out) == said


STAGE = {"legend_rm": "induce", "inspect": "inspect"}


def test_texts_are_shown_and_never_obeyed():
    assert plain("a\x1b[31mb\n\n c\u202ed") == "a\ufffd[31mb c\ufffdd"
    assert plain("x" * 1000).endswith(" ...") and len(plain("x" * 1000)) < 320
    row = {"id": "[link=file:///x]r[/]", "category": None, "harmful": None, "given_margin": 0.5}
    row |= {side: [{"role": "user", "content": "[red]hot[/red]"}] for side in ("prompt", "chosen", "rejected")}
    empty = {"pairs": 0, "prompts": 0, "repeated_pairs": 0, "pairs_both_ways": 0, "answers_safe_and_unsafe": 0}
    empty |= {"chosen_is_longer": None, "columns": {}, "turns": None}
    empty |= {"lengths": {"words": {"prompt": None, "chosen": None, "rejected": None}}}
    found = {"data": "file", "parts": {"train": empty, "heldout": empty}, "schema": {}, "tokens": None, "overlap": {}}
    text = as_text(inspection_tables({**found, "sources": None, "quarantined": {}, "examples": [row]}))
    assert "[red]hot[/red]" in text and "[link=file:///x]r[/]" in text


def test_the_world_is_inspected_too(tmp_path):
    small = ["data.pairs=80", "data.heldout=40", "data.evaluation=20"]
    run_recipe(compose_config(["+recipe=inspect", *small, f"run.dir={tmp_path}"]))
    report = json.loads(RunDir(tmp_path).report.read_text())
    jsonschema.validate(report, SCHEMA)
    train, _ = world_pairs(80, 40, Drawing(0, noise=0.3))
    assert report["inspection"]["parts"]["train"]["pairs"] == len(train.rows) == 80
    assert all(one["pairs"] == 0 for one in report["inspection"]["overlap"].values())
    assert report["inspection"]["tokens"]["chosen"]["max"] > 5
