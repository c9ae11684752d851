"""TRL and transformers still call the methods that we override in the order, and with the values, that we rely on."""

from pathlib import Path

import pytest
from datasets import Dataset
from transformers import AutoModelForCausalLM
from trl import DPOTrainer, RewardTrainer

from tests.conftest import tiny_model
from tests.trainers.trl_alone import PAIRS_IN_STEP, ROWS, Recorded, checks, new, policy

DPO, TRAINER = "trl.DPOTrainer", "transformers.Trainer"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("policy")
    tiny_model("llama", AutoModelForCausalLM).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def settings() -> dict:
    """Five pairs in micro-batches of two, two to a step: steps of 4 pairs and of 1, each logged, judged and kept."""
    return {
        "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "num_train_epochs": 1, "logging_steps": 1,
        "save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1,
        "load_best_model_at_end": True, "eval_dataset": Dataset.from_list(ROWS[:2]),
    }  # fmt: skip


@pytest.fixture(scope="module")
def trained(folder, settings, tmp_path_factory) -> Recorded:
    trainer = new(folder, tmp_path_factory.mktemp("out"), Recorded, **settings)
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def resumed(folder, settings, trained) -> Recorded:
    out = Path(trained.args.output_dir)
    trainer = new(folder, out, Recorded, **settings)
    trainer.train(resume_from_checkpoint=str(out / "checkpoint-1"))
    return trainer


@pytest.fixture(scope="module")
def precomputed(folder, settings, tmp_path_factory) -> Recorded:
    out = tmp_path_factory.mktemp("out")
    return new(folder, out, Recorded, **settings, precompute_ref_log_probs=True, precompute_ref_batch_size=3)


def order(trainer: Recorded, *names: str) -> list[str]:
    return [event.name for event in trainer.events if event.name in names]


# ---- a step ---------------------------------------------------------------------------------------------------------


@checks(TRAINER, "get_batch_samples")
def test_a_step_begins_with_all_its_micro_batches(trained):
    """PairMean counts a step's pairs from global_step: the number of steps that are finished."""
    assert [(event.step, event.saw) for event in trained.seen("get_batch_samples")] == [
        (0, {"asked": 2, "got": 2}),
        (1, {"asked": 1, "got": 1}),
    ], "get_batch_samples is no longer called once per optimiser step, before global_step counts it"
    step = ["get_batch_samples", "compute_loss", "training_step", "compute_loss", "training_step"]
    assert order(trained, *step)[:5] == step
    losses = [event.saw for event in trained.seen("compute_loss") if event.saw["training"]]
    assert [saw["ours"] for saw in losses] == [0, 1, 0], "what get_batch_samples adds no longer reaches compute_loss"


@checks(DPO, "compute_loss")
def test_the_loss_hears_what_the_step_was_said_to_hold(trained):
    losses = [event.saw for event in trained.seen("compute_loss")]
    assert {saw["pairs"] for saw in losses if saw["training"]} == {PAIRS_IN_STEP}, "num_items_in_batch is another's"
    evaluated = [saw for saw in losses if not saw["training"]]
    assert evaluated and {saw["pairs"] for saw in evaluated} == {saw["ours"] for saw in evaluated} == {None}
    assert not any(saw["return_outputs"] for saw in losses if saw["training"]), "training now asks the loss for outputs"


@checks(DPO, "training_step", "loss_is_scaled_for_ga")
@checks("trl.RewardTrainer", "loss_is_scaled_for_ga")
@checks(TRAINER, "current_gradient_accumulation_steps")
def test_a_loss_is_divided_by_the_micro_batches_of_its_step(trained):
    """PairMean.step_mean multiplies by the same number. The second step has one micro-batch only."""
    losses = [event.saw for event in trained.seen("compute_loss") if event.saw["training"]]
    steps = [event.saw for event in trained.seen("training_step")]
    assert [saw["accumulation"] for saw in losses] == [2, 2, 1]
    for loss, step in zip(losses, steps, strict=True):
        assert step["loss"] == pytest.approx(loss["loss"] / loss["accumulation"]), "the loss is scaled in another way"
    for kind in (DPOTrainer, RewardTrainer):
        assert kind.loss_is_scaled_for_ga is False, f"{kind.__name__} leaves the division to its loss"
    assert all(step["slopes"] for step in steps), "training_step no longer includes the backward pass"


@checks("accelerate.Accelerator", "sync_gradients")
def test_the_last_micro_batch_of_a_step_is_known_within_it(trained):
    assert [event.saw["sync"] for event in trained.seen("training_step")] == [False, True, True]


@checks(TRAINER, "compute_loss_context_manager")
def test_the_loss_is_computed_in_its_context(trained):
    assert {event.saw["inside"] for event in trained.seen("compute_loss") if event.saw["training"]} == {1}


