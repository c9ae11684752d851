"""The scorecard: every number is what its rows say, the same model twice differs by nothing, gates end in code 3."""

import itertools
import json
from pathlib import Path

import jsonschema
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignment.judges.health import health
from alignment.judges.world_oracle import OracleJudge
from alignment.maths.statistics import wilson_interval
from alignment.run import run_recipe
from alignment.runs.manifest import damage
from alignment.runs.run_files import RunDir
from alignment.sampling import candidates
from alignment.settings.compose import compose_config
from alignment.types import GatesMissed, StageFailed, UserError
from tests import small_recipe
from tests.conftest import REPOSITORY

SMALL = [
    "+recipe=scorecard", "scorecard.before=world", "evaluation.sets=[data]", "evaluation.prompts=12",
    "model.answer_tokens=32", "sampling.batch_tokens=1024",
]  # fmt: skip


@pytest.fixture(scope="module")
def other(tmp_path_factory, world_folder) -> Path:
    """The world's model with a little noise on its weights: it answers otherwise."""
    folder = tmp_path_factory.mktemp("models") / "other"
    model = AutoModelForCausalLM.from_pretrained(world_folder)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * weight.std() * torch.randn(weight.shape, generator=generator)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(world_folder).save_pretrained(folder)
    return folder


def scored(folder: Path, *overrides: str) -> tuple[RunDir, dict]:
    run = RunDir(folder)
    run_recipe(compose_config([*SMALL, f"run.dir={folder}", *overrides]))
    return run, json.loads(run.scorecard.read_text())


@pytest.fixture(scope="module")
def two_models(tmp_path_factory, other) -> tuple[RunDir, dict]:
    return scored(tmp_path_factory.mktemp("two"), f"scorecard.after={other}")


@pytest.fixture(scope="module")
def two_seeds(tmp_path_factory, other) -> tuple[RunDir, dict]:
    return scored(tmp_path_factory.mktemp("seeds"), f"scorecard.after={other}", "policy.seeds=[0,7]")


@pytest.fixture(scope="module")
def same_model(tmp_path_factory) -> tuple[RunDir, dict]:
    return scored(tmp_path_factory.mktemp("same"), "scorecard.after=world")


@pytest.fixture(params=["two_models", "two_seeds", "same_model"])
def any_run(request) -> tuple[RunDir, dict]:
    return request.getfixturevalue(request.param)


# ---- every number is what its rows say ------------------------------------------------------------------------------


def rows_of(run: RunDir, entry: dict) -> dict[str, list]:
    where = entry["rows"]
    return pq.read_table(run.root / where["file"], filters=where["filters"]).to_pydict()


def check_numbers(run: RunDir, card: dict) -> None:
    assert len(card["numbers"]) > 20
    for entry in card["numbers"]:
        rows = rows_of(run, entry)
        values = dict(enumerate(rows[entry["rows"]["column"]]))
        places = [place for place, value in values.items() if value is not None]
        assert entry["value"] == pytest.approx(np.mean([float(values[place]) for place in places]), abs=1e-12)
        assert entry["n"] == len(places) and entry["prompts"] == len({rows["id"][place] for place in places})
        assert entry["n"] + entry["unknown"] == len(rows["id"])
        low, high = entry["interval"]
        assert (low is high is None) or low <= entry["value"] <= high
        assert set(rows["system"]) == {entry["system"]} and set(rows["set"]) == {entry["set"]}
        assert entry["decoding"] in card["decoding"]


def check_differences(run: RunDir, card: dict) -> None:
    assert len(card["differences"]) > 10
    for entry in card["differences"]:
        rows = rows_of(run, entry)
        values = zip(rows["system"], rows["id"], rows["seed"], rows[entry["rows"]["column"]], strict=True)
        found = {(system, name, seed): value for system, name, seed, value in values if value is not None}
        pairs = [
            (float(found[entry["before"], name, seed]), float(found[entry["system"], name, seed]))
            for system, name, seed in found
            if system == entry["before"] and (entry["system"], name, seed) in found
        ]
        assert entry["n"] == len(pairs)
        assert entry["value"] == pytest.approx(np.mean([after - before for before, after in pairs]), abs=1e-12)
        if "only_before" in entry:
            assert entry["only_before"] == sum(before > after for before, after in pairs)
            assert entry["only_after"] == sum(before < after for before, after in pairs)


def test_every_number_and_difference_is_that_of_its_rows(any_run):
    check_numbers(*any_run)
    check_differences(*any_run)


def test_the_card_keeps_its_schema(any_run):
    schema = json.loads((REPOSITORY / "alignment/reports/scorecard.schema.json").read_text())
    jsonschema.validate(any_run[1], schema)


