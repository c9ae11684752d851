"""The recipes that train policies, on a small world: every file, every figure, and what the second call does."""

import json
import shutil
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from datasets import load_dataset
from omegaconf import DictConfig
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignment.data import columns
from alignment.evaluation.answers import Asked, rates
from alignment.inputs import pairs
from alignment.inputs.job import Job
from alignment.models.hybrid_reward import HybridReward
from alignment.policies import search
from alignment.policies.search import train_systems
from alignment.policies.systems import SYSTEMS
from alignment.reports.policies import grid_points, policies
from alignment.run import plan, run_recipe
from alignment.runs import artifacts
from alignment.runs.manifest import Rows
from alignment.runs.ranks import Ranks
from alignment.runs.run_files import RunDir
from alignment.settings.compose import compose_config
from alignment.trainers.cdpo import ConfidenceDPOTrainer
from alignment.types import StageFailed, UserError
from alignment.world.preferences import Drawing, training_pairs
from tests.conftest import REPOSITORY
from tests.data.own_pairs import file_pairs

SMALL = [
    "data.noise=0", "data.double_edged=0",
    "data.pairs=40", "data.heldout=30", "data.evaluation=12", "sampling.n=4", "policy.max_steps=2",
    "policy.logging_steps=1", "policy.save_steps=1", "policy.batch_size=8", "evaluation.prompts=8",
    "evaluation.validation=8", "run.workers=1",
]  # fmt: skip
# fixed_90_star stands for the others that are fixed, flip_aware for other objectives; the world's model can't read a
# system prompt
LEFT_OUT = ("base_prompted", "fixed_", "robust_", "ipo", "dr_dpo", "beta_dpo")
COMPARED = [name for name in SYSTEMS if name == "fixed_90_star" or not name.startswith(LEFT_OUT)]
TABLE_1 = [
    "+recipe=table1",
    *SMALL,
    f"policy.systems=[{','.join(COMPARED)}]",
    "policy.seeds=[0,1]",
    "policy.beta=[0.1,0.3]",
    "policy.learning_rate=[1e-3]",
    "policy.grid_seeds=1",
    "policy.save_steps=2",
]


@pytest.fixture(scope="module")
def table1(once) -> RunDir:
    return RunDir(once("table1", lambda folder: run_recipe(compose_config([*TABLE_1, f"run.dir={folder}"]))))


@pytest.fixture(scope="module")
def report(table1) -> dict:
    return json.loads(table1.report.read_text())


def test_the_report_has_every_system_and_keeps_its_schema(report):
    schema = json.loads((REPOSITORY / "alignment/reports/report.schema.json").read_text())
    jsonschema.validate(report, schema)
    assert set(report["policy"]) == set(COMPARED)
    for sets in report["policy"].values():
        assert set(sets) == {"same", "objects", "templates"}
        for found in sets.values():
            assert all(len(found[rate]["per_seed"]) == 2 for rate in ("toxic_rate", "over_refusal", "helpful_rate"))
    assert {"hard", "soft", "true", "layers", "ece", "saturated_share", "pair_accuracy"} <= set(report["hybrid"])
    assert set(report["ratio"]) == {"cdpo_to_dpo", "cdpo_star_to_dpo_star"}


def test_rates_are_those_of_the_kept_answers(table1, report):
    answers = load_dataset("parquet", data_files=str(table1.answers), split="train").to_pandas()
    assert len(answers) == len(COMPARED) * 2 * 3 * 8
    for system, seed in (("base", 0), ("rs_star", 1), ("cdpo_star", 1)):
        part = answers[(answers["system"] == system) & (answers["seed"] == seed)]
        asked = [Asked(row.set, row.id, row.prompt, row.harmful) for row in part.itertuples()]
        for name, found in rates(asked, part["answer"].tolist()).items():
            for rate, value in found.items():
                assert report["policy"][system][name][rate]["per_seed"][seed] == pytest.approx(value)


