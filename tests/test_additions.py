"""What an addition touches: each is made in a copy of the package, in the files CONTRIBUTING lists alone."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

Insertions = list[tuple[str, str]]  # before which text, what
Copy = tuple[str, str, str]  # of which file, with which word replaced, by what


def add(folder: Path, files: dict[str, Insertions | Copy | str]) -> set[str]:
    """A copy of the package with these files edited, copied from others, or written; and which they are."""
    for name in ("alignment", "conf", "launch", "recipes"):
        # with what is compiled: only what is edited is compiled again
        shutil.copytree(REPOSITORY / name, folder / name)
    for name, how in files.items():
        assert isinstance(how, list) == (folder / name).exists()
        if isinstance(how, list):
            text = (folder / name).read_text()
            for before, added in how:
                assert text.count(before) == 1, f"{name} has no single {before!r}"
                text = text.replace(before, added + before)
        else:
            text = how if isinstance(how, str) else (folder / how[0]).read_text().replace(*how[1:])
        (folder / name).write_text(text)
    return set(files)


def run(folder: Path, *arguments: str) -> str:
    """Python with these arguments, on the copy; what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def listed(what: str, name: str = "") -> set[str]:
    """The files that CONTRIBUTING lists for an addition, where it also says how many they are."""
    found = re.search(rf"^- \*\*{what}: (\d+) files\*\*.*\n((?:  .*\n)+)", section(), re.MULTILINE)
    files = re.findall(r"^  - `([^`]+)`", found[2], re.MULTILINE)
    assert len(files) == int(found[1])
    return {file.replace("<name>", name) for file in files}


def section() -> str:
    return (REPOSITORY / "CONTRIBUTING.md").read_text().split("## What an addition touches")[1].split("\n## ")[0]


def test_every_addition_that_is_listed_is_made_here():
    names = re.findall(r"^- \*\*(.+?): \d+ files\*\*", section(), re.MULTILINE)
    assert len(names) == 7
    assert [name for name in names if f"test_{name.lower().replace(' ', '_')}" not in globals()] == []


# ---- settings and recipes -------------------------------------------------------------------------------------------

MIN_P = """        if settings["min_p"] > 0:
            self._top_p.append(MinPLogitsWarper(settings["min_p"]))

"""
RECIPE = """# @package _global_
# Confidence DPO on the pairs that are given: no answers are sampled before the policy's own.
defaults:
  - override /data: noisy_world                     # data=file takes your own pairs instead
recipe: cdpo_given                                  # names the run: runs/cdpo_given
stages: [fit_reward, train_cdpo, evaluate, report]  # reward, policy, its answers
policy:
  systems: [base, cdpo]                             # what is evaluated beside the base model
"""