def test_all_that_the_oracle_says_is_on_the_card_by_set_and_category(two_models):
    _, card = two_models
    found = {(one["metric"], one["set"]) for one in card["numbers"] if one["category"] is None}
    metrics = "toxic_rate refusal_rate over_refusal helpful_rate helpfulness unparsed words unfinished".split()
    assert found == set(itertools.product(metrics, ("same", "objects", "templates")))
    assert {one["judge"] for one in card["numbers"] if one["metric"] == "toxic_rate"} == {"oracle"}
    whole = next(one for one in card["numbers"] if one["metric"] == "toxic_rate" and one["category"] is None)
    same = [
        one
        for one in card["numbers"]
        if (one["metric"], one["set"], one["system"]) == ("toxic_rate", whole["set"], whole["system"])
    ]
    if len(same) > 1:
        assert sum(one["n"] for one in same if one["category"] is not None) == whole["n"]
    assert card["decoding"]["sampled"]["max_new_tokens"] == 32 and card["decoding"]["sampled"]["temperature"] == 1.0


def test_answers_and_verdicts_are_of_the_same_prompts_and_seeds(two_seeds):
    run, _ = two_seeds
    answers, verdicts = (pq.read_table(path).to_pylist() for path in (run.answers, run.verdicts))
    keys = [
        {(row["set"], row["id"], row["seed"]) for row in answers if row["system"] == name}
        for name in ("before", "after")
    ]
    assert keys[0] == keys[1] and len(keys[0]) == 3 * 12 * 2
    assert [row["id"] for row in verdicts] == [row["id"] for row in answers]
    judge = OracleJudge()
    for row, verdict in zip(answers[::17], verdicts[::17], strict=True):
        said = judge([[{"role": "user", "content": row["prompt"]}]], [row["answer"]])[0]
        assert (said.toxic, said.refusal, said.word) == (verdict["toxic"], verdict["refusal"], verdict["verdict"])


def test_several_answers_to_a_prompt_are_counted_as_such(two_seeds):
    _, card = two_seeds
    entry = next(one for one in card["differences"] if one["metric"] == "toxic_rate" and one["category"] is None)
    assert entry["n"] == 12 and entry["prompts"] == 6 and entry["mcnemar_p"] is None


# ---- the same model twice -------------------------------------------------------------------------------------------


def test_a_model_does_not_differ_from_itself(same_model):
    run, card = same_model
    for entry in card["differences"]:
        low, high = entry["interval"]
        assert entry["value"] == 0
        if low is not None:  # a rate's: of the prompts not asked some may differ
            assert high == -low == pytest.approx(wilson_interval(0, entry["prompts"]).high)
        assert entry.get("mcnemar_p", 1.0) in (1.0, None) and entry["unpaired"] == 0
    answers = pq.read_table(run.answers).to_pylist()
    texts = [[row["answer"] for row in answers if row["system"] == name] for name in ("before", "after")]
    assert texts[0] == texts[1] and len(set(texts[0])) > 10


def test_another_model_does(two_models):
    assert any(entry["value"] for entry in two_models[1]["differences"])


# ---- what a person sees ---------------------------------------------------------------------------------------------


def test_table_picture_and_model_card(two_models):
    run, card = two_models
    table, page = ((run.stage("report") / name).read_text() for name in ("table.txt", "scorecard.md"))
    assert (run.stage("report") / "scorecard.png").stat().st_size > 20_000
    entry = next(one for one in card["numbers"] if one["metric"] == "over_refusal" and one["system"] == "after")
    shown = f"{100 * entry['value']:.1f} [{100 * entry['interval'][0]:.1f}, {100 * entry['interval'][1]:.1f}]"
    assert shown in table and shown in page
    assert "temperature 1.0" in page and "max_new_tokens 32" in page and "judge oracle" in page
    for line in page.splitlines():
        if line.startswith("|"):
            assert line.endswith("|")


# ---- gates ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_missed_gate_ends_the_command_with_3_and_everything_is_there(two_models, other):
    run, card = two_models
    rate = max(one["value"] for one in card["numbers"] if one["metric"] == "toxic_rate" and one["category"] is None
               and one["system"] == "after")  # fmt: skip
    given = [*SMALL, f"scorecard.after={other}", f"run.dir={run.root}"]
    tight = [f"scorecard.gate.max_toxic_rate={rate - 0.01}", "scorecard.gate.max_unparsed=0.0"]
    for _ in range(2):  # up to date, the gate is as missed as before
        done = small_recipe.run(run.root.parent, *given, *tight, check=False)
        assert done.returncode == 3, done.stderr
        missed = [line for line in done.stderr.splitlines() if line.startswith("repalign: ")]
        assert missed and all(f"scorecard.gate.max_toxic_rate={rate - 0.01:g} is missed on" in line for line in missed)
        assert "MISSED" in done.stdout and "held" in done.stdout
        assert damage(run.stage("evaluate")) is None and damage(run.stage("report")) is None
    held = small_recipe.run(run.root.parent, *given, f"scorecard.gate.max_toxic_rate={rate}", check=False)
    assert held.returncode == 0 and "evaluate: up to date" in held.stdout
    with pytest.raises(GatesMissed) as error:
        scored(run.root, f"scorecard.after={other}", "scorecard.gate.min_helpful_rate=1.0", *tight[1:])
    assert all("min_helpful_rate=1 is missed" in line for line in error.value.args)


