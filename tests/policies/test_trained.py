"""Which models of a run were trained, as far as their folders tell."""

from pathlib import Path

import pytest

from alignment.models.model_card import Origin
from alignment.models.source import folder_fingerprint
from alignment.policies.trained import is_policy, trained_models
from alignment.runs.run_files import RunDir
from alignment.settings.compose import compose_config

ORIGIN = Origin("base", "commit", [], "pairs", "today", "repalign 1, recipe `cdpo`")


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """A policy as a run keeps it, with another seed's beside it."""
    run = RunDir(tmp_path / "run")
    for seed in (0, 1):
        folder = run.policy("train_cdpo", "cdpo_star", seed)
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(f'{{"seed": {seed}}}')
    run.trainings("train_cdpo").write_text("[]")
    return run.policy("train_cdpo", "cdpo_star", 0)


def test_a_policy_is_known_where_it_lies_and_by_its_card(policy: Path, tmp_path: Path) -> None:
    assert is_policy(policy) and not is_policy(policy.parent)
    copy = policy.rename(tmp_path / "mine")
    assert not is_policy(copy)
    (copy / "README.md").write_text("---\ntags: [alignment, dpo]\n---\nnot ours")
    assert not is_policy(copy)
    (copy / "README.md").write_text(ORIGIN.head("text-generation", ["alignment", "dpo"]) + "# mine")
    assert is_policy(copy)


def test_of_a_scorecard_both_models_count(policy: Path, tmp_path: Path) -> None:
    other = policy.parents[1] / "seed-1/policy"
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "config.json").write_text("{}")
    recipe = ["+recipe=scorecard", f"scorecard.after={other}", "evaluation.sets=[xstest]"]
    trained = trained_models(compose_config([*recipe, f"scorecard.before={policy}"]), RunDir(tmp_path), set())
    assert trained == {"scorecard.before": folder_fingerprint(policy), "scorecard.after": folder_fingerprint(other)}
    trained = trained_models(compose_config([*recipe, f"scorecard.before={plain}"]), RunDir(tmp_path), set())
    assert trained == {"scorecard.after": folder_fingerprint(other)}


def test_of_a_recipe_the_policies_that_stay_count_and_what_they_began_as(policy: Path, tmp_path: Path) -> None:
    run, own = RunDir(tmp_path / "run"), ["policy.systems=[base,cdpo_star]", "policy.seeds=[0,1]"]
    cfg = compose_config(["+recipe=cdpo", *own])
    both = {
        f"cdpo_star, seed {seed}": folder_fingerprint(run.policy("train_cdpo", "cdpo_star", seed)) for seed in (0, 1)
    }
    assert trained_models(cfg, run, {"evaluate"}) == both and both["cdpo_star, seed 0"] != both["cdpo_star, seed 1"]
    assert trained_models(cfg, run, {"train_cdpo", "evaluate"}) == {}
    pairs = ["data=file", f"data.path={__file__}", "evaluation.sets=[data]"]
    further = compose_config(["+recipe=cdpo", *own, "model=local", f"model.path={policy}", *pairs])
    assert trained_models(further, RunDir(tmp_path / "new"), set()) == {"model.path": folder_fingerprint(policy)}