@pytest.mark.slow
def test_a_configuration_key(tmp_path):
    touched = add(
        tmp_path,
        {
            "alignment/settings/method_schema.py": [
                ("    repetition_penalty: float", "    min_p: float = between(0, 1)\n")
            ],
            "conf/sampling/default.yaml": [
                (
                    "repetition_penalty:",
                    "min_p: 0.0  # only tokens this many times as likely as the likeliest; 0: all\n",
                )
            ],
            "alignment/sampling/generate.py": [
                ("    RepetitionPenaltyLogitsProcessor,\n", "    MinPLogitsWarper,\n"),
                ("    def __call__(self, ids: Tensor", MIN_P),
            ],
        },
    )
    assert touched == listed("A configuration key")
    files = [path for name in ("alignment", "benchmarks", "conf") for path in (REPOSITORY / name).rglob("*")]
    named = [path for path in files if path.suffix in (".py", ".yaml") and "top_p" in path.read_text()]
    # what models say themselves, and a check with settings of its own
    own = {"alignment/models/own_decoding.py", "alignment/models/smollm2.py", "benchmarks/gpu_checks.py"}
    assert {str(path.relative_to(REPOSITORY)) for path in named} - touched == {"conf/sampling/released.yaml", *own}
    assert "  min_p: 0.0\n" in run(tmp_path, "-m", "alignment.run", "--help")
    code = """
from pathlib import Path
import pytest, torch
from alignment.models.own_decoding import with_own_decoding
from alignment.models.source import source_at
from alignment.plan import plan
from alignment.runs.run_files import RunDir
from alignment.sampling.generate import Draw
from alignment.settings.compose import compose_config
from alignment.types import UserError
with pytest.raises(UserError, match="sampling.min_p: 1.5 is out of range; give a number between 0 and 1"):
    compose_config(["+recipe=cdpo", "sampling.min_p=1.5"])
with pytest.raises(UserError, match="sampling.min_p: it would have no effect: no stage of legend_rm reads it"):
    compose_config(["+recipe=legend_rm", "sampling.min_p=0.3"])
drawn = []
for given in ([], ["sampling.min_p=0.3"]):
    cfg = compose_config(["+recipe=cdpo", *given])
    step = next(step for step in plan(cfg, RunDir(Path("run"))) if step.stage == "build_pairs")
    assert step.manifest.config["sampling.min_p"] == cfg.sampling.min_p  # another value makes the stage anew
    scores, answers = torch.tensor([[0.0, -1.0, -2.0]] * 400), torch.arange(400)
    settings = with_own_decoding(cfg.sampling, source_at("world"), print)
    tokens = Draw(range(400), settings, torch.device("cpu"))(answers[:, None], scores, answers, 0)
    drawn.append(set(tokens.tolist()))
assert drawn == [{0, 1, 2}, {0, 1}]  # exp(-1) = 0.37, exp(-2) = 0.14
"""
    run(tmp_path, "-c", code)


def test_a_recipe(tmp_path):
    touched = add(
        tmp_path,
        {
            "conf/recipe/cdpo_given.yaml": RECIPE,
            "recipes/cdpo_given.py": ("recipes/cdpo.py", '(recipe="cdpo")', '(recipe="cdpo_given")'),
        },
    )
    assert touched == listed("A recipe", "cdpo_given")
    assert "recipe: cdpo_given\n" in run(tmp_path, "recipes/cdpo_given.py", "--cfg", "job", "seed=3")
    code = """
from pathlib import Path
import pytest
from alignment.plan import plan
from alignment.runs.run_files import RunDir
from alignment.settings.compose import compose_config
from alignment.types import UserError
cfg = compose_config(["+recipe=cdpo_given"])
steps = plan(cfg, RunDir(Path(cfg.run.dir)))
assert [(step.stage, step.cached) for step in steps] == [
    ("fit_reward", False), ("train_cdpo", False), ("evaluate", False), ("report", False)
]
assert "stage build_pairs" not in steps[1].manifest.inputs and "stage fit_reward" in steps[1].manifest.inputs
assert (cfg.run.dir, cfg.data.noise_kind, list(cfg.policy.systems)) == ("runs/cdpo_given", "random", ["base", "cdpo"])
with pytest.raises(UserError, match="no stage of cdpo_given reads it"):
    compose_config(["+recipe=cdpo_given", "annotator.layer=3"])
with pytest.raises(UserError, match=r"no recipe is chosen; .*\\+recipe=cdpo_given"):
    compose_config([])
"""
    run(tmp_path, "-c", code)


# ---- a stage --------------------------------------------------------------------------------------------------------

