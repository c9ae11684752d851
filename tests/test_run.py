"""How a command ends: its exit code, for those who start it again, and the one line that says why."""

import gc
import signal
import sys
from types import SimpleNamespace

import pytest
from transformers import Qwen3MoeConfig

import alignment.plan
from alignment import run, runner
from alignment.launching import exits
from alignment.plan import Step
from alignment.runs import artifacts, stopping
from alignment.runs.manifest import Manifest
from alignment.runs.ranks import Ranks
from alignment.runs.run_files import RunDir
from alignment.settings.compose import compose_config
from alignment.types import GatesMissed, StageFailed, Stopped, UserError
from tests.conftest import CONFIGS


@pytest.fixture(autouse=True)
def handlers():
    numbers = (*stopping.SIGNALS, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize(
    "error, code, line",
    [
        (UserError("data.path", "it is empty", "give pairs"), 2, "data.path: it is empty; give pairs"),
        (StageFailed("margins", "some are not numbers", "look"), 1, "margins: some are not numbers; look"),
        (GatesMissed("one is missed", "two is missed"), 3, "one is missed\nrepalign: two is missed"),
        (Stopped("induce"), 75, "stopped induce; the same command goes on in {folder}"),
        (OSError(28, "No space left on device"), 1, "{folder}: No space left on device; make room there, or set"),
    ],
)
def test_the_exit_code_says_how_it_ended_to_the_shell_and_to_a_launcher(
    tmp_path, monkeypatch, capsys, error, code, line
):
    def ends(cfg) -> None:
        raise error

    monkeypatch.setattr(run, "run_recipe", ends)
    monkeypatch.setattr(sys, "argv", ["run", "+recipe=cdpo", f"run.dir={tmp_path}", "run.stage=evaluate"])
    compose_config(sys.argv[1:])  # registers the schema
    with pytest.raises(SystemExit) as ended:
        run._hydra_main()
    assert ended.value.code == code == exits.exit_code(tmp_path, "evaluate")
    assert capsys.readouterr().err.startswith(f"repalign: {line.format(folder=tmp_path)}")


@pytest.mark.parametrize("plan", ["false", "true"])
def test_a_layer_that_the_model_lacks_is_refused_before_the_first_stage(tmp_path, monkeypatch, plan):
    monkeypatch.setattr(run, "run_here", None)
    given = ["+recipe=legend_rm", f"run.dir={tmp_path}/run", f"run.plan={plan}"]
    with pytest.raises(UserError, match=r"annotator.layer: the model has 4 layers, and no layer 99; give 1 to 4"):
        run.run_recipe(compose_config([*given, "annotator.layer=99"]))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "recipe, stage, group", [("cdpo", "train_cdpo", "policy"), ("legend_rm", "train_rm", "trainer")]
)
def test_a_mixture_of_experts_is_refused_before_the_first_stage_unless_told(
    tmp_path, monkeypatch, recipe, stage, group
):
    """And where there are no experts, so is what would have no effect."""
    key = f"{group}.without_router_loss"

    def plan(*chosen: str, cached: bool = False) -> None:
        cfg = compose_config([f"+recipe={recipe}", f"run.dir={tmp_path}/run", *chosen])
        run.require_router_choice(cfg, [SimpleNamespace(stage=stage, cached=cached)])

    plan()
    with pytest.raises(UserError, match=f"{key}: llama has no loss for routers; leave it out"):
        plan(f"{key}=true")
    monkeypatch.setattr(alignment.plan, "configuration", lambda source: Qwen3MoeConfig())
    with pytest.raises(UserError, match=f"{key}: qwen3_moe has a loss that keeps its routers balanced, which is left"):
        plan()
    plan(cached=True)
    plan(f"{key}=true")


@pytest.mark.parametrize(
    "kind, blocks, problem",
    [
        ("world", 4, r"it is 4, the model's blocks are 4, and one at least stays as it is; give 1 to 3, or lea"),
        ("gemma2", 1, "models of type gemma2 may compute more .*; leave it out, or use a model of type llama, qwen2, "),
    ],
)
def test_a_model_without_such_upper_blocks_is_refused_before_the_first_stage(
    tmp_path, monkeypatch, kind, blocks, problem
):
    monkeypatch.setattr(run, "run_here", None)
    artifacts.write_lines(tmp_path / "pairs.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "c"}] * 20)
    model = []
    if kind != "world":
        CONFIGS[kind]().save_pretrained(tmp_path / "model")
        model = ["model=local", f"model.path={tmp_path}/model", "data=file", f"data.path={tmp_path}/pairs.jsonl"]
        model += ["stages=[train_rm]"]  # no others, which would ask for questions
    given = ["+recipe=legend_rm", "trainer=upper_blocks", f"trainer.upper_blocks={blocks}", f"run.dir={tmp_path}/run"]
    with pytest.raises(UserError, match=f"trainer.upper_blocks: {problem}"):
        run.run_recipe(compose_config([*given, *model]))
    assert not (tmp_path / "run").exists()


def test_a_sweep_ends_with_a_table_of_its_jobs_whichever_failed(tmp_path, monkeypatch, capsys):
    def job(cfg) -> None:
        if cfg.seed == 2:
            raise StageFailed("margins", "some are not numbers", "look")
        artifacts.write_json(RunDir(tmp_path / f"seed={cfg.seed}").report, {"reward_model": {"none": {
            "accuracy": {"mean": 0.75, "ci95": [0.5, 0.875], "n": 40, "per_seed": [0.75]}}}})  # fmt: skip

    monkeypatch.setattr(run, "run_recipe", job)
    monkeypatch.setattr(run, "_swept", [])
    monkeypatch.chdir(tmp_path)  # where Hydra writes of every sweep
    monkeypatch.setattr(sys, "argv", ["run", "-m", "+recipe=legend_rm", f"run.dir={tmp_path}", "seed=1,2"])
    with pytest.raises(SystemExit):
        run.main()
    said = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert any("RM, none: % right" in line for line in said) and "seed=2 no report yet" in said
    assert "seed=1 75.0 [50.0, 87.5]" in said


def test_a_gate_that_is_missed_is_missed_again_when_all_is_up_to_date(tmp_path):
    found = RunDir(tmp_path)
    gate = {"gate": "max_toxic_rate", "limit": 0.1, "value": 0.2, "system": "after", "set": "x", "judge": "oracle"}
    artifacts.write_json(found.scorecard, {"gates": [{**gate, "passed": False}]})
    artifacts.write_json(found.stage_report, {})
    found.tables.write_text("table\n")
    cfg = compose_config(["+recipe=cdpo", f"run.dir={tmp_path}"])
    steps = [Step("report", True, "up to date", Manifest("report", {}, {}, {}))]
    with pytest.raises(GatesMissed, match=r"scorecard\.gate\.max_toxic_rate=0\.1 is missed on x by oracle: .* is 20%"):
        runner.run_here(cfg, found, steps, [], Ranks())
    artifacts.write_json(found.scorecard, {"gates": [{**gate, "passed": True}]})
    runner.run_here(cfg, found, steps, [], Ranks())


def test_what_a_stage_imports_is_not_looked_through_for_garbage(monkeypatch):
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    before = gc.get_freeze_count()
    assert runner._imported("colorsys") is sys.modules["colorsys"]
    assert gc.get_freeze_count() > before and gc.isenabled()
    frozen = gc.get_freeze_count()
    runner._imported("colorsys")
    assert gc.get_freeze_count() <= frozen, "nothing is imported, nothing more is frozen"
