"""Results lie at the top of a run's folder, as links that can be copied as files."""

import shutil

from alignment.runs import results
from alignment.runs.run_files import RunDir


def publish(run: RunDir, *places: str) -> None:
    for place in places:
        (run.root / place).mkdir(parents=True)
        (run.root / place / "config.json").write_text(place)


def test_one_of_a_kind_lies_at_the_top_and_several_in_folders_named_so(tmp_path):
    run = RunDir(tmp_path / "run")
    publish(run, "fit_reward/reward", "train_cdpo/cdpo_star/seed-0/policy", "train_cdpo/cdpo_star/seed-0/reward")
    publish(run, "train_rm/legend/seed-0", "train_rm/none/seed-0")
    lines = "\n".join(results.link(run))
    assert (run.root / "policy/config.json").read_text() == "train_cdpo/cdpo_star/seed-0/policy"
    assert (run.root / "reward/config.json").read_text() == "train_cdpo/cdpo_star/seed-0/reward", "re-fitted with it"
    assert (run.root / "reward_model/none/seed-0/config.json").read_text() == "train_rm/none/seed-0"
    assert f'transformers.AutoModelForCausalLM.from_pretrained("{run.root}/policy")' in lines
    assert f'from_pretrained("{run.root}/reward_model/<system>/seed-<n>")' in lines and "pairs.parquet" not in lines
    shutil.copytree(run.root, tmp_path / "copy")  # follows links, as cp -rL does
    shutil.rmtree(run.root)
    results.link(RunDir(tmp_path / "copy"))
    assert not (tmp_path / "copy/policy").is_symlink(), "what is no link stays"
    assert (tmp_path / "copy/reward_model/none/seed-0/config.json").read_text() == "train_rm/none/seed-0"
    assert (tmp_path / "copy/policy/config.json").read_text() == "train_cdpo/cdpo_star/seed-0/policy"


def test_adapters_that_were_merged_are_named_and_lie_in_the_models_folder(tmp_path):
    run = RunDir(tmp_path)
    publish(run, "train_cdpo/cdpo_star/seed-0/policy", "train_cdpo/cdpo_star/seed-0/policy/adapters")
    lines = "\n".join(results.link(run))
    assert f'PeftModel.from_pretrained(<the base model>, "{tmp_path}/policy/adapters")' in lines
    assert (tmp_path / "policy/adapters/config.json").is_file()


def test_links_follow_what_is_published_and_nothing_else_is_removed(tmp_path):
    run = RunDir(tmp_path)
    publish(run, "train_dpo/dpo/seed-0/policy", "train_dpo/dpo/seed-1/policy", "fit_reward/reward")
    run.pairs.parent.mkdir()
    run.pairs.write_text("pairs")
    results.link(run)
    assert (tmp_path / "policy/dpo/seed-1").is_symlink() and (tmp_path / "pairs.parquet").read_text() == "pairs"
    shutil.rmtree(tmp_path / "train_dpo/dpo/seed-1")
    shutil.rmtree(tmp_path / "fit_reward")
    results.link(run)
    assert (tmp_path / "policy").is_symlink() and not (tmp_path / "reward").is_symlink()
    assert (tmp_path / "train_dpo/dpo/seed-0/policy/config.json").exists()
