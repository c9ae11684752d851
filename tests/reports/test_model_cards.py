"""Cards of policies and reward models: base, data and licence, figures with n and interval, a day, no local path."""

import re
from dataclasses import asdict

import pyarrow as pa
import pytest
import yaml

from alignment.data.licences import LICENCES
from alignment.data.preference_pairs import Source
from alignment.data.preference_sets import SETS
from alignment.models.model_card import Origin
from alignment.models.source import ModelSource, known_as, named
from alignment.reports.model_cards import write_cards
from alignment.runs import artifacts
from alignment.runs.manifest import Manifest
from alignment.runs.run_files import RunDir
from tests.conftest import REPOSITORY

STAGES = ("train_cdpo", "train_dpo", "train_rm")
SCORES = pa.schema([
    ("set", pa.string()), ("prompt_hash", pa.uint64()), ("margins", pa.string()), ("seed", pa.int32()),
    ("chosen_score", pa.float64()), ("rejected_score", pa.float64()),
])  # fmt: skip


@pytest.fixture
def run(tmp_path) -> RunDir:
    """A run with a policy, trained with adapters and evaluated, and a reward model."""
    run = RunDir(tmp_path / "run")
    (run.policy("train_cdpo", "cdpo_star", 0) / "adapters").mkdir(parents=True)
    training = {
        "system": "cdpo_star", "seed": 0, "beta": 0.3, "learning_rate": 1e-6, "pairs": 1234, "chosen": True,
        "steps": 52,
    }  # fmt: skip
    artifacts.write_json(run.trainings("train_cdpo"), [training, {**training, "seed": 1, "chosen": False}])
    number = {"metric": "toxic_rate", "set": "heldout", "judge": "refusal", "category": None, "n": 40}
    numbers = [
        {**number, "system": system, "value": value, "interval": [value - 0.1, value + 0.1]}
        for system, value in (("base", 0.5), ("cdpo_star", 0.2))
    ]
    systems = [{"name": name, "model": "/home/me/secret"} for name in ("base", "cdpo_star")]
    card = {"systems": systems, "numbers": numbers, "differences": [], "decoding": {}, "judges": {}, "gates": []}
    artifacts.write_json(run.scorecard, card)
    artifacts.write_json(
        run.hybrid_report, {"soft": 0.75, "pairs": {"heldout": 40}, "ci95": {"pair_accuracy": [0.5, 0.875]}}
    )
    run.reward_model("legend", 0).mkdir(parents=True)
    parity = {"loaded": 1e-6, "one_by_one": 0.0, "pipeline": 0.0, "left_padding": 0.0, "bfloat16": 0.01}
    artifacts.write_json(
        run.reward_summary, {"legend/seed-0": {"pairs": 90, "steps": 7, "parity": parity, "conversation": "A B"}}
    )
    rows = [
        {"set": "heldout", "prompt_hash": i, "margins": margins, "seed": 0,
         "chosen_score": float(i < 30), "rejected_score": 0.5}
        for margins in ("legend", "none") for i in range(40)
    ]  # fmt: skip
    artifacts.write_rows(run.reward_scores, rows, SCORES)
    made("fit_reward", run)
    made("build_pairs", run, "fit_reward")
    made("train_rm", run)
    made("train_cdpo", run, "fit_reward", "build_pairs")
    made("evaluate", run, "train_cdpo")
    made("report", run, "evaluate")
    return run


def made(stage: str, run: RunDir, *read: str) -> None:
    """The manifest of a stage that was made from others as they are published."""
    inputs = {f"stage {source}": Manifest.read(run.stage(source)).key for source in read}
    artifacts.write_json(run.stage(stage) / "manifest.json", asdict(Manifest(stage, {}, inputs, {})))


def test_cards_name_base_data_licence_figures_and_day_and_no_local_path(run, tmp_path):
    data = [
        Source("pku_saferlhf"),
        Source("file", "/home/me/secret/pairs.jsonl"),
        Source("file", "hf://datasets/a/b/c.json"),
    ]
    source = ModelSource(str(tmp_path / "my-model"), fingerprint="f" * 64)
    write_cards(run, STAGES, "cdpo", source, data, {"batch_size": 16})
    policy = (run.policy("train_cdpo", "cdpo_star", 0) / "README.md").read_text()
    reward = (run.reward_model("legend", 0) / "README.md").read_text()
    for card in (policy, reward):
        assert card.startswith("---\nlibrary_name: transformers\n") and '\nbase_model: "my-model"\n' in card
        assert 'datasets: ["PKU-Alignment/PKU-SafeRLHF", "a/b"]' in card and f"`{'f' * 16}`" in card
        assert "CC-BY-NC-4.0" in card and "`pairs.jsonl` (whose licence its owner knows)" in card
        assert re.search(r"Trained on \d{4}-\d\d-\d\d by repalign", card)
        assert "/home" not in card and str(tmp_path) not in card
    assert "| toxic answers, % | heldout | refusal | 40 | 50.0 [40.0, 60.0] | 20.0 [10.0, 30.0] |" in policy
    assert "1,234 pairs in 52 steps of 16; beta 0.3, peak learning rate 1e-06" in policy and "in `adapters`" in policy
    assert "ranks 75.0  [50.0, 87.5] percent of 40 held-out pairs right" in policy
    assert "| heldout | 40 | 75.0  [59.8, 85.8] |" in reward
    assert not (run.policy("train_cdpo", "cdpo_star", 1)).exists(), "off the best point there is none"


