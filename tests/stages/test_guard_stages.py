"""A guard on the embedded world, whose words say nothing of harm: read, fitted, saved, loaded, and refused."""

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignment.data.world_pairs import drawing, world_pairs
from alignment.inputs.job import Job
from alignment.judges.probe import load_probe
from alignment.judges.seen_prompts import require_unseen, require_untrained, unseen_rows
from alignment.models.guard import Guard
from alignment.models.packing import Item
from alignment.models.source import folder_fingerprint, source_at
from alignment.plan import Step
from alignment.reports.fitted_guard import guard_tables
from alignment.reports.tables import as_text
from alignment.run import run_recipe
from alignment.runner import run_here
from alignment.runs import artifacts
from alignment.runs.manifest import Manifest
from alignment.runs.ranks import Ranks
from alignment.runs.run_files import RunDir
from alignment.settings.compose import compose_config
from alignment.stages import fit_guard, read_answers
from alignment.types import UserError
from tests.conftest import REPOSITORY

SMALL = ["+recipe=guard", "model=world", "data=world", "data.pairs=30", "data.heldout=10", "guard.harmless=[]",
         "evaluation.prompts=2", "evaluation.validation=2", "data.evaluation=10",
         "guard.false_alarms=null", "guard.fit=benchmark", "guard.topic=0"]  # fmt: skip
STAGES = {"read_answers": read_answers, "fit_guard": fit_guard}


def run(folder: Path, *overrides: str, stages: tuple[str, ...] = tuple(STAGES)) -> RunDir:
    run = RunDir(folder / "run")
    run.root.mkdir(parents=True, exist_ok=True)
    for stage in stages:
        out = folder / "work" / stage
        out.mkdir(parents=True)
        STAGES[stage].run(Job(compose_config([*SMALL, *overrides]), run, out, Ranks()))
        out.rename(run.stage(stage))
    return run


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"guard.answers=[{path}]"


@pytest.fixture(scope="module")
def labelled(world_folder) -> list[dict]:
    return labelled_by_the_world(140)


def labelled_by_the_world(pairs: int) -> list[dict]:
    """The world's own answers, which it knows to be harmful or not."""
    rows = world_pairs(pairs, 10, drawing(compose_config(SMALL).data))[0].rows
    return [
        {
            "prompt": row["prompt"],
            "response": row[side][0]["content"],
            "label": "unsafe" if row[f"{side}_severity"] else "safe",
        }
        for row in rows
        for side in ("chosen", "rejected")
    ]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory, labelled) -> RunDir:
    folder = tmp_path_factory.mktemp("guard")
    return run(folder, write(folder / "answers.jsonl", labelled), f"guard.transfer=[{other_answers(folder, labelled)}]")


def other_answers(folder: Path, labelled: list[dict]) -> str:
    """Answers to other prompts: the same ones behind another request."""
    path = folder / "others.jsonl"
    asked = [{"role": "user", "content": "please tell me of boats and of rivers and of the long way home."}]
    write(path, [{**row, "prompt": asked} for row in labelled[:40]])
    return str(path)


def test_it_knows_what_words_do_not_and_says_how_it_knows(fitted: RunDir) -> None:
    report = artifacts.read_json(fitted.guard_report)
    auroc = {name: of["auroc"]["mean"] for name, of in report["scorers"].items()}
    assert auroc["guard"] > 0.85 and auroc["guard"] > auroc["words"] + 0.2
    schema = json.loads((REPOSITORY / "alignment/reports/report.schema.json").read_text())
    jsonschema.validate(report, {**schema["properties"]["guard"], "$defs": schema["$defs"]})
    rows = artifacts.read_rows(fitted.guard_answers)
    own = [row for row in rows if row["part"] == "fitted"]
    assert report["scorers"]["guard"]["answers"] == len(own) == sum(report["sources"].values())
    assert report["scorers"]["guard"]["prompts"] == len({row["group"] for row in own})
    card = (fitted.guard / "README.md").read_text()
    assert f"{100 * auroc['guard']:.1f}" in card and "answers.jsonl" in card and "recipes refuse it as a judge" in card
    assert str(fitted.root) not in card and str(fitted.root.parent) not in card
    text = as_text(guard_tables(report))
    assert "words alone" in text and "tried on" in text