@checks(DPO, "log", "evaluate")
def test_a_step_ends_with_its_log_then_evaluation_then_checkpoint(trained):
    """The checkpoint's reward is that of the step's end, and the evaluation's is the same."""
    ends = ["log", "evaluate", "log", "on_save"]
    assert order(trained, "training_step", *ends)[:7] == ["training_step"] * 2 + [*ends, "training_step"]
    first, second = trained.seen("log")[:2]
    assert "loss" in first.saw["names"] and first.saw["training"]
    assert "eval_loss" in second.saw["names"] and not second.saw["training"], "ours tells the modes apart by this"


# ---- the beginning, checkpoints, the end ----------------------------------------------------------------------------


@checks(TRAINER, "model_wrapped")
def test_training_begins_when_the_model_is_wrapped(trained):
    assert order(trained, "model_wrapped", "on_train_begin", "get_batch_samples")[:4] == [
        "model_wrapped", "model_wrapped", "on_train_begin", "get_batch_samples",  # __init__, train, ...
    ], "on_train_begin no longer comes between wrapping and the first step: the reward is fitted there"  # fmt: skip


@checks(TRAINER, "_load_optimizer_and_scheduler")
def test_on_resuming_the_optimiser_comes_back_before_training_begins(trained, resumed):
    """Otherwise a new reward would be fitted, on another policy, before the kept one is loaded."""
    assert order(resumed, "_load_optimizer_and_scheduler", "on_train_begin", "get_batch_samples") == [
        "_load_optimizer_and_scheduler", "on_train_begin", "get_batch_samples",
    ]  # fmt: skip
    (loaded,) = resumed.seen("_load_optimizer_and_scheduler")
    assert resumed.seen("on_train_begin")[0].step == 1, "callbacks don't know how far the checkpoint had come"
    assert loaded.saw["checkpoint"] == str(Path(trained.args.output_dir) / "checkpoint-1")
    assert [event.step for event in resumed.seen("get_batch_samples")] == [1], "steps already taken are taken again"
    assert all(event.saw["checkpoint"] is None for event in trained.seen("_load_optimizer_and_scheduler"))


@checks(TRAINER, "callback_handler")
def test_a_checkpoint_is_whole_when_the_first_callback_hears_of_it(trained):
    kept = trained.seen("on_save")
    assert [event.step for event in kept] == [1, 2]
    for event in kept:
        assert {"model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json"} <= event.saw["files"], (
            "output_dir/checkpoint-<step> is not whole when on_save is called, and would be sealed as it is"
        )


@checks(TRAINER, "_load_best_model")
def test_the_best_model_comes_back_after_the_last_step(trained):
    assert order(trained, "_load_best_model", "training_step", "on_save")[-1] == "_load_best_model"
    (loaded,) = trained.seen("_load_best_model")
    assert Path(loaded.saw["checkpoint"]).parent == Path(trained.args.output_dir)


@checks(TRAINER, "save_model")
def test_saving_leaves_a_pickle_beside_the_weights(trained, tmp_path):
    trained.save_model(str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} >= {"training_args.bin", "model.safetensors", "config.json"}


# ---- the data -------------------------------------------------------------------------------------------------------


@checks(DPO, "_prepare_dataset")
def test_data_are_prepared_before_the_trainer_is_one(trained):
    assert [event.saw for event in trained.seen("_prepare_dataset")][:2] == [
        {"name": "train", "initialised": False},
        {"name": "eval", "initialised": False},
    ]


@checks(DPO, "_precompute_ref_logps", "_precompute_model_hash", "_precompute_engine")
def test_reference_log_probabilities_are_asked_for_once_per_data_set(folder, trained, precomputed, tmp_path):
    assert not trained.seen("_precompute_ref_logps")
    asked = [event.saw for event in precomputed.seen("_precompute_ref_logps")]
    assert [(saw["name"], saw["batch_size"], saw["rows"]) for saw in asked] == [("train", 3, 5), ("eval", 3, 2)]
    assert all(saw["_precompute_engine"] is None and callable(saw["data_collator"]) for saw in asked)
    (key,) = {saw["_precompute_model_hash"] for saw in asked}
    changed = AutoModelForCausalLM.from_pretrained(folder)
    changed.lm_head.weight.data[0, 0] += 1
    changed.save_pretrained(tmp_path / "changed")
    again, other = (
        new(path, tmp_path, Recorded, precompute_ref_log_probs=True)._precompute_model_hash
        for path in (folder, tmp_path / "changed")
    )
    given = new(folder, tmp_path, Recorded, precompute_ref_log_probs=True, ref_model=policy(tmp_path / "changed"))
    assert isinstance(key, str) and key == again != other, "the hash no longer stands for the reference's weights"
    assert given._precompute_model_hash == other
    assert list(precomputed.train_dataset["ref_chosen_logps"]) == [-0.0, -1.0, -2.0, -3.0, -4.0]
    precomputed.evaluate(Dataset.from_list(ROWS[:3]))
    last = precomputed.seen("_precompute_ref_logps")[-1].saw
    assert (last["name"], last["rows"]) == ("eval", 3), "evaluate no longer asks for references of a new data set"
    judged = precomputed.seen("compute_loss")[-1].saw
    assert judged["reference"].tolist() == [-0.0, -1.0, -2.0], "the columns no longer reach the loss"