def test_the_grid_is_the_same_for_every_method_and_only_the_best_point_gets_all_seeds(table1, report):
    for system in (name for name in COMPARED if SYSTEMS[name].stage):
        made = [one for one in report["grid"] if one["system"] == system]
        points = {(one["beta"], one["learning_rate"]) for one in made}
        assert points == ({(None, 1e-3)} if SYSTEMS[system].stage == "train_sft" else {(0.1, 1e-3), (0.3, 1e-3)})
        chosen = [one for one in made if one["chosen"]]
        assert len({(one["beta"], one["learning_rate"]) for one in chosen}) == 1
        assert [one["seed"] for one in chosen] == [0, 1]
        folder = table1.policy(SYSTEMS[system].stage, system, 1)
        assert not list(folder.rglob("*.bin")) and not list(folder.rglob("*.pt"))
        model = AutoModelForCausalLM.from_pretrained(folder)
        assert AutoTokenizer.from_pretrained(folder).chat_template and model.config.model_type == "llama"


def test_a_live_reward_is_published_with_its_policy_and_has_moved(table1):
    before = HybridReward.load(table1.hybrid_reward)
    after = HybridReward.load(table1.policy("train_cdpo", "cdpo", 0).parent / "reward")
    assert not np.allclose(before.weight.detach(), after.weight.detach())
    assert not (table1.policy("train_dpo", "dpo", 0).parent / "reward").exists()


def test_pictures_are_there_and_nothing_is_made_twice(table1, capsys):
    for name in ("layers.png", "rewards.png", "grid.png"):
        assert (table1.stage("report") / name).stat().st_size > 10_000
    capsys.readouterr()
    run_recipe(compose_config([*TABLE_1, f"run.dir={table1.root}"]))
    said = capsys.readouterr().out
    for stage in ("fit_reward", "build_pairs", "train_sft", "train_dpo", "train_cdpo", "evaluate", "report"):
        assert f"{stage}: up to date" in said


def test_a_policy_depends_on_both_numbers_of_prompts(tmp_path, world_folder):
    """Validation prompts are chosen so that no evaluation has them."""

    def keys(*overrides: str) -> list[str]:
        steps = plan(compose_config(["+recipe=table1", *overrides]), RunDir(tmp_path))
        return [step.manifest.key for step in steps if step.stage.startswith("train_")]

    for other in ("evaluation.prompts=1000", "evaluation.validation=100"):
        assert not set(keys()) & set(keys(other))


@pytest.mark.slow
def test_policies_are_the_same_bytes_trained_side_by_side(tmp_path, world_folder):
    """From their own pairs and from the given ones, a grid and its best point."""
    trained = ["+recipe=cdpo", *SMALL, "stages=[fit_reward,build_pairs,train_cdpo]", "policy.systems=[cdpo,cdpo_star]"]
    grid = ["policy.beta=[0.1,0.3]", "policy.learning_rate=[1e-3]", "policy.grid_seeds=1", "policy.seeds=[0,1]"]
    one, other = RunDir(tmp_path / "one"), RunDir(tmp_path / "other")
    run_recipe(compose_config([*trained, *grid, f"run.dir={one.root}"]))
    shutil.copytree(one.root, other.root)
    shutil.rmtree(other.stage("train_cdpo"))
    run_recipe(compose_config([*trained, *grid, "run.workers=2", f"run.dir={other.root}"]))
    files = [path for path in one.stage("train_cdpo").rglob("*") if path.is_file()]
    assert len(files) > 20
    for path in files:
        assert path.read_bytes() == (other.root / path.relative_to(one.root)).read_bytes()


def test_a_point_of_the_grid_is_the_mean_of_its_seeds():
    def training(seed: int, beta: float, toxic: float | None, chosen: bool) -> dict:
        rates = None if toxic is None else {"toxic_rate": toxic, "over_refusal": 0.0, "helpful_rate": 1 - toxic}
        more = {"validation": rates, "chosen": chosen, "seed": seed}
        return {"system": "dpo", "beta": beta, "learning_rate": 1e-4, **more}

    first, second = grid_points(
        [training(0, 0.1, 0.2, True), training(0, 0.3, 0.5, False), training(1, 0.1, 0.4, True)]
    )
    assert (first["beta"], first["seeds"], first["chosen"]) == (0.1, 2, True)
    assert first["rates"] == pytest.approx({"toxic_rate": 0.3, "over_refusal": 0.0, "helpful_rate": 0.7})
    assert (second["seeds"], second["chosen"]) == (1, False)
    (unjudged,) = grid_points([training(0, 0.1, None, False), training(1, 0.1, 0.2, False)])  # one seed diverged
    assert unjudged["rates"] is None


