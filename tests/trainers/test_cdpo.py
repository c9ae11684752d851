"""The confidence-DPO trainer beside TRL's DPOTrainer, Mitchell's formula and itself cut up differently."""

import copy
from functools import cache

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from torch.nn.functional import logsigmoid
from transformers import AutoModelForCausalLM, TrainerCallback
from trl import DPOConfig, DPOTrainer

from alignment.models.hybrid_reward import HybridReward
from alignment.trainers.cdpo import ConfidenceDPOTrainer
from alignment.trainers.cdpo_config import ConfidenceDPOConfig
from alignment.trainers.resuming import newest_intact
from alignment.types import Diverged, StageFailed, UserError
from tests.conftest import byte_tokenizer, tiny_model

LAYERS, WIDTH = 3, 32
END = byte_tokenizer("chatml").eos_token_id
CPU = {
    "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "seed": 3, "bf16": False, "use_cpu": True,
    "dataloader_pin_memory": False, "activation_checkpointing": False, "logging_steps": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny policy on disk, where TRL finds the reference."""
    path = tmp_path_factory.mktemp("policy")
    tiny_model("llama", AutoModelForCausalLM).save_pretrained(path)
    byte_tokenizer("chatml").save_pretrained(path)
    return path


def pairs(count: int = 26, seed: int = 0, longest: int = 12, **columns) -> Dataset:
    """Token ids; chosen answers use low ids, rejected ones high ids, so that there is something to learn."""
    random = np.random.default_rng(seed)

    def answer(low: int, high: int) -> list[int]:
        return [*random.integers(low, high, random.integers(3, longest)).tolist(), END]

    rows = [
        {
            "prompt_ids": random.integers(10, 250, random.integers(3, 8)).tolist(),
            "chosen_ids": answer(10, 140),
            "rejected_ids": answer(100, 250),
        }
        for _ in range(count)
    ]
    data = Dataset.from_list(rows)
    for name, values in columns.items():
        data = data.add_column(name, values)
    return data


def text_pairs(count: int = 24) -> Dataset:
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": f"question {i}"}],
                "chosen": [{"role": "assistant", "content": f"a good answer {i * 7 % 11}"}],
                "rejected": [{"role": "assistant", "content": f"bad {i * 5 % 13}"}],
            }
            for i in range(count)
        ]
    )


def a_reward(seed: int = 0, gate: str = "sigmoid_scores") -> HybridReward:
    return copy.deepcopy(_fitted(seed, gate))


@cache
def _fitted(seed: int, gate: str) -> HybridReward:
    random = torch.Generator().manual_seed(seed)
    chosen, rejected = (torch.randn(40, LAYERS, WIDTH, generator=random) + shift for shift in (0.2, -0.2))
    return HybridReward.fit(chosen, rejected, gate=gate, seed=0)


def fitted_reward(policy, data, out) -> HybridReward:
    """A reward that knows what chosen and rejected answers look like to this policy."""
    from alignment.trainers.start import fit_reward

    trainer, _ = new_trainer(policy, out, data, reward=a_reward())
    return fit_reward(trainer.train_dataset, trainer.args, trainer.accelerator, trainer.states_of)


class Steps(TrainerCallback):
    """What was logged at each step."""

    def __init__(self) -> None:
        self.logs: list[dict] = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            self.logs.append(dict(logs))

    def of(self, name: str) -> list[float]:
        return [logs[name] for logs in self.logs]


def new_trainer(
    policy,
    out,
    data=None,
    reward=None,
    kind=ConfidenceDPOTrainer,
    model=None,
    peft_config=None,
    eval_dataset=None,
    calibration_dataset=None,
    **settings,
):
    config = ConfidenceDPOConfig if kind is ConfidenceDPOTrainer else DPOConfig
    arguments = config(
        output_dir=str(out),
        **{
            **CPU,
            "per_device_train_batch_size": 8,
            "learning_rate": 3e-3,
            "num_train_epochs": 2,
            "beta": 0.3,
            **settings,
        },
    )
    tokenizer = byte_tokenizer("chatml")
    model = model or AutoModelForCausalLM.from_pretrained(policy, attn_implementation="eager", dtype=torch.float32)
    more = {"reward": reward, "calibration_dataset": calibration_dataset} if kind is ConfidenceDPOTrainer else {}
    steps = Steps()
    trainer = kind(
        model=model, args=arguments, train_dataset=data or pairs(), processing_class=tokenizer, callbacks=[steps],
        peft_config=peft_config, eval_dataset=eval_dataset, **more,
    )  # fmt: skip
    return trainer, steps


def train(*args, resume=None, **kwargs):
    trainer, steps = new_trainer(*args, **kwargs)
    trainer.train(resume_from_checkpoint=resume)
    return trainer, steps


def weights(trainer) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trainer.model.named_parameters()}


def head(trainer) -> torch.Tensor:
    return torch.cat([value.detach().flatten() for value in trainer.live.reward.parameters()])


def furthest(one: dict, other: dict) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


# ---- the loss -------------------------------------------------------------------------------------------------------


def one_batch(trainer):
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(8)])
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return loss.item(), {name: value.grad.clone() for name, value in trainer.model.named_parameters()}


@pytest.mark.parametrize("packing", ["auto", "off"])
def test_full_confidence_is_trls_dpo_loss_and_gradient_on_the_same_batch(folder, tmp_path, packing):
    """Away from the reference too, where z is not 0."""
    dpo = {"confidence": "fixed", "fixed_confidence": 1.0, "packing": packing}
    data = text_pairs()
    moved = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    for parameter in moved.parameters():
        parameter.data *= 1.05
    found = {}
    for kind, more in ((DPOTrainer, {}), (ConfidenceDPOTrainer, dpo)):
        trainer, _ = new_trainer(folder, tmp_path / kind.__name__, data, kind=kind, model=copy.deepcopy(moved), **more)
        found[kind] = one_batch(trainer)
    # z is beta times four sums of some 100 nats, each rounded to 24 bits
    assert found[DPOTrainer][0] == pytest.approx(found[ConfidenceDPOTrainer][0], abs=0.3 * 4 * 100 * 2**-24)
    assert abs(found[DPOTrainer][0] - np.log(2)) > 1e-3
    for name, gradient in found[DPOTrainer][1].items():
        assert gradient.abs().max() > 0, name
        difference = (gradient - found[ConfidenceDPOTrainer][1][name]).abs().max()
        assert difference <= 1e-5 * gradient.abs().max(), name


@pytest.mark.parametrize(
    ("settings", "attention"),
    [
        ({}, "sdpa"),
        ({}, "eager"),
        ({"gradient_accumulation_steps": 2, "packing_max_tokens": 40}, "sdpa"),
        ({"activation_checkpointing": True}, "sdpa"),
        ({"peft_config": LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM")}, "eager"),
        ({"precompute_ref_log_probs": True}, "sdpa"),
        ({"confidence": "fixed", "fixed_confidence": 0.9, "max_length": 14}, "eager"),
        ({"bf16": True}, "sdpa"),
    ],
    ids=["live-sdpa", "live-eager", "accumulated", "checkpointing", "lora", "precomputed", "cut", "bf16"],
)
def test_packed_rows_train_as_padded_ones_do(folder, tmp_path, settings, attention):
    """Losses, confidences, the reward and what an evaluation finds.

    In bfloat16 packed and padded rows round elsewhere: as far apart as a few times what rounding does to padded ones.
    """
    live = "confidence" not in settings
    slow = {"learning_rate": 1e-4} | ({"refit_learning_rate": 1e-4} if live else {})  # AdamW blows up rounding

    def figures(packing: str, **more) -> dict[str, np.ndarray]:
        model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention, dtype=torch.float32)
        trainer, steps = train(
            folder, tmp_path / packing, pairs(40), model=model, reward=a_reward() if live else None, packing=packing,
            eval_dataset=pairs(9, seed=5), max_steps=3, **{**slow, **settings, **more},
        )  # fmt: skip
        assert trainer.layout.packed == (packing == "auto")
        assert not live or trainer.live.reward.weight.dtype == torch.float64
        found = {name: steps.of(name) for name in ("loss", "confidence", *(["hybrid_gap"] if live else []))}
        found |= {"evaluated": [trainer.evaluate()["eval_loss"]]} | ({"head": head(trainer).tolist()} if live else {})
        return {name: np.array(values) for name, values in found.items()}

    packed, padded = figures("auto"), figures("off")
    whole = figures("off", bf16=False) if "bf16" in settings else padded
    for name, expected in padded.items():
        rounding = np.abs(expected - whole[name]).max()
        assert (rounding > 0) == ("bf16" in settings), name
        np.testing.assert_allclose(packed[name], expected, rtol=2e-5, atol=2e-5 + 4 * rounding, err_msg=name)


def test_full_confidence_trains_as_trl_does(folder, tmp_path):
    settings = {"max_steps": 6}
    ours, our_steps = train(
        folder, tmp_path / "a", text_pairs(24), confidence="fixed", fixed_confidence=1.0, **settings
    )
    theirs, their_steps = train(folder, tmp_path / "b", text_pairs(24), kind=DPOTrainer, **settings)
    assert our_steps.of("loss") == pytest.approx(their_steps.of("loss"), rel=1e-5)
    assert furthest(weights(ours), weights(theirs)) < 1e-5
    assert our_steps.of("dpo_gap") == pytest.approx(their_steps.of("rewards/margins"), rel=1e-4, abs=1e-6)


def test_a_constant_confidence_is_mitchells_label_smoothing(folder, tmp_path):
    trainer, _ = new_trainer(folder, tmp_path, confidence="fixed", fixed_confidence=0.8)
    for parameter in trainer.model.parameters():
        parameter.data *= 1.05
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(8)])
    with torch.no_grad():
        z = 0.3 * trainer.judge(trainer.model, dict(batch)).log_ratio_difference
        smoothing = 0.2  # losses = -logsigmoid(z) * (1 - smoothing) - logsigmoid(-z) * smoothing
        expected = (-logsigmoid(z) * (1 - smoothing) - logsigmoid(-z) * smoothing).mean()
        assert trainer.compute_loss(trainer.model, dict(batch)).item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_misprint_makes_the_policy_worse(folder, tmp_path):
    """epsilon = gamma pushes every pair that the reward is sure of towards the rejected answer."""
    data = pairs(48)
    right, _ = train(folder, tmp_path / "a", data.add_column("confidence", [0.95] * 48), confidence="column")
    wrong, _ = train(folder, tmp_path / "b", data.add_column("confidence", [0.05] * 48), confidence="column")
    assert accuracy(right, data) > 0.8 and accuracy(wrong, data) < 0.2


def accuracy(trainer, data) -> float:
    trainer.model.eval()
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(data))])
    with torch.no_grad():
        return (trainer.judge(trainer.model, batch).log_ratio_difference > 0).float().mean().item()


@torch.no_grad()
def alone(model, rows) -> torch.Tensor:
    """(answer, layer, width): each answer behind its prompt by itself, at the end token that closes it."""
    texts = [row["prompt_ids"] + row[side] for side in ("chosen_ids", "rejected_ids") for row in rows]
    outputs = [model(torch.tensor([ids]), output_hidden_states=True).hidden_states[1:] for ids in texts]
    return torch.stack([torch.stack([hidden[0, -1] for hidden in layers]) for layers in outputs])


@pytest.mark.parametrize("confidence", ["paper", "released", "calibrated"])
def test_live_confidences_are_their_formulas_on_the_states_of_the_policy(folder, tmp_path, confidence):
    trainer, _ = new_trainer(folder, tmp_path, reward=a_reward(), confidence=confidence)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(8)])
    with torch.no_grad():
        judged = trainer.judge(trainer.model, dict(batch))
    states = alone(trainer.model, trainer.train_dataset.select(range(8)))
    rewards = trainer.live.reward.score(states)
    chosen, rejected = rewards[:8], rewards[8:]
    expected = {
        "paper": torch.sigmoid(7.5 * (chosen - rejected)),
        "calibrated": torch.sigmoid(trainer.live.reward.alpha * (chosen - rejected)),
        "released": torch.sigmoid(7.5 * (chosen.sigmoid().mean() - rejected.sigmoid().mean())).clamp(min=0.5).expand(8),
    }[confidence]
    assert torch.allclose(judged.confidence.double(), expected, atol=1e-6)


# ---- cut up differently ---------------------------------------------------------------------------------------------


def test_micro_batches_make_no_difference_to_policy_and_reward(folder, tmp_path):
    """52 pairs in batches of 8: every epoch ends with one of 4."""
    data = pairs(52)
    reward = fitted_reward(folder, data, tmp_path)
    settings = {"num_train_epochs": 3, "learning_rate": 1e-3, "refit_learning_rate": 1e-3}
    whole, steps = train(folder, tmp_path / "a", data, reward=copy.deepcopy(reward), **settings)
    parts, part_steps = train(
        folder, tmp_path / "b", data, reward=copy.deepcopy(reward), **settings,
        per_device_train_batch_size=2, gradient_accumulation_steps=4,
    )  # fmt: skip
    assert len(steps.logs) == 21 and np.mean(steps.of("loss")[-7:]) < 0.8 * steps.of("loss")[0]
    for name in ("loss", "confidence", "hybrid_gap", "dpo_gap", "head_loss", "saturated_share", "gate_weight_2"):
        assert part_steps.of(name) == pytest.approx(steps.of(name), rel=1e-4, abs=1e-5), name
    assert (head(whole) - head(parts)).abs().max() < 1e-5
    assert furthest(weights(whole), weights(parts)) < 1e-4


def test_resuming_is_exact(folder, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 3, "num_train_epochs": 3}
    whole, steps = train(folder, tmp_path / "whole", reward=a_reward(), **settings)
    checkpoint = newest_intact(tmp_path / "whole", print).with_name("checkpoint-6")
    again, rest = train(folder, tmp_path / "again", reward=a_reward(1), resume=str(checkpoint), **settings)
    assert rest.of("loss") == steps.of("loss")[6:] and len(rest.logs) == 6
    assert rest.of("confidence") == steps.of("confidence")[6:]
    assert furthest(weights(whole), weights(again)) == 0
    assert torch.equal(head(whole), head(again))


def test_the_best_model_comes_back_with_its_reward(folder, tmp_path):
    trainer, _ = train(
        folder, tmp_path, reward=a_reward(), save_strategy="steps", save_steps=2, eval_strategy="steps", eval_steps=2,
        load_best_model_at_end=True, confidence="paper", max_steps=6, learning_rate=0.1, eval_dataset=pairs(10, seed=5),
    )  # fmt: skip
    assert not trainer.state.best_model_checkpoint.endswith("checkpoint-6")  # such a rate only makes it worse
    best = HybridReward.load(f"{trainer.state.best_model_checkpoint}/reward")
    assert torch.equal(best.weight, trainer.live.reward.weight)


# ---- who moves what -------------------------------------------------------------------------------------------------


def test_policy_and_reward_move_and_the_reference_does_not(folder, tmp_path):
    trainer, _ = new_trainer(folder, tmp_path, reward=a_reward())
    before, reward_before = weights(trainer), head(trainer)
    reference = {name: value.detach().clone() for name, value in trainer.ref_model.named_parameters()}
    trainer.train()
    after = weights(trainer)
    assert all(not torch.equal(before[name], after[name]) for name in before if "embed" not in name)
    assert not torch.equal(reward_before, head(trainer))
    policy = {value.data_ptr() for value in trainer.model.parameters()}
    for name, value in trainer.ref_model.named_parameters():
        assert torch.equal(value, reference[name]) and value.data_ptr() not in policy
        assert value.grad is None


def test_no_gradient_passes_between_policy_and_reward(folder, tmp_path):
    """The policy's gradient is that of a constant gamma; the reward's parameters get none from its loss."""
    trainer, _ = new_trainer(folder, tmp_path / "a", reward=a_reward())
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(8)])
    gamma = trainer.judge(trainer.model, dict(batch)).confidence
    assert not gamma.requires_grad
    loss = trainer.compute_loss(trainer.model, dict(batch))
    loss.backward()
    assert all(parameter.grad is None for parameter in trainer.live.reward.parameters())
    live = {name: value.grad.clone() for name, value in trainer.model.named_parameters()}
    trainer.live.step(lambda sums: sums)
    for name, value in trainer.model.named_parameters():
        assert torch.equal(value.grad, live[name])
    rows = [{**trainer.train_dataset[i], "confidence": float(gamma[i])} for i in range(8)]
    static, _ = new_trainer(folder, tmp_path / "b", Dataset.from_list(rows), confidence="column")
    batch = static.data_collator([static.train_dataset[i] for i in range(8)])
    static.compute_loss(static.model, batch).backward()
    for name, value in static.model.named_parameters():
        assert torch.allclose(value.grad, live[name], atol=1e-7), name


@pytest.mark.parametrize("reentrant", [True, False])
def test_hooks_fire_once_per_block_and_step_under_gradient_checkpointing(folder, tmp_path, reentrant, monkeypatch):
    from alignment.models import activations

    fired: list[int] = []
    record = activations.Reader.record

    def counted(self, layer, hidden):
        fired.append(layer)
        record(self, layer, hidden)

    monkeypatch.setattr(activations.Reader, "record", counted)
    settings = {"activation_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": reentrant}}
    trainer, steps = new_trainer(folder, tmp_path, reward=a_reward(), max_steps=3, **settings)
    trainer.train()
    assert sorted(fired) == sorted(
        [1, 2, 3] * 21
    )  # three steps, the check at start, and packed rows against 16 answers
    _, plain_steps = train(folder, tmp_path / "plain", reward=a_reward(), max_steps=3)
    assert steps.of("loss") == pytest.approx(plain_steps.of("loss"), rel=1e-6)


def test_what_the_reward_reads_does_not_grow_with_the_answers(folder, tmp_path):
    """One state per answer and layer, however long it is: so is the cost of judging and of the re-fit."""
    shapes = []
    for longest in (6, 60):
        trainer, _ = new_trainer(folder, tmp_path, pairs(longest=longest), reward=a_reward())
        batch = trainer.data_collator([trainer.train_dataset[i] for i in range(8)])
        shapes.append(trainer.judge(trainer.model, batch).states.shape)
    assert shapes == [(16, LAYERS, WIDTH)] * 2


def test_answers_that_were_cut_teach_the_reward_nothing(folder, tmp_path):
    """The second pair's answer is too long: the reward's step is that of the first pair alone."""
    rows = pairs(2, longest=6).to_list()
    rows[1]["chosen_ids"] = rows[1]["chosen_ids"] * 4
    limit = len(rows[1]["prompt_ids"]) + 8
    assert all(len(rows[0]["prompt_ids"]) + len(rows[0][side]) <= limit for side in ("chosen_ids", "rejected_ids"))
    both, _ = new_trainer(folder, tmp_path / "a", Dataset.from_list(rows), reward=a_reward(), max_length=limit)
    one, _ = new_trainer(folder, tmp_path / "b", Dataset.from_list(rows[:1]), reward=a_reward(), max_length=limit)
    for trainer in (both, one):
        batch = trainer.data_collator([row for row in trainer.train_dataset])
        trainer.model.train()
        trainer.compute_loss(trainer.model, batch)
        trainer.live.step(lambda sums: sums)
    assert torch.allclose(head(both), head(one), atol=1e-6)


# ---- what it works with ---------------------------------------------------------------------------------------------


def test_with_lora_the_reference_is_the_policy_without_adapters(folder, tmp_path):
    adapters = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer, steps = train(folder, tmp_path, reward=a_reward(), peft_config=adapters, learning_rate=1e-2)
    assert trainer.ref_model is None
    assert steps.of("loss")[0] == pytest.approx(np.log(2), rel=1e-5) and max(np.abs(steps.of("dpo_gap"))) > 0.1
    adapted = {name: value for name, value in trainer.model.named_parameters() if value.requires_grad}
    assert adapted and all("lora_" in name for name in adapted)
    assert all(value.abs().max() > 0 for name, value in adapted.items() if "lora_B" in name)


def test_precomputed_reference_log_probs_are_kept_and_change_nothing(folder, tmp_path):
    _, steps = train(folder, tmp_path / "a", reward=a_reward(), max_steps=2)
    _, pre_steps = train(folder, tmp_path / "b", reward=a_reward(), max_steps=2, precompute_ref_log_probs=True)
    assert pre_steps.of("loss") == pytest.approx(steps.of("loss"), rel=1e-4)
    (kept,) = (tmp_path / "b" / "reference_log_probs").iterdir()
    before = kept.stat().st_mtime_ns
    _, again = train(folder, tmp_path / "b", reward=a_reward(), max_steps=2, precompute_ref_log_probs=True)
    assert kept.stat().st_mtime_ns == before and again.of("loss") == pre_steps.of("loss")
    train(folder, tmp_path / "b", pairs(26, seed=9), reward=a_reward(), max_steps=1, precompute_ref_log_probs=True)
    assert len(list((tmp_path / "b" / "reference_log_probs").iterdir())) == 2


def test_references_of_another_precision_are_not_taken(folder, tmp_path):
    train(folder, tmp_path, reward=a_reward(), max_steps=1, precompute_ref_log_probs=True)
    train(folder, tmp_path, reward=a_reward(), max_steps=1, precompute_ref_log_probs=True, bf16=True)
    assert len(list((tmp_path / "reference_log_probs").iterdir())) == 2


def test_evaluation_logs_the_same_quantities_over_all_pairs(folder, tmp_path):
    trainer, _ = new_trainer(folder, tmp_path, reward=a_reward(), per_device_eval_batch_size=8)
    before = head(trainer)
    data = pairs(13, seed=4)
    metrics = trainer.evaluate(data)
    assert trainer.live.step(lambda sums: sums) is None, "it waits to learn from the pairs of an evaluation"
    assert torch.equal(before, head(trainer))
    batch = trainer.data_collator([data[i] for i in range(13)])
    with torch.no_grad():
        judged = trainer.judge(trainer.model, batch)
    assert metrics["eval_confidence"] == pytest.approx(judged.confidence.mean().item(), rel=1e-5)
    assert metrics["eval_hybrid_accuracy"] == pytest.approx(
        (judged.rewards[:13] > judged.rewards[13:]).double().mean().item()
    )


def test_every_evaluation_set_has_figures_of_its_own(folder, tmp_path):
    sets = {"a": pairs(9, seed=4), "b": pairs(11, seed=5)}
    trainer, _ = new_trainer(folder, tmp_path, reward=a_reward(), eval_dataset=sets)
    together = trainer.evaluate()
    alone = {name: trainer.evaluate(data, metric_key_prefix="test") for name, data in sets.items()}
    for name in sets:
        assert together[f"eval_{name}_confidence"] == pytest.approx(alone[name]["test_confidence"])
    assert together["eval_a_confidence"] != together["eval_b_confidence"]


def test_without_a_reward_one_is_fitted_on_the_training_pairs(folder, tmp_path, capsys):
    trainer, steps = train(folder, tmp_path, text_pairs(40), reward_pairs=30, max_steps=2, confidence="calibrated")
    assert steps.of("hybrid_accuracy")[0] > 0.5
    said = capsys.readouterr().out
    assert "minimise the mean over pairs of -γ log σ(z) - (1 - γ) log σ(-z), z = 0.3" in said
    assert f"γ = σ({trainer.live.reward.alpha:.3g} (R_c - R_r)) per pair, calibrated" in said


@pytest.mark.parametrize(
    "settings",
    [{"confidence": "column"}, {"reward_pairs": 20}, {"precompute_ref_log_probs": True}],
)
def test_the_models_forward_sees_no_column_of_ours(folder, tmp_path, settings):
    """A model with a strict signature would fail on `confidence` or `cut`: in steps, at start, and in references."""
    seen: set[str] = set()
    reward = a_reward() if "precompute_ref_log_probs" in settings else None
    trainer, _ = new_trainer(folder, tmp_path, pairs(confidence=[0.7] * 26), reward=reward, **settings)
    for model in filter(None, (trainer.model, trainer.ref_model)):
        forward = model.forward
        model.forward = lambda *args, forward=forward, **kwargs: (seen.update(kwargs), forward(*args, **kwargs))[1]
    if reward is not None:
        trainer.evaluate(pairs(9, seed=6))  # TRL computes its references before the first step alone
    trainer.train()
    assert seen == {"input_ids", "position_ids", "attention_mask", "predictors", "targets", "use_cache"}


# ---- the check at start ---------------------------------------------------------------------------------------------


def test_the_check_leaves_no_trace(folder, tmp_path, monkeypatch):
    def with_dropout():
        return AutoModelForCausalLM.from_pretrained(
            folder, attn_implementation="eager", dtype=torch.float32, attention_dropout=0.3
        )

    settings = {"reward": a_reward(), "disable_dropout": False}
    with_check, steps = train(folder, tmp_path / "a", model=with_dropout(), **settings)
    assert with_check.layout.packed, "packed rows are put to the test without dropout"
    checked: list = []
    monkeypatch.setattr(ConfidenceDPOTrainer, "check", lambda trainer: checked.append(trainer))
    monkeypatch.setattr(ConfidenceDPOTrainer, "check_rows", lambda trainer, *settings, **more: None)
    without, plain_steps = train(folder, tmp_path / "b", model=with_dropout(), **{**settings, "reward": a_reward()})
    assert checked and steps.of("loss") == plain_steps.of("loss")
    assert torch.equal(head(with_check), head(without))
    assert furthest(weights(with_check), weights(without)) == 0


def test_the_check_is_of_the_models_that_train(folder, tmp_path):
    """What else it finds is in test_start.py and test_pair_confidence.py."""
    changed = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    changed.lm_head.weight.data *= 1.3
    with pytest.raises(StageFailed, match="reference model: at step 0"):
        train(folder, tmp_path, model=changed, reward=a_reward())


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "problem, settings",
    [
        ("reward: confidence='fixed' uses none", {"confidence": "fixed", "fixed_confidence": 0.9, "reward": True}),
        ("gate: it would have no effect: a reward is given", {"gate": "uniform", "reward": True}),
        ("reward_pairs: it would have no effect: a reward is given", {"reward_pairs": 500, "reward": True}),
        ("train_dataset: it has no column `confidence`", {"confidence": "column"}),
    ],
)
def test_the_trainer_refuses_what_does_not_go_together(folder, tmp_path, problem, settings):
    reward = a_reward() if settings.pop("reward", False) else None
    with pytest.raises(UserError, match=problem):
        new_trainer(folder, tmp_path, reward=reward, **settings)


@pytest.mark.parametrize("value", [1.2, -0.1, float("nan"), None])
def test_a_confidence_that_is_none_is_refused(folder, tmp_path, value):
    with pytest.raises(UserError, match="the confidence of row 3 is"):
        new_trainer(folder, tmp_path, pairs(confidence=[0.5] * 3 + [value] + [0.5] * 22), confidence="column")


def test_a_confidence_column_matters_only_where_it_is_asked_for(folder, tmp_path):
    unread = pairs(confidence=[None] * 26)
    train(folder, tmp_path, unread, reward=a_reward(), max_steps=1)
    good = pairs(confidence=[0.7] * 26)
    for data, problem in ((pairs(9), "eval_dataset: it has no column"), (pairs(1, confidence=[1.7]), "1.7")):
        with pytest.raises(UserError, match=problem):
            new_trainer(folder, tmp_path, good, confidence="column", eval_dataset={"one": data})
        trainer, _ = new_trainer(folder, tmp_path, good, confidence="column")
        with pytest.raises(UserError, match=problem):
            trainer.evaluate(data)


def test_a_reward_that_knows_nothing_is_refused(folder, tmp_path):
    """Every gamma would be 1/2, and the policy stay where it is for the whole training."""
    useless = a_reward()
    useless.alpha = 0.0
    with pytest.raises(UserError, match="no better than chance"):
        new_trainer(folder, tmp_path, reward=useless)
    new_trainer(folder, tmp_path, reward=useless, confidence="paper")


def test_a_policy_that_diverged_is_said_to_have(folder, tmp_path):
    trainer, _ = new_trainer(folder, tmp_path, reward=a_reward())
    next(trainer.model.parameters()).data[:] = torch.nan
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(2)])
    trainer.compute_loss(trainer.model, batch)
    with pytest.raises(Diverged, match="policy: its activations are no longer finite numbers; lower the learning rate"):
        trainer.log({})


def test_a_reward_that_diverged_is_said_to_have(folder, tmp_path):
    trainer, _ = new_trainer(folder, tmp_path, reward=a_reward())
    trainer.live.reward.weight.data[:] = torch.nan
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(2)])
    trainer.compute_loss(trainer.model, batch)
    with pytest.raises(Diverged, match="reward: its scores are no longer finite numbers"):
        trainer.log({})


def test_an_answer_without_tokens_is_named(folder, tmp_path):
    rows = [*pairs(8)]
    rows[5]["rejected_ids"] = []
    with pytest.raises(UserError, match="row 5 has an answer without tokens"):
        new_trainer(folder, tmp_path, Dataset.from_list(rows), reward=a_reward())


def test_compute_metrics_and_other_configs_are_refused(folder):
    with pytest.raises(UserError, match="compute_metrics"):
        ConfidenceDPOTrainer(folder, ConfidenceDPOConfig("x", **CPU), pairs(), compute_metrics=lambda found: {})
    with pytest.raises(UserError, match="DPOConfig is not a ConfidenceDPOConfig"):
        ConfidenceDPOTrainer(folder, DPOConfig("x", **CPU), pairs())