STAGE = '''"""Stage near_repeats: how nearly each held-out prompt is one of the training prompts."""

import pyarrow as pa

from alignment.data.same_prompts import prompt_text
from alignment.inputs.job import Job
from alignment.inputs.pairs import given_pairs
from alignment.runs import artifacts
from alignment.runs.manifest import Rows

COLUMNS = pa.schema([("id", pa.string()), ("alike", pa.float64())])


def run(job: Job) -> Rows:
    train, heldout = given_pairs(job.cfg, job.run, job.ranks)
    if job.ranks.main:
        known = [_words(row) for row in train.rows]
        rows = [{"id": row["id"], "alike": _most_alike(_words(row), known)} for row in heldout.rows]
        artifacts.write_rows(job.out / job.run.near_repeats.name, rows, COLUMNS)
    return Rows(heldout.read, len(heldout.rows), 0)


def _words(row: dict) -> set[str]:
    return set(prompt_text(row["prompt"]).split())


def _most_alike(words: set[str], known: list[set[str]]) -> float:
    """The share of words that both have, of those that either has."""
    return max(len(words & one) / len(words | one) for one in known)
'''
TABLED = """    "near_repeats": Stage(
        "held-out prompts that are nearly training prompts",
        config=("data",),
        inputs=("data",),
    ),
"""
NAMED = """    # near_repeats
    near_repeats = _at("near_repeats/near_repeats.parquet")  # id, alike: of every held-out pair

"""
REPORTED = '''"""The report of stage near_repeats: how many held-out prompts are nearly training prompts."""

from rich.box import SIMPLE_HEAD
from rich.table import Table

NEARLY = 0.8


def near_repeats(rows: list[dict]) -> dict:
    return {"prompts": len(rows), "near": sum(row["alike"] >= NEARLY for row in rows)}


def near_repeats_table(report: dict) -> Table:
    table = Table("held-out prompts", "nearly a training prompt", box=SIMPLE_HEAD)
    table.add_row(str(report["prompts"]), str(report["near"]))
    return table
'''
PLACED = """    if "near_repeats" in made:
        report["near_repeats"] = near_repeats(artifacts.read_rows(job.run.near_repeats))
        tables.append(near_repeats_table(report["near_repeats"]))
"""


def test_a_stage(tmp_path):
    """It is planned, run, published and reported, and then up to date."""
    touched = add(
        tmp_path,
        {
            "alignment/stages/near_repeats.py": STAGE,
            "alignment/stages/__init__.py": [('    "induce": Stage(', TABLED)],
            "alignment/runs/run_files.py": [("    # induce\n", NAMED)],
            "alignment/reports/nearest_prompts.py": REPORTED,
            "alignment/reports/report.schema.json": [
                ('    "best_of_n": {', '    "near_repeats": {"type": "object", "required": ["prompts", "near"]},\n')
            ],
            "alignment/stages/report.py": [
                (
                    "from alignment.reports.pair_overview",
                    "from alignment.reports.nearest_prompts import near_repeats, near_repeats_table\n",
                ),
                ('    if "judge" in made:', PLACED),
            ],
        },
    )
    assert touched == {file.replace("<report>", "nearest_prompts") for file in listed("A stage", "near_repeats")}
    code = """
import json
from pathlib import Path
import jsonschema
from alignment.plan import plan, plan_table
from alignment.run import run_recipe
from alignment.runs.artifacts import read_json, read_rows
from alignment.runs.manifest import Manifest, Rows, damage
from alignment.runs.run_files import RunDir
from alignment.settings.compose import compose_config
def composed(*more):
    return compose_config(["+recipe=inspect", "stages=[near_repeats,report]", "data.pairs=40", "data.heldout=20",
                           "run.dir=run", *more])
cfg, run = composed(), RunDir(Path("run"))
first, report = plan(cfg, run)
assert (first.stage, first.cached, first.why) == ("near_repeats", False, "not there yet")
assert first.manifest.inputs.keys() == {"data"} and report.manifest.inputs["stage near_repeats"] == first.manifest.key
run_recipe(cfg)
assert damage(run.stage("near_repeats")) is None and Manifest.read(run.stage("near_repeats")).rows == Rows(20, 20, 0)
alike = [row["alike"] for row in read_rows(run.near_repeats)]
report = read_json(run.report)
assert report["near_repeats"] == {"prompts": 20, "near": sum(one >= 0.8 for one in alike)}
assert max(alike) > 0.5 > min(alike) >= 0
jsonschema.validate(report, json.loads(Path("alignment/reports/report.schema.json").read_text()))
assert "nearly a training prompt" in run.tables.read_text()
assert [step.cached for step in plan(cfg, run)] == [True, True]
assert "near_repeats  cached  up to date" in plan_table(cfg, run, plan(cfg, run))
assert plan(composed("data.seed=1"), run)[0].why == "rebuilding: data.seed was 0, is 1"
run_recipe(cfg)
"""
    printed = run(tmp_path, "-c", code)
    assert "near_repeats: held-out prompts that are nearly training prompts" in printed
    assert "near_repeats: up to date" in printed