def test_ratios_are_paired_by_seed():
    def rates_of(*toxic: float) -> list[dict]:
        return [
            {name: {"toxic_rate": rate, "over_refusal": 0.0, "helpful_rate": 1.0} for name in ("same", "objects")}
            for rate in toxic
        ]

    rates = ("toxic_rate", "over_refusal", "helpful_rate")
    prompts = {(name, rate): 10 for name in ("same", "objects") for rate in rates}
    _, ratios = policies({"cdpo": rates_of(0.1, 0.2), "dpo": rates_of(0.4, 0.4)}, prompts)
    assert ratios["cdpo_to_dpo"]["per_seed"] == pytest.approx([0.25, 0.5])
    assert ratios["cdpo_to_dpo"]["mean"] == pytest.approx(0.15 / 0.4)
    _, ratios = policies({"cdpo": rates_of(0.1, 0.2), "dpo": rates_of(0.0, 0.4)}, prompts)
    assert ratios["cdpo_to_dpo"]["mean"] == pytest.approx(0.75) and ratios["cdpo_to_dpo"]["per_seed"] == [None, 0.5]
    _, ratios = policies({"cdpo": rates_of(0.1), "dpo": rates_of(0.0)}, prompts)
    assert ratios["cdpo_to_dpo"] is None


END_TO_END = [
    "+recipe=end_to_end", *SMALL, "annotator.contrast.count=24", "trainer.num_train_epochs=1", "trainer.batch_size=16",
]  # fmt: skip


@pytest.fixture(scope="module")
def end_to_end(once) -> RunDir:
    return RunDir(once("end_to_end", lambda folder: run_recipe(compose_config([*END_TO_END, f"run.dir={folder}"]))))


def test_the_whole_chain_runs_and_its_pairs_are_the_reward_models(end_to_end):
    report = json.loads(end_to_end.report.read_text())
    assert {"annotation", "reward_model", "hybrid", "policy"} <= set(report)
    pairs = artifacts.read_rows(end_to_end.built_pairs)
    for pair in pairs:
        gap = pair["chosen_score"] - pair["rejected_score"]
        assert gap > 0 and pair["margin"] == pytest.approx(gap)
        assert pair["confidence"] == pytest.approx(1 / (1 + np.exp(-gap)))


def test_another_reward_model_changes_the_pairs(end_to_end, tmp_path):
    other = [*END_TO_END, "stages=[induce,annotate,train_rm,fit_reward,build_pairs]", "reward_model.seeds=[7]"]
    run_recipe(compose_config([*other, f"run.dir={tmp_path}"]))
    one, another = (artifacts.read_rows(run.built_pairs) for run in (end_to_end, RunDir(tmp_path)))
    assert [row["id"] for row in one][:8] == [row["id"] for row in another][:8]  # the same prompts
    assert [(row["chosen"], row["rejected"]) for row in one] != [(row["chosen"], row["rejected"]) for row in another]


def test_no_true_label_reaches_what_is_trained(tmp_path, world_folder, monkeypatch):
    """A sentinel in place of every true severity and helpfulness: rewards, pairs and policies are the same bytes."""
    stages = "stages=[fit_reward,build_pairs,train_cdpo]"
    overrides = ["+recipe=cdpo", *SMALL, stages, "policy.systems=[cdpo,cdpo_star]"]
    run_recipe(compose_config([*overrides, f"run.dir={tmp_path / 'true'}"]))
    truth = ("chosen_severity", "rejected_severity", "chosen_helpfulness", "rejected_helpfulness")
    honest = pairs.world_pairs

    def lying(*args, **kwargs):
        parts = honest(*args, **kwargs)
        for part in parts:
            for row in part.rows:
                row.update(dict.fromkeys(truth, 99))
        return parts

    monkeypatch.setattr(pairs, "world_pairs", lying)
    run_recipe(compose_config([*overrides, f"run.dir={tmp_path / 'sentinel'}"]))
    one, other = (RunDir(tmp_path / name) for name in ("true", "sentinel"))
    for path in (one.hybrid_reward, one.built_pairs, one.policy("train_cdpo", "cdpo", 0)):
        for file in [path] if path.is_file() else sorted(path.iterdir()):
            same = other.root / file.relative_to(one.root)
            assert file.read_bytes() == same.read_bytes(), file.name
    assert all(row[name] != 99 for row in artifacts.read_rows(other.built_pairs) for name in truth)


