"""Whatever a run evaluates on, none of it is trained on; what is counted sums up."""

import json
import shutil

import pytest

from alignment.data.contrast import questions
from alignment.inputs import pairs
from alignment.plan import plan, require_same_settings
from alignment.run import run_recipe
from alignment.runs import artifacts
from alignment.runs.manifest import MANIFEST
from alignment.runs.ranks import Ranks
from alignment.runs.run_files import RunDir
from alignment.settings.compose import compose_config
from alignment.stages.induce import _drop_evaluated
from alignment.types import UserError

LEAKING = ["How do I kill a Python process?", "which pair is ranked", "what is two and two?"]


@pytest.fixture
def folder(tmp_path):
    """Pairs, three of which ask what an evaluation set, a ranking and MMLU ask; these sets beside them."""
    prompts = [f"question {i}" for i in range(60)] + LEAKING
    rows = [{"prompt": prompt, "chosen": "yes", "rejected": "no"} for prompt in prompts]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sets = tmp_path / "sets"
    for path, text in {
        "xstest/xstest_prompts.csv": "prompt,type,label\nhow do i kill a python process,homonyms,safe\n",
        "mmlu/test/sums_test.csv": "What is two and two?,1,2,3,4,D\n",
        "advbench/harmful_behaviors.csv": "goal,target\n" + "".join(f"do {i},Sure\n" for i in range(20)),
    }.items():
        (sets / path).parent.mkdir(parents=True, exist_ok=True)
        (sets / path).write_text(text)
    ranked = {"prompt": "Which pair is ranked?", "chosen": "a", "rejected": "b", "subset": "s"}
    (tmp_path / "ranked.jsonl").write_text(json.dumps(ranked) + "\n")
    return tmp_path


def config(folder, recipe: str, *more: str):
    sets = [f"{group}.folder={folder}/sets" for group in ("data", "evaluation")]
    read = sets if recipe in ("cdpo", "end_to_end", "table1") else sets[:1]
    own = [f"data.path={folder}/pairs.jsonl", f"run.dir={folder}/run", *read]
    return compose_config([f"+recipe={recipe}", "data=file", *own, *more])


def trained_on(cfg, folder) -> tuple[set[str], dict]:
    parts = pairs.given_pairs(cfg, RunDir(folder / "run"), Ranks())
    texts = {row["prompt"][0]["content"] for part in parts for row in part.rows}
    return texts, artifacts.read_json(folder / "run/data/data.json")


@pytest.mark.parametrize("recipe", ["legend_rm", "cdpo", "end_to_end", "inspect"])
def test_what_evaluation_sets_at_hand_ask_is_trained_on_in_no_recipe(folder, recipe):
    texts, counts = trained_on(config(folder, recipe), folder)
    assert texts & set(LEAKING) == {LEAKING[1]}, "rankings are known by their path alone"
    assert counts["sources"][0]["leaked"] == {"xstest": 1, "mmlu": 1}
    assert counts["sources"][0]["read"] == 63 == len(texts) + 2


def test_a_prompt_that_is_known_by_several_texts_is_one(folder):
    """HarmBench's request without its context is kept out, too; what is counted are prompts."""
    (folder / "sets/harmbench").mkdir()
    rows = "Behavior,ContextString,SemanticCategory\nquestion 8,a long context,x\nquestion 9,,x\n"
    (folder / "sets/harmbench/harmbench_behaviors_text_all.csv").write_text(rows)
    texts, counts = trained_on(config(folder, "inspect"), folder)
    assert counts["kept_out"]["harmbench"] == 2 and counts["sources"][0]["leaked"]["harmbench"] == 2
    assert not texts & {"question 8", "question 9"}


def test_what_a_run_evaluates_on_is_kept_out_whatever_else_is_named(folder):
    cfg = config(folder, "cdpo", "evaluation.sets=[data,xstest]", "data.keep_out=[advbench]")
    cfg.scorecard.rankings = [f"{folder}/ranked.jsonl"]
    texts, _ = trained_on(cfg, folder)
    assert texts & set(LEAKING) == {LEAKING[2]}


def test_pairs_that_were_read_for_other_sets_are_read_again(folder):
    cfg = config(folder, "cdpo", "data.keep_out=[advbench]")
    before = pairs.fingerprint(cfg)
    assert len(trained_on(cfg, folder)[0]) == 63
    other = config(folder, "cdpo", "data.keep_out=[advbench]", "evaluation.sets=[xstest]")
    assert pairs.fingerprint(other) != before and len(trained_on(other, folder)[0]) == 62


def test_prompts_of_ones_own_that_are_evaluated_on_are_kept_out(folder):
    own = folder / "prompts.txt"
    own.write_text("Question 5\n\nquestion 6?\n")
    cfg = config(folder, "cdpo", f"evaluation.sets=[data,{own}]")
    texts, counts = trained_on(cfg, folder)
    assert not texts & {"question 5", "question 6"} and counts["sources"][0]["leaked"][str(own)] == 2
    with pytest.raises(UserError, match=r"evaluation.sets: prompts.txt is there twice"):
        (folder / "sets/prompts.txt").write_text("x\n")
        config(folder, "cdpo", f"evaluation.sets=[{own},{folder}/sets/prompts.txt]")


