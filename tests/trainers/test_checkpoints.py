"""A checkpoint is sealed when it is whole, before anybody may copy it; a broken one is passed over."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

from alignment.runs import artifacts, manifest
from alignment.runs.ranks import Ranks
from alignment.trainers.resuming import newest_intact, seal, seal_checkpoints, train
from tests.conftest import tiny_model
from tests.trainers import test_cdpo, test_margin_rm


class Copies(TrainerCallback):
    """What is wrong with each checkpoint when other callbacks hear of it, and what it holds."""

    def __init__(self) -> None:
        self.problems: list[str | None] = []
        self.files: set[str] = set()

    def on_save(self, args, state, control, **kwargs):
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        self.problems.append(manifest.damage(folder))
        self.files = set(artifacts.read_json(folder / manifest.MANIFEST)["files"])


SAVING = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2}


def test_other_callbacks_find_a_reward_models_checkpoint_sealed(tmp_path):
    copies = Copies()
    test_margin_rm.train(tmp_path, test_margin_rm.pairs(16, [0.0] * 16), callbacks=[copies], **SAVING)
    assert copies.problems == [None, None] and {"model.safetensors", "optimizer.pt"} <= copies.files


def test_other_callbacks_find_a_policys_checkpoint_sealed_with_its_reward(tmp_path):
    tiny_model("llama", AutoModelForCausalLM).save_pretrained(tmp_path / "policy")
    trainer, _ = test_cdpo.new_trainer(tmp_path / "policy", tmp_path / "out", reward=test_cdpo.a_reward(), **SAVING)
    trainer.add_callback(copies := Copies())
    trainer.train()
    assert copies.problems == [None, None]
    assert {"model.safetensors", "optimizer.pt", "live_reward.safetensors", "reward/reward.json"} <= copies.files


@pytest.mark.parametrize("main", [True, False])
def test_what_is_kept_beside_is_written_by_the_main_process_between_two_barriers(tmp_path, main):
    trainer = Trainer(
        model=tiny_model("llama", AutoModelForCausalLM),
        args=TrainingArguments(str(tmp_path), report_to="none", use_cpu=True),
    )
    happened = []
    trainer.accelerator = SimpleNamespace(wait_for_everyone=lambda: happened.append("all wait"))
    folder = tmp_path / "checkpoint-3"
    folder.mkdir()

    def beside(where: Path) -> None:
        happened.append(where.name)
        (where / "beside").write_text("more")

    seal_checkpoints(trainer, beside)
    first = trainer.callback_handler.callbacks[0]
    arguments = SimpleNamespace(output_dir=str(tmp_path), should_save=main)
    first.on_save(arguments, SimpleNamespace(global_step=3), None)
    assert happened == (["all wait", "checkpoint-3", "all wait"] if main else ["all wait", "all wait"])
    assert (manifest.damage(folder) is None) is main


def test_a_checkpoint_that_changed_or_was_never_sealed_is_passed_over_and_removed(tmp_path):
    said: list[str] = []
    for step in (2, 10, 9):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "weights").write_text(f"of step {step}")
        if step != 10:
            seal(folder)
    assert newest_intact(tmp_path, said.append) == tmp_path / "checkpoint-9"
    assert len(said) == 1 and "checkpoint-10" in said[0] and not (tmp_path / "checkpoint-10").exists()
    (tmp_path / "checkpoint-9" / "weights").write_text("of step 8")
    assert newest_intact(tmp_path, said.append) == tmp_path / "checkpoint-2"
    assert newest_intact(tmp_path / "nothing", said.append) is None


@pytest.mark.parametrize("steps", [2, 4])
def test_a_reward_model_that_was_killed_after_its_last_checkpoint_takes_no_step_more(tmp_path, monkeypatch, steps):
    """In the middle of an epoch of four steps, where Trainer would take one, and at its end."""
    taken: list[int] = []

    class Steps(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            taken.append(state.global_step)

    def trained() -> dict:
        settings = {**SAVING, "max_steps": steps}
        with monkeypatch.context() as untrained:
            untrained.setattr(test_margin_rm.MarginRewardTrainer, "train", lambda trainer, resume_from_checkpoint: None)
            trainer, _ = test_margin_rm.train(tmp_path, test_margin_rm.pairs(26), callbacks=[Steps()], **settings)
        train(trainer, "reward model", Ranks())
        history = [entry["step"] for entry in trainer.state.log_history if "loss" in entry]
        assert history == list(range(1, steps + 1)) and trainer.state.global_step == steps
        return test_margin_rm.weights(trainer)

    first = trained()
    assert taken == list(range(1, steps + 1))
    assert test_margin_rm.same(trained(), first) and len(taken) == steps