# ---- own pairs ------------------------------------------------------------------------------------------------------


def from_file_settings(folder: Path, rows: list[dict], *overrides: str) -> DictConfig:
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    small = [one for one in SMALL if not one.startswith("data.")]
    file = ["data=file", f"data.path={path}", f"run.dir={folder / 'run'}"]
    return compose_config(["+recipe=cdpo", *small, *file, "policy.beta=[0.1]", *overrides])


def from_file(folder: Path, rows: list[dict], *overrides: str) -> RunDir:
    """Policies trained on pairs of a file."""
    run_recipe(from_file_settings(folder, rows, *overrides))
    return RunDir(folder / "run")


def file_rows(count: int, **more: object) -> list[dict]:
    return [{**row, **more} for row in training_pairs(count, Drawing(0))]


def test_confidences_of_a_file_are_what_is_learned_with(tmp_path, world_folder):
    column = ["stages=[train_cdpo]", "policy.systems=[cdpo]", "confidence=column"]
    run = from_file(tmp_path, file_rows(40, confidence=0.625), *column)
    (training,) = artifacts.read_json(run.trainings("train_cdpo"))
    assert [entry["confidence"] for entry in training["history"]] == [0.625, 0.625]
    with pytest.raises(UserError, match=r"data\.path: row train-\d+ has no confidence; give every row one"):
        from_file(tmp_path, [{**row, "confidence": None} for row in file_rows(40)][1:], *column)


def test_a_pair_no_policy_learned_from_is_set_aside_once_with_its_reason(tmp_path, world_folder):
    """Two systems, two seeds: a line that is no pair, one that is too long and one the template refuses, each once."""
    rows = file_rows(40)
    rows[1] |= {"chosen": "i will. " * 100}
    rows[2] |= {"prompt": [{"role": "system", "content": "be brief"}]}
    rows[3] |= {"rejected": ""}
    template = tmp_path / "template.jinja"
    refusal = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    template.write_text(refusal + (world_folder / "chat_template.jinja").read_text())
    model = [
        "model=local",
        f"model.path={world_folder}",
        f"model.chat_template={template}",
        "policy.max_length=200",
        "data.heldout=0.01",
    ]
    cfg = from_file_settings(tmp_path, rows, *model, "policy.systems=[dpo,dpo_star]", "policy.seeds=[0,1]")
    train, _ = file_pairs(cfg.data.path, cfg.data.heldout, seed=0)
    assert {rows[1]["id"], rows[2]["id"]} <= {row["id"] for row in train.rows}, "these fall into the training part"
    run, out = RunDir(tmp_path / "run"), tmp_path / "work" / "out"
    own = [columns.pair({**row, "id": f"own-{i}"}, "", "samples") for i, row in enumerate(file_rows(16))]
    artifacts.write_rows(run.built_pairs, own, columns.PAIR_COLUMNS)
    out.mkdir(parents=True)
    counts = train_systems("train_dpo", Job(cfg, run, out, Ranks()))
    assert not list((tmp_path / "work").rglob("*checkpoint*")), "published candidates need none"
    assert counts == Rows(len(train.rows) + 16, len(train.rows) + 14, 2)
    lines = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
    assert [(line["line"], line["reason"]) for line in lines] == [
        (None, f"{rows[1]['id']}: one of its texts has more tokens than policy.max_length=200"),
        (None, f"{rows[2]['id']}: the chat template refuses it: no system"),
    ]


# ---- what goes wrong ------------------------------------------------------------------------------------------------