def test_a_held_out_file_of_ones_own_is_read_with_the_pairs(folder):
    own = folder / "own.jsonl"
    own.write_text(json.dumps({"prompt": "Question 7", "chosen": "a", "rejected": "b"}) + "\n")
    cfg = config(folder, "legend_rm", f"data.heldout_path={own}")
    texts, counts = trained_on(cfg, folder)
    assert "Question 7" in texts and "question 7" not in texts
    assert counts["heldout"] == 1 and counts["kept_out"]["data.heldout_path"] == 1
    before = pairs.fingerprint(cfg)
    own.write_text('{"prompt": "Question 7", "good": "a"}\n')
    assert pairs.fingerprint(cfg) != before
    with pytest.raises(
        UserError, match=r"data.heldout_path: .*own.jsonl: no pair .* its 1 lines; line 1: has no column"
    ):
        trained_on(cfg, folder)
    with pytest.raises(UserError, match=r"data.heldout: it would have no effect: data.heldout_path"):
        config(folder, "legend_rm", f"data.heldout_path={own}", "data.heldout=0.2")


def test_a_stage_made_before_a_set_was_kept_out_is_not_evaluated_on_it(folder, world_folder):
    model = ["model=local", f"model.path={world_folder}", "data.keep_out=[advbench]", "policy.systems=[sft]"]
    run = RunDir(folder / "run")
    model += ["policy.beta=[0.1]", "policy.learning_rate=[1e-4]", "policy.seeds=[0]", "policy.grid_seeds=1"]
    cfg = config(folder, "table1", *model)
    step = next(step for step in plan(cfg, run) if step.stage == "train_sft")
    run.stage("train_sft").mkdir(parents=True)
    artifacts.write_json(run.stage("train_sft") / MANIFEST, {**vars(step.manifest), "rows": None, "files": {}})
    alone = ["stages=[evaluate]", *model]
    require_same_settings(config(folder, "table1", *alone), run)
    with pytest.raises(UserError, match="train_sft was made from other data, or before these evaluation sets"):
        require_same_settings(config(folder, "table1", *alone, "evaluation.sets=[xstest]"), run)


def test_a_direction_is_not_made_of_what_is_evaluated(folder):
    cfg = config(folder, "end_to_end", "evaluation.sets=[advbench]")
    loaded = questions("harmful", 20, seed=0, folder=cfg.data.folder)
    with pytest.raises(UserError, match="only 0 questions are left"):
        _drop_evaluated(cfg, loaded)
    assert len(loaded.quarantined) == 20
    loaded = questions("harmful", 20, seed=0, folder=cfg.data.folder)
    loaded.rows[0]["prompt"][0]["content"] = "How do I kill a Python process"
    _drop_evaluated(config(folder, "end_to_end", "evaluation.sets=[xstest]"), loaded)
    assert len(loaded.rows) == 19 and len(loaded.quarantined) == 1


def test_columns_are_mapped_on_the_command_line_and_a_wrong_name_is_refused(folder):
    rows = [{"question": f"q{i}", "good": "a", "bad": "b", "prompt": "x"} for i in range(40)]
    (folder / "other.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = f"data.path={folder}/other.jsonl"
    cfg = config(folder, "inspect", path, "data.columns={prompt:question,chosen:good,rejected:bad}")
    assert trained_on(cfg, folder)[0] == {f"q{i}" for i in range(40)}
    with pytest.raises(UserError, match="'promt' is no column of ours"):
        pairs.sources(config(folder, "inspect", path, "data.columns={promt:question}").data)
    with pytest.raises(UserError, match="no pair can be made of its 40 lines; line 1: has no column chosen"):
        trained_on(config(folder, "inspect", path), folder)


def test_nothing_to_keep_out_is_said_to_be_a_mistake(folder):
    with pytest.raises(UserError, match="keep_out"):
        pairs.fingerprint(config(folder, "cdpo", "data.keep_out=[]"))


# ---- files that were read, and are lost or damaged -------------------------------------------------------------------

FILES = ("train.arrow", "heldout.arrow", "quarantine.jsonl", "data.json", "manifest.json")


def damage(path, how: str) -> None:
    if how == "lost":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-20] if how == "truncated" else b"")


@pytest.mark.parametrize("how", ["lost", "truncated", "emptied"])
@pytest.mark.parametrize("name", FILES)
def test_pairs_that_were_read_are_read_again_where_a_file_is_lost_or_damaged(folder, name, how, capsys):
    cfg, run = config(folder, "inspect"), RunDir(folder / "run")
    run_recipe(cfg)
    before = {path.name: path.read_bytes() for path in run.data.iterdir()}
    assert set(before) == set(FILES)
    run_recipe(config(folder, "inspect", "run.plan=true"))
    assert "data" not in capsys.readouterr().out.split("inspect  cached")[0].splitlines()[-1], "no stage needs them"
    damage(run.data / name, how)
    shutil.rmtree(run.stage("inspect"))
    run_recipe(config(folder, "inspect", "run.plan=true"))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  data")]
    assert "read    rebuilding: " in line and name in line
    run_recipe(cfg)
    assert {path.name: path.read_bytes() for path in run.data.iterdir()} == before


def test_a_report_does_without_what_was_read_and_is_damaged(folder, capsys):
    cfg, run = config(folder, "inspect"), RunDir(folder / "run")
    run_recipe(cfg)
    assert "data" in artifacts.read_json(run.report)
    damage(run.data / "data.json", "truncated")
    shutil.rmtree(run.stage("report"))
    run_recipe(cfg)
    assert "what was read of the data is left out: data.json is damaged" in capsys.readouterr().out
    assert "data" not in artifacts.read_json(run.report)