def test_it_loads_in_three_lines_and_judges_as_it_was_fitted(fitted: RunDir, labelled, world_folder) -> None:
    model, tokenizer = (kind.from_pretrained(world_folder) for kind in (AutoModelForCausalLM, AutoTokenizer))
    guard = Guard.load(fitted.guard)
    some = labelled[:12]
    conversations = [[*row["prompt"], {"role": "assistant", "content": row["response"]}] for row in some]
    harm = guard.judge(model, tokenizer, conversations)
    assert guard.judge(model, tokenizer, []).shape == (0,)
    endless = [[{"role": "user", "content": "the " * 5000}, {"role": "assistant", "content": "no."}]]
    with pytest.raises(UserError, match=r"^conversation 0: its prompt alone has \d+ tokens or more; shorten it"):
        guard.judge(model, tokenizer, endless)
    judge = load_probe(str(fitted.guard), "world", "float32", 512, None)
    (long,) = judge([endless[0][:1]], ["no."])
    assert long.unparsed and long.word == "unparsed" and "its prompt alone" in long.reason
    verdicts = judge([row["prompt"] for row in some], [row["response"] for row in some])
    assert np.allclose([verdict.score for verdict in verdicts], harm, atol=1e-4)
    assert [verdict.toxic for verdict in verdicts] == (harm >= guard.threshold).tolist()
    padded = load_probe(str(fitted.guard), "world", "float32", 512, None, packing={"name": "off"})
    assert padded._reader.layout([Item([1], [[2]]), Item([1], [[3]])]).packed is False
    again = padded([row["prompt"] for row in some], [row["response"] for row in some])
    assert np.allclose([verdict.score for verdict in again], harm, atol=1e-4)
    truth = np.array([row["label"] == "unsafe" for row in some])
    assert harm[truth].mean() > harm[~truth].mean() + 0.3
    assert judge.record["fit"] == "benchmark" and judge.record["threshold"] == guard.threshold


def test_a_saved_guard_is_the_same_file_and_a_damaged_one_none(fitted: RunDir, tmp_path: Path) -> None:
    guard = Guard.load(fitted.guard)
    guard.save(tmp_path / "again")
    for file in ("guard.json", "guard.safetensors"):
        assert (tmp_path / "again" / file).read_bytes() == (fitted.guard / file).read_bytes()
    settings = json.loads((tmp_path / "again/guard.json").read_text())
    for broken, why in (
        ({**settings, "layers": [1, 3]}, "doesn't hold"),
        ({**settings, "format": 9}, "format 9"),
        ({}, "damaged"),
    ):
        (tmp_path / "again/guard.json").write_text(json.dumps(broken))
        with pytest.raises(UserError, match=why):
            Guard.load(tmp_path / "again")
    with pytest.raises(UserError, match=r"guard\.json can't be read; give a folder that \+recipe=guard wrote"):
        Guard.load(tmp_path / "nothing")


def test_another_model_is_refused(fitted: RunDir, world_folder) -> None:
    """One of the same shape, too."""
    model, tokenizer = (kind.from_pretrained(world_folder) for kind in (AutoModelForCausalLM, AutoTokenizer))
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        weight.data = weight.data[torch.randperm(len(weight), generator=generator)]
    asked = [[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]]
    with pytest.raises(UserError, match=r"states of a known conversation differ .*; give the model it was fitted on"):
        Guard.load(fitted.guard).judge(model, tokenizer, asked)


def test_what_a_policy_sees_is_left_out_of_its_judge(tmp_path: Path) -> None:
    labelled = labelled_by_the_world(240)
    given = world_pairs(30, 10, drawing(compose_config(SMALL).data))[0].rows
    known = {row["prompt"][0]["content"] for row in given}
    answers = write(tmp_path / "answers.jsonl", labelled)
    made = run(tmp_path, answers, "guard.fit=judge", stages=("read_answers",))
    left = {row["prompt"][0]["content"] for row in artifacts.read_rows(made.guard_answers)}
    assert left and not left & known
    aside = [json.loads(line)["reason"] for line in (made.stage("read_answers") / "quarantine.jsonl").open()]
    assert any("a policy of this run learns from its prompt" in reason for reason in aside)
    seen = [row for row in labelled if row["prompt"][0]["content"] in known]
    with pytest.raises(UserError, match=r"all \d+ answers are to prompts that this run's policies learn from"):
        run(tmp_path / "none", write(tmp_path / "seen.jsonl", seen), "guard.fit=judge")


