"""What a stage must say of itself, and that saying it is enough: a name in the table that no other file knows.

tests/test_additions.py makes a whole one, with what it computes and reports.
"""

from pathlib import Path
from typing import get_args

import pytest

from alignment.inputs.fingerprints import FINGERPRINTS
from alignment.inputs.stage_kinds import Estimate, Infers, Stage, Trains
from alignment.launching import commands
from alignment.memory import fitting, table
from alignment.memory.estimates import Estimator
from alignment.memory.machine import Machine
from alignment.plan import plan
from alignment.runs.run_files import RunDir
from alignment.settings.compose import compose_config
from alignment.stages import STAGES, trained_with
from alignment.types import UserError


@pytest.fixture
def toy(monkeypatch):
    """Makes this the stage `toy` of the table."""
    return lambda stage: monkeypatch.setitem(STAGES, "toy", stage)


def planned(folder: Path, *more: str, stages: str = "toy"):
    return compose_config(["+recipe=cdpo", f"stages=[{stages}]", f"run.dir={folder}", *more])


def test_its_inputs_and_the_stages_it_reads_make_it_anew(toy, tmp_path):
    toy(Stage("", config=("recipe", "seed"), inputs=("data",), reads=("fit_reward",)))
    (step,) = plan(planned(tmp_path), RunDir(tmp_path))
    cfg = planned(tmp_path)
    assert step.manifest.config == {"recipe": "cdpo", "seed": 0}
    assert step.manifest.inputs == {"data": FINGERPRINTS["data"](cfg), "stage fit_reward": ""}


def test_an_input_that_has_no_fingerprint_is_refused():
    """It counted as the contrastive questions."""
    with pytest.raises(ValueError, match=r"no fingerprint 'qestions'; it has model, data, .*questions"):
        Stage("", config=(), inputs=("qestions",))


def test_what_a_stage_does_with_the_model_is_said_or_refused():
    """It counted as one that samples."""
    with pytest.raises(ValueError, match="with the model among its inputs says what it does with it"):
        Stage("", config=(), inputs=("model",))
    with pytest.raises(ValueError, match="with the model among its inputs"):
        Stage("", config=("trainer",), model=Trains("trainer"))
    with pytest.raises(ValueError, match="no estimate 'sampled'; it has read_states, induce"):
        Infers("sampled", None)
    with pytest.raises(ValueError, match=r"sampling\.batch_tokens is not among the stage's config"):
        Stage("", config=("samplings",), inputs=("model",), model=Infers("evaluate", "sampling.batch_tokens"))


def test_memory_is_estimated_as_the_stage_says_and_of_no_other_one(toy, tmp_path):
    toy(Stage("", config=("annotator",), inputs=("model",), model=Infers("annotate", "annotator.batch_tokens")))
    cfg, run = planned(tmp_path, "packing=off", stages="annotate,toy"), RunDir(tmp_path)
    estimator = Estimator(cfg, run, Machine(1, False, False, 10**12))
    assert estimator.estimate("toy", cfg).memory == estimator.estimate("annotate", cfg).memory
    assert list(fitting._changes(cfg, "toy", estimator.machine)) == list(
        fitting._changes(cfg, "annotate", estimator.machine)
    )
    toy(Stage("", config=(), inputs=("model",), model=Infers(None, None)))
    assert list(fitting._changes(cfg, "toy", estimator.machine)) == [["model.dtype=bfloat16"]]  # none of batch tokens
    text, refusal = table.report(cfg, run, plan(cfg, run), 1)
    assert "\n  memory is not estimated of toy\n" in text and refusal is None
    first = [line.split()[0] for line in text.splitlines() if line.strip()]
    assert (first.count("annotate"), first.count("toy")) == (2, 0), "memory and tokens"


def test_the_estimate_of_another_stage_holds_where_that_one_does_not_run(toy, tmp_path):
    """That of induce knew no questions."""
    toy(Stage("", config=("annotator",), inputs=("model",), model=Infers("induce", "annotator.batch_tokens")))
    estimates = []
    for stages in ("toy", "induce,toy"):
        cfg = planned(tmp_path, stages=stages)
        estimator = Estimator(cfg, RunDir(tmp_path), Machine(1, False, False, 10**12))
        estimates.append(estimator.estimate("toy", cfg))
    assert estimates[0] == estimates[1]


def test_one_that_samples_may_think(toy, tmp_path):
    thinks = ("model=local", "model.path=a", "model.thinking=true")
    toy(Stage("", config=("model",), inputs=("model",), model=Infers(None, None)))
    with pytest.raises(UserError, match=r"model.thinking: it would have no effect: nothing is sampled here"):
        planned(tmp_path, *thinks)
    toy(Stage("", config=("model",), inputs=("model",), model=Infers(None, None, samples=True)))
    assert planned(tmp_path, *thinks).model.thinking


def test_one_that_trains_is_launched_and_planned_as_such(toy, tmp_path):
    toy(Stage("", config=("policy",), inputs=("model",), model=Trains("policy", chosen_only=True)))
    assert trained_with("policy") == ("train_sft", "train_dpo", "train_cdpo", "toy")
    cfg = planned(tmp_path, "launch=zero2", "launch.processes=2", "policy.systems=[sft]", stages="train_sft,toy")
    assert commands.layout(cfg, "toy") == "zero2" and commands.layout(cfg, "evaluate") == "ddp"
    estimator = Estimator(cfg, RunDir(tmp_path), Machine(2, False, False, 10**12))
    assert estimator.estimate("toy", cfg).memory == estimator.estimate("train_sft", cfg).memory


def test_every_estimate_is_that_of_a_stage():
    for name in get_args(Estimate):
        assert STAGES[name].model.estimate == name
    assert {name for name, stage in STAGES.items() if stage.alone} == {"compare_runs", "fit_guard", "report"}