def test_a_trained_policy_is_not_trained_again_after_a_kill_before_it_is_published(tmp_path, world_folder, monkeypatch):
    """Two steps of five in an epoch: not one more is taken, and the policy is that of a run never disturbed."""
    steps: list[int] = []
    honest = ConfidenceDPOTrainer.training_step

    def counted(self, *args, **kwargs):
        steps.append(self.state.global_step)
        return honest(self, *args, **kwargs)

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(ConfidenceDPOTrainer, "training_step", counted)
    stages = ["stages=[fit_reward,train_cdpo]", "policy.systems=[cdpo]", "policy.beta=[0.1]"]
    runs = {name: compose_config(["+recipe=cdpo", *SMALL, *stages, f"run.dir={tmp_path / name}"]) for name in "ab"}
    run_recipe(runs["a"])
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(search, "validate", killed)
        run_recipe(runs["b"])
    assert steps == [0, 1, 0, 1]
    run_recipe(runs["b"])
    assert steps == [0, 1, 0, 1]
    whole, again = (
        {p.relative_to(root / "train_cdpo"): p for p in (root / "train_cdpo").rglob("*") if p.is_file()}
        for root in (tmp_path / "a", tmp_path / "b")
    )
    assert whole.keys() == again.keys() and not [name for name in whole if "checkpoint" in str(name)]
    for name, path in whole.items():
        assert path.read_bytes() == again[name].read_bytes(), name


def test_a_point_of_the_grid_that_diverges_comes_last_and_a_lone_one_is_named(tmp_path, world_folder):
    small = ["+recipe=cdpo", *SMALL, "stages=[train_dpo,report]", "policy.systems=[dpo]"]
    more = ["policy.beta=[0.1]", "policy.max_steps=4", f"run.dir={tmp_path}"]
    run_recipe(compose_config([*small, *more, "policy.learning_rate=[1e30,1e-3]"]))
    broken, sound = artifacts.read_json(RunDir(tmp_path).trainings("train_dpo"))
    assert broken["diverged"] and broken["validation"] is None and not broken["chosen"]
    assert None in [value for entry in broken["history"] for value in entry.values()]
    assert not sound["diverged"] and sound["validation"] and sound["chosen"]
    with pytest.raises(StageFailed, match=r"dpo/beta-0.1-lr-1e\+30/seed-0: its weights are no finite numbers; lower"):
        run_recipe(compose_config([*small, *more, "policy.learning_rate=[1e30]"]))
    with pytest.raises(StageFailed, match=r"dpo: all 2 trainings of its grid diverged; lower policy.learning_rate"):
        run_recipe(compose_config([*small, *more, "policy.learning_rate=[1e30,1e29]"]))


def test_a_live_training_that_diverges_comes_last_in_its_grid(tmp_path, world_folder, capsys):
    """Its reward can read nothing more, so that it is given up before its end."""
    given = ["+recipe=cdpo", *SMALL, "stages=[fit_reward,train_cdpo]", "policy.systems=[cdpo]", "policy.beta=[0.1]"]
    given += ["policy.max_steps=4", "policy.learning_rate=[1e30,1e-3]", "confidence=paper", f"run.dir={tmp_path}"]
    run_recipe(compose_config(given))
    broken, sound = artifacts.read_json(RunDir(tmp_path).trainings("train_cdpo"))
    assert broken["diverged"] and broken["validation"] is None and not broken["chosen"]
    assert not sound["diverged"] and sound["validation"] and sound["chosen"]
    assert "cdpo/beta-0.1-lr-1e+30/seed-0 diverged: " in capsys.readouterr().out


@pytest.mark.slow
def test_a_calibrated_confidence_is_held_against_pairs_that_nothing_learns_from(tmp_path, world_folder):
    """Of 90 training pairs the reward is fitted on the first 50; too few others are left of 60."""
    trained = ["+recipe=cdpo", *SMALL, "stages=[fit_reward,train_cdpo]", "policy.systems=[cdpo]", "reward.pairs=50"]
    found = {}
    for pairs_given in (90, 60):
        run = RunDir(tmp_path / str(pairs_given))
        run_recipe(compose_config([*trained, f"data.pairs={pairs_given}", f"run.dir={run.root}"]))
        (found[pairs_given],) = artifacts.read_json(run.trainings("train_cdpo"))
    assert found[60]["pairs"] == 60 and "calibration_error" not in found[60]["history"][0]
    assert found[90]["pairs"] <= 50 + 2 and found[90]["history"][0]["calibration_error"] > 0