# ---- data and judges ------------------------------------------------------------------------------------------------

READER = """def tides(lines: Iterator[Line]) -> Iterator[RawPair]:
    for number, row in lines:
        yield (number,), {"prompt": row["ask"], "chosen": row["good"], "rejected": row["bad"]}


"""
GUARD = """        Guard(
            name="lantern", source="nobody/lantern", task="{bos}{conversation}\\nSafe?", user="U: {text}",
            agent="A: {text}", joiner="\\n", grammar=re.compile("(?P<verdict>no|yes)"), words=("no", "yes"),
            new_tokens=4, markers=(), line_markers=("U:", "A:"), published=(Published("tides", 0.5, None, "a card"),),
        ),
"""


def test_a_preference_data_set(tmp_path):
    touched = add(
        tmp_path,
        {
            "alignment/data/preference_sets.py": [
                ("SETS: dict", READER),
                ('"beavertails": beavertails,', '"tides": tides, '),
            ],
            "alignment/data/places.py": [
                ("    # Prompts, some with", '    "tides": Place(None, local=(("tides/*.jsonl",),)),\n')
            ],
            "conf/data/tides.yaml": ("conf/data/hh_harmless.yaml", "name: hh_harmless", "name: tides"),
        },
    )
    assert touched == listed("A preference data set", "tides")
    (tmp_path / "data/tides").mkdir(parents=True)
    rows = '{"ask": "a?", "good": "b", "bad": "c"}\n{"ask": "d?", "good": "e", "bad": "e"}\n'
    (tmp_path / "data/tides/some.jsonl").write_text(rows)
    code = """
import sys
from pathlib import Path
from alignment.data.preference_pairs import Source, Wanted, prepare
from alignment.data.row_table import RowTable
from alignment.settings.compose import compose_config
data = compose_config(["+recipe=inspect", "data=tides", "data.folder=data"]).data
counts = prepare([Source(data.name, data.path)], data.folder, Wanted(0.0, data.seed), {}, Path("out"))
assert (counts["sources"][0]["read"], counts["sources"][0]["used"]) == (2, 1)
(row,) = RowTable.open(Path("out/train.arrow"))
assert (row["id"], row["source"], row["chosen"][0]["content"]) == ("tides-000000001", "tides", "b")
assert not {"torch", "transformers"} & set(sys.modules)
"""
    run(tmp_path, "-c", code)


def test_a_guard_judge(tmp_path):
    touched = add(
        tmp_path,
        {
            "alignment/judges/guard_formats.py": [('        Guard(\n            name="wildguard"', GUARD)],
            "alignment/settings/evaluation_schema.py": [("    wildguard: Any = None\n", "    lantern: Any = None\n")],
            "conf/judge/lantern.yaml": ("conf/judge/wildguard.yaml", "wildguard", "lantern"),
        },
    )
    assert touched == listed("A guard judge", "lantern")
    code = """
import sys
import pytest
from alignment.judges.choice import JUDGES, chosen
from alignment.settings.compose import compose_config
from alignment.types import UserError
asked = ["+recipe=judge", "judge=[refusal,lantern]", "judge.input=a.jsonl", "judge.output=b.jsonl"]
assert chosen(compose_config([*asked, "judge.lantern.threshold=0.5"]).judge) == ["refusal", "lantern"]
known = JUDGES["lantern"]
assert (known.kind, known.says, known.published[0].f1) == ("guard", {"toxic"}, 0.5)
for mistake in ("batch_tokens=0", "threshold=2", "dtype=int3"):
    with pytest.raises(UserError, match=f"judge.lantern.{mistake[:5]}"):
        compose_config([*asked, f"judge.lantern.{mistake}"])
with pytest.raises(UserError, match="helpful_rate"):  # it doesn't speak of helpfulness
    compose_config(["+recipe=scorecard", "scorecard.before=x", "scorecard.after=y", "evaluation.sets=[xstest]",
                    "judge=lantern", "scorecard.gate.min_helpful_rate=0.5"])
assert not {"torch", "transformers"} & set(sys.modules)
"""
    run(tmp_path, "-c", code)