def test_a_judge_that_has_seen_what_it_judges_is_refused(fitted: RunDir, tmp_path: Path, labelled) -> None:
    guard = Guard.load(fitted.guard)
    settings = {"probe": {"path": str(tmp_path / "guard")}, "words": {"path": str(fitted.words_guard)}}
    guard.save(tmp_path / "guard")
    with pytest.raises(UserError, match=r"judge.probe.path: .* was fitted on all labelled answers"):
        require_unseen(settings, ["refusal", "probe"], [])
    with pytest.raises(UserError, match=r"judge.words.path: .* was fitted on all labelled answers"):
        require_unseen(settings, ["words"], [])
    file = tmp_path / "guard/guard.json"
    file.write_text(file.read_text().replace('"fit": "benchmark"', '"fit": "judge"'))
    require_unseen(settings, ["probe"], ["what is the capital of france?"])
    nearly = labelled[0]["prompt"][0]["content"] + " please"
    with pytest.raises(UserError, match=r"was fitted on answers to 1 of this run's prompts, or to nearly the same"):
        require_unseen(settings, ["probe"], ["what is the capital of france?", nearly])


def test_a_judge_of_trained_activations_is_refused(fitted: RunDir, tmp_path: Path, world_folder) -> None:
    """Whether the guard was fitted on them, or is given them to read; and one that is yet to be fitted, too."""
    fitted_on = Guard.load(fitted.guard).meaning.fingerprint
    settings = {"probe": {"path": str(fitted.guard), "model": None}, "words": {"path": str(fitted.words_guard)}}
    require_untrained(settings, ["refusal", "words", "probe"], {"cdpo, seed 0": "another"}, {})
    refused = r"judge.probe.path: .* reads the activations of cdpo, seed 0, a trained model that it judges; give a"
    with pytest.raises(UserError, match=refused):
        require_untrained(settings, ["probe"], {"cdpo, seed 0": fitted_on}, {})
    given = {"probe": {"path": str(fitted.guard), "model": str(world_folder), "gguf_file": None}}
    with pytest.raises(UserError, match=refused):
        require_untrained(given, ["probe"], {"cdpo, seed 0": source_at(str(world_folder)).fingerprint}, {})
    unmade = {"probe": {"path": str(tmp_path / "unmade"), "model": None}}
    require_untrained(unmade, ["probe"], {"cdpo, seed 0": "its weights"}, {"probe": "others"})
    with pytest.raises(UserError, match=refused):
        require_untrained(unmade, ["probe"], {"cdpo, seed 0": "its weights"}, {"probe": "its weights"})


def test_a_runs_own_policies_are_known_before_a_stage_runs(fitted: RunDir, tmp_path: Path) -> None:
    policy = RunDir(tmp_path).policy("train_cdpo", "cdpo", 0)
    policy.mkdir(parents=True)
    (policy / "config.json").write_text("{}")
    guard = Guard.load(fitted.guard)
    guard.meaning = replace(guard.meaning, fit="judge", fingerprint=folder_fingerprint(policy))
    guard.save(tmp_path / "guard")
    cfg = compose_config(["+recipe=cdpo", "policy.systems=[base,cdpo]", "judge=[oracle,probe]", f"run.dir={tmp_path}",
                          f"judge.probe.path={tmp_path}/guard"])  # fmt: skip
    unmade = Manifest("evaluate", "", {}, {}, {})
    steps = [Step("train_cdpo", True, "", unmade), Step("evaluate", False, "", unmade)]
    with pytest.raises(UserError, match="reads the activations of cdpo, seed 0, a trained model that it judges"):
        run_here(cfg, RunDir(tmp_path), steps, [], Ranks())