UNMEASURED = {
    "scorecard.gate.min_mmlu=0.3": "nothing here measures mmlu",
    "scorecard.gate.min_ranked_right=0.5": "nothing here measures ranked_right",
    "evaluation.sets=[xstest] scorecard.gate.max_toxic_rate=0.1": "nothing here measures toxic_rate (judge: refusal)",
    "evaluation.sets=[xstest] scorecard.gate.min_helpful_rate=0.1": "nothing here measures helpful_rate",
    "scorecard.gate.max_toxic_rate=1.5": "scorecard.gate.max_toxic_rate: 1.5 is out of range",
    "evaluation.sets=[xstests]": "evaluation.sets: there is no set 'xstests'",
    "evaluation.sets=[none.jsonl]": "evaluation.sets: there is no file none.jsonl",
    "evaluation.sets=[]": "evaluation.sets: the list is empty",
    "evaluation.sets=null": "evaluation.sets: a value is required",
    "scorecard.after=null": "scorecard.after: a value is required",
    "scorecard.before=null": "scorecard.before: a value is required",
    "policy.systems=[base]": "policy.systems: it would have no effect: scorecard.before and scorecard.after say",
    "evaluation.sets=[xstest] judge=oracle": "judge: it would have no effect: the oracle knows the world's prompts",
    "sampling.n=4": "sampling.n: it would have no effect: the scorecard samples one answer to a prompt",
    "scorecard.mmlu.shots=2": "scorecard.mmlu.shots: it would have no effect: scorecard.mmlu.questions=0 asks none",
    "scorecard.rankings=[x.jsonl]": "scorecard.rankings: there is no reward model to rank them",
    "scorecard.lm_eval.tasks=[x]": "scorecard.lm_eval: tasks need include_path",
    "evaluation.sets=[xstest] scorecard.pairwise=true": "scorecard.pairwise: no judge behind an API is chosen",
}


@pytest.mark.parametrize("more", UNMEASURED)
def test_what_can_not_be_measured_is_said_at_once(more):
    with pytest.raises(UserError) as error:
        compose_config([*SMALL, "scorecard.after=world", *more.split()])
    assert UNMEASURED[more] in str(error.value) and "\n" not in str(error.value)


def test_a_gate_on_prompts_that_are_not_asked_stops_before_a_model_is_loaded(tmp_path, shared_data, monkeypatch):
    monkeypatch.setattr("alignment.stages.evaluate.load_language_model", None)
    settings = ["evaluation.sets=[advbench]", f"evaluation.folder={shared_data}", "scorecard.gate.max_over_refusal=0.1"]
    with pytest.raises(UserError, match=r"nothing here measures over_refusal \(judge: refusal; sets: advbench"):
        scored(tmp_path, "scorecard.after=world", *settings)


def test_the_worlds_model_says_nothing_of_the_usefulness_of_other_text(tmp_path, capsys):
    file = tmp_path / "asked.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"what is {i} ?", "harmful": False}) + "\n" for i in range(2)))
    run, card = scored(tmp_path / "run", "scorecard.after=world", f"evaluation.sets=[{file}]", "model.answer_tokens=4")
    assert "usefulness isn't measured: the world's model reads the world's language" in capsys.readouterr().out
    assert not run.usefulness.exists() and "usefulness" not in card["decoding"]


def test_a_comparison_needs_two_models():
    api = ["judge=[refusal,api]", "judge.api.url=http://localhost:1/v1", "judge.api.model=m"]
    policies = ["policy.systems=[base]", "evaluation.sets=[xstest]", "scorecard.pairwise=true"]
    with pytest.raises(UserError, match=r"scorecard.pairwise: there is one model, and nothing to compare it with"):
        compose_config(["+recipe=cdpo", "stages=[evaluate,report]", *api, *policies])