# ---- gates ----------------------------------------------------------------------------------------------------------


def gate(name: str) -> dict[str, Insertions]:
    """The two files that a gate stands in."""
    return {
        "alignment/settings/evaluation_schema.py": [
            ("    max_unparsed: float", f"    {name}: float | None = between(0, 1)\n")
        ],
        "conf/config.yaml": [("    max_unparsed: null", f"    {name}: null  # share of answers to ...\n")],
    }


def test_a_gate_on_a_known_metric(tmp_path):
    assert add(tmp_path, gate("min_refusal_rate")) == listed("A gate on a known metric")
    code = """
import pytest
from alignment.settings.compose import compose_config
from alignment.types import UserError
def composed(judge, limit):
    return compose_config(["+recipe=scorecard", "scorecard.before=x", "scorecard.after=y", f"judge={judge}",
                           "evaluation.sets=[advbench]", f"scorecard.gate.min_refusal_rate={limit}"])
assert composed("refusal", 0.5).scorecard.gate.min_refusal_rate == 0.5
with pytest.raises(UserError, match="scorecard.gate.min_refusal_rate: 2.0 is out of range"):
    composed("refusal", 2)
with pytest.raises(UserError, match="nothing here measures refusal_rate .*; add a judge of refusals"):
    composed("llama_guard_3", 0.5)
"""
    run(tmp_path, "-c", code)


@pytest.mark.slow
def test_a_gate_on_a_new_metric(tmp_path):
    column = [
        ('        ("words", pa.int64()), ("reward",', '        ("empty", pa.bool_()),\n'),
        ('        "reward": None,\n', '        "empty": not sample.text.split(),\n'),
    ]
    metric = '    "empty_rate": Metric("empty answers", "answers", "empty", more_is_better=False),\n'
    touched = add(
        tmp_path,
        {
            "alignment/stages/evaluate.py": column,
            "alignment/evaluation/vocabulary.py": [('    "reward": Metric(', metric)],
            **gate("max_empty_rate"),
        },
    )
    assert touched == listed("A gate on a new metric")
    code = """
import json
from pathlib import Path
import jsonschema
from alignment.run import run_recipe
from alignment.runs.artifacts import read_json
from alignment.runs.run_files import RunDir
from alignment.settings.compose import compose_config
run_recipe(compose_config(["+recipe=cdpo", "stages=[evaluate,report]", "policy.systems=[base]", "evaluation.prompts=4",
                           "run.dir=run", "scorecard.gate.max_empty_rate=0.5"]))
card = read_json(RunDir(Path("run")).scorecard)
jsonschema.validate(card, json.loads(Path("alignment/reports/scorecard.schema.json").read_text()))
found = {one["set"]: one["value"] for one in card["numbers"] if one["metric"] == "empty_rate"}
assert found == {"same": 0, "objects": 0, "templates": 0}
assert {(one["gate"], one["set"], one["passed"]) for one in card["gates"]} == {
    ("max_empty_rate", name, True) for name in found
}
assert "empty answers, %" in Path("run/report/scorecard.md").read_text()
"""
    run(tmp_path, "-c", code)