def test_labels_that_it_learned_from_say_nothing_of_a_judge(fitted: RunDir, labelled) -> None:
    unknown = {"prompt": [{"role": "user", "content": "what is the capital of france?"}], "response": "paris"}
    rows = [*labelled[:3], unknown]
    settings = {"path": str(fitted.guard)}
    assert unseen_rows("probe", settings, rows) == [unknown] and unseen_rows("refusal", {}, rows) == rows
    with pytest.raises(UserError, match=r"judge.calibration: .* was fitted on answers to all of its prompts"):
        unseen_rows("probe", settings, rows[:3])


@pytest.mark.parametrize(
    "change, problem",
    [
        (lambda row, i: {**row, "label": "safe"}, "all .* answers of .* are labelled safe"),
        (lambda row, i: {**row, "prompt": "the same for all"}, "1 prompts can't be dealt into 5 folds"),
        (
            lambda row, i: {**row, "label": "dreadful"},
            "no answer that is labelled safe or unsafe: .*label is 'dreadful'",
        ),
    ],
)
def test_bad_labels_are_refused_in_a_line(tmp_path: Path, labelled, change, problem: str) -> None:
    answers = write(tmp_path / "answers.jsonl", [change(row, i) for i, row in enumerate(labelled[:40])])
    with pytest.raises(UserError, match=problem):
        run(tmp_path, answers)


def test_answers_that_are_too_long_are_cut_and_counted(tmp_path: Path, labelled) -> None:
    longer = [{**row, "response": row["response"] * 3} if i == 0 else row for i, row in enumerate(labelled)]
    made = run(tmp_path, write(tmp_path / "answers.jsonl", longer), "guard.max_length=70", stages=("read_answers",))
    cut = [row["cut"] for row in artifacts.read_rows(made.guard_answers)]
    assert cut[0] and sum(cut) < len(cut) / 2


@pytest.mark.parametrize(
    "override, problem",
    [
        ("guard.layers=[3]", "guard.layers: .3. is no first and last layer"),
        ("guard.threshold=loud", "guard.threshold: 'loud' is neither balanced nor a share"),
        ("guard.transfer=[beavertails]", "names something twice"),
        ("guard.transfer=[some/beavertails]", "two files are called beavertails; rename one of them"),
        ("guard.false_alarms=0.1", "guard.harmless names no answers"),
    ],
)
def test_settings_that_mean_nothing_are_refused(override: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        compose_config([*SMALL, override])


def test_the_judge_packs_as_its_run_does() -> None:
    """In every recipe; of others than probe a recipe that only judges says that it has nothing to pack."""
    files = ["judge.input=a.jsonl", "judge.output=b.jsonl"]
    judge = compose_config(["+recipe=judge", "judge=probe", "judge.probe.path=guard", "packing=off", *files]).judge
    assert judge.probe.packing == {"name": "off"}
    best = compose_config(["+recipe=real", "packing.max_tokens=99"]).judge
    assert best.probe.packing == {"name": "auto", "max_tokens": 99}
    with pytest.raises(UserError, match="packing: it would have no effect: of judges, probe alone packs what it reads"):
        compose_config(["+recipe=judge", "packing=off", *files])


def test_of_a_judge_that_is_made_first_nothing_is_asked_before(tmp_path, monkeypatch, labelled) -> None:
    """Also where stages are launched one by one: the child of another stage doesn't look for it."""
    asked = []
    monkeypatch.setattr("alignment.run.require_ready", lambda settings, names: asked.append(list(names)))
    monkeypatch.setattr("alignment.run.run_here", lambda *arguments: None)
    stages = "stages=[fit_reward,read_answers,fit_guard,evaluate]"
    own = [write(tmp_path / "answers.jsonl", labelled), "guard.harmless=[]", "guard.false_alarms=null"]
    where = ["run.stage=fit_reward", f"run.dir={tmp_path}/run", "evaluation.sets=[data]"]
    cfg = compose_config(["+recipe=cdpo", stages, "judge=[oracle,probe]", *own, *where])
    run_recipe(cfg)
    assert asked == [["oracle"]]