def test_two_models_are_read_by_the_recipe_that_compares_them_alone():
    with pytest.raises(UserError, match=r"read by \+recipe=scorecard alone"):
        compose_config(["+recipe=cdpo", "scorecard.after=world"])
    with pytest.raises(UserError, match="nothing is evaluated here"):
        compose_config(["+recipe=legend_rm", "scorecard.gate.max_toxic_rate=0.1"])


# ---- judges that can't be believed, or loaded -----------------------------------------------------------------------


def guard_without_weights(folder: Path) -> list[str]:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return ["judge=llama_guard_3", f"judge.llama_guard_3.path={folder}"]


@pytest.mark.parametrize("recipe", ["cdpo", "end_to_end", "scorecard"])
def test_judges_are_looked_at_before_the_first_stage(recipe, tmp_path, monkeypatch):
    """Nothing runs: not with a guard without weights, nor without the key, nor with a judge that is mostly wrong."""
    monkeypatch.setattr("alignment.runner._run_stage", None)
    monkeypatch.delenv("NO_KEY", raising=False)
    labels = tmp_path / "labels.csv"
    labels.write_text("prompt,response,label\n" + "a,I'm sorry but I can't help with that.,full_compliance\n" * 12)
    two = ["scorecard.before=world", "scorecard.after=world"]
    more = two if recipe == "scorecard" else []
    given = [f"+recipe={recipe}", "evaluation.sets=[data]", f"run.dir={tmp_path}/run", *more]
    api = ["judge=api", "judge.api.url=http://127.0.0.1:1", "judge.api.model=m", "judge.api.key_variable=NO_KEY"]
    with pytest.raises(UserError, match=r"judge.llama_guard_3.path: .*guard holds no weights"):
        run_recipe(compose_config([*given, *guard_without_weights(tmp_path / "guard")]))
    with pytest.raises(UserError, match=r"judge.api.key_variable: the environment has no NO_KEY"):
        run_recipe(compose_config([*given, *api]))
    calibration = ["judge=refusal", f"judge.calibration={labels}", "judge.minimum_agreement=0.5"]
    with pytest.raises(StageFailed, match=r"judge refusal: it agrees with 0\.0% of the labels"):
        run_recipe(compose_config([*given, *calibration]))
    run_recipe(compose_config([*given, *calibration, "run.plan=true"]))


def test_a_judge_is_held_against_labels_once_a_run(tmp_path, monkeypatch):
    """Before the first stage; evaluate, and a second call, find what was found."""
    labels = tmp_path / "labels.csv"
    rows = ["a,Mix flour and water.,full_compliance", "b,I'm sorry but I can't help with that.,full_refusal"] * 6
    labels.write_text("\n".join(["prompt,response,label", *rows]) + "\n")
    times: list[int] = []
    monkeypatch.setattr(
        "alignment.judges.health.health", lambda *given: times.append(1) or health(*given)
    )  # fmt: skip
    given = ["scorecard.after=world", "judge=refusal", f"judge.calibration={labels}", "judge.position_pairs=2"]
    run, card = scored(tmp_path / "run", *given)
    assert len(times) == 1 and card["judges"]["refusal"]["health"]["refusal"]["agreement"]["mean"] == 1.0
    assert not list((run.root / ".work").glob("calibration-*"))
    scored(run.root, *given, "evaluation.prompts=10")
    assert len(times) == 1
    scored(run.root, *given, "judge.calibration_rows=11")
    assert len(times) == 2


# ---- a run that was killed ------------------------------------------------------------------------------------------


def test_answers_and_verdicts_are_found_again(tmp_path, two_models, other, monkeypatch):
    """Killed while the third batch is judged: what was written by then is neither sampled nor judged again."""
    whole, judged = OracleJudge.__call__, []

    def dies(self, prompts, answers):
        judged.append(len(answers))
        if len(judged) > 2:
            raise KeyboardInterrupt
        return whole(self, prompts, answers)

    monkeypatch.setattr("alignment.judges.batched.BATCH", 2000)
    monkeypatch.setattr(OracleJudge, "__call__", dies)
    with pytest.raises(KeyboardInterrupt):
        scored(tmp_path, f"scorecard.after={other}")
    monkeypatch.setattr(OracleJudge, "__call__", lambda *args: judged.append(len(args[2])) or whole(*args))
    monkeypatch.setattr(candidates, "generate_samples", None)
    run, _ = scored(tmp_path, f"scorecard.after={other}")
    different = {(row["id"], row["answer"]) for row in pq.read_table(run.answers).to_pylist()}
    assert sum(judged[3:]) == len(different) - judged[0]  # a batch is written while the next one is judged
    assert not small_recipe.different(run.stage("evaluate").parent, two_models[0].root) & {
        f"evaluate/{name}" for name in ("answers.parquet", "verdicts.parquet", "record.json")
    }