def test_a_policy_that_nobody_evaluated_says_so(run):
    run.scorecard.unlink()
    write_cards(run, STAGES, "cdpo", ModelSource("world"), [], {"batch_size": 16})
    card = (run.policy("train_cdpo", "cdpo_star", 0) / "README.md").read_text()
    assert 'base_model: "repalign-world"' in card and "made by a program; Apache-2.0" in card
    assert "toxic answers" not in card and "it was not evaluated" in card.lower()


def cards(run: RunDir) -> tuple[str, str]:
    folders = run.policy("train_cdpo", "cdpo_star", 0), run.reward_model("legend", 0)
    return tuple((folder / "README.md").read_text() for folder in folders)


def test_other_calls_leave_cards_as_they_are_but_for_figures_of_their_own(run):
    scorecard = artifacts.read_json(run.scorecard)
    run.scorecard.unlink()
    write_cards(run, ["annotate"], "x", ModelSource("world"), [], {"batch_size": 1})
    assert not list(run.root.rglob("README.md")), "nothing is known of how they were made"
    write_cards(run, STAGES, "cdpo", ModelSource("world"), [], {"batch_size": 16})
    policy, reward = cards(run)
    other = ModelSource("other/model", "a" * 40)
    for stages in (["inspect"], STAGES):  # these were up to date in that call, or their cards would not be there
        write_cards(run, stages, "inspect", other, [Source("hh_harmless")], {"batch_size": 1})
        assert cards(run) == (policy, reward)
    artifacts.write_json(run.scorecard, scorecard)
    write_cards(run, ["evaluate", "report"], "inspect", other, [Source("hh_harmless")], {"batch_size": 1})
    head, end = policy.split("It was not evaluated in its run.\n")
    evaluated, same = cards(run)
    assert same == reward and evaluated.startswith(head) and evaluated.endswith(end) and "| 20.0 [" in evaluated


def test_figures_of_an_earlier_policy_are_on_no_card(run):
    artifacts.write_json(run.stage("train_cdpo") / "manifest.json", asdict(Manifest("train_cdpo", {"data": 1}, {}, {})))
    write_cards(run, STAGES, "cdpo", ModelSource("world"), [], {"batch_size": 16})
    assert "toxic answers" not in cards(run)[0] and "hybrid reward" not in cards(run)[0]


@pytest.mark.parametrize(
    ("system", "read", "says"),
    [
        ("sft", ["fit_reward"], None),
        ("dpo", ["build_pairs"], None),
        ("fixed_90_star", ["build_pairs"], "that ranked its samples ranks"),
        ("dpo_star", [], None),  # another scorer ranked them
        ("cdpo", ["fit_reward"], "that gave its first confidences ranks"),
        ("cdpo", [], None),  # confidence.source=column
        ("cdpo_star", ["fit_reward", "build_pairs"], "ranked its samples and gave its first confidences"),
    ],
)
def test_a_card_names_the_reward_that_taught_its_policy_and_no_other(run, system, read, says):
    made("train_dpo", run, *read)
    training = artifacts.read_json(run.trainings("train_cdpo"))[0]
    artifacts.write_json(run.trainings("train_dpo"), [{**training, "system": system}])
    folder = run.policy("train_dpo", system, 0)
    folder.mkdir(parents=True)
    write_cards(run, STAGES, "cdpo", ModelSource("world"), [], {"batch_size": 16})
    card = (folder / "README.md").read_text()
    assert says in card if says else "hybrid reward" not in card.lower()


def test_names_with_marks_of_yaml_are_read_back():
    origin = Origin("a: b #1 'c' \"d\" é", "v", ["x/y", "- z"], "", "", "")
    head = yaml.safe_load(origin.head("text-generation", ["sft"]).split("---")[1])
    assert (head["base_model"], head["datasets"], head["tags"]) == (origin.base, origin.datasets, ["sft", "repalign"])


def test_a_model_is_known_by_its_name_on_the_hub_where_it_has_one(tmp_path):
    assert known_as(ModelSource("some/model", "a" * 40)) == ("some/model", f"commit `{'a' * 12}`")
    cached = tmp_path / "models--some--model" / "snapshots" / "abc"
    cached.mkdir(parents=True)
    assert known_as(ModelSource(str(cached), fingerprint="0"))[0] == "some/model"
    assert named(ModelSource("/home/me/model", fingerprint="abc")) == "model (a folder whose files have the hash abc)"


def test_every_preference_set_has_its_licence_and_docs_say_the_same():
    table = (REPOSITORY / "docs/data.md").read_text().split("## Preference sets")[1].split("\n\n")[1]
    told = {
        name: line.split("|")[4].strip()
        for line in table.splitlines()
        for name in re.findall(r"`(\w+)`", line.split("|")[1])
    }
    assert set(LICENCES) == set(SETS) - {"file"}
    assert {name: told[name] for name in LICENCES} == LICENCES
