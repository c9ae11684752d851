"""What we touch of TRL's trainers still means what we take it to mean."""

import inspect
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)
from transformers.modeling_layers import GradientCheckpointingLayer
from trl import DPOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer
from trl.kernels import ChunkedLogProbFunction
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import maybe_gather_lm_head_ctx, use_adapter

from alignment.models.packing import Item, Packing
from alignment.trainers import pair_rows
from alignment.trainers.margin_rm import MarginRewardConfig, MarginRewardTrainer
from alignment.trainers.sft import PackedSFTTrainer
from tests.conftest import byte_tokenizer, tiny_model
from tests.trainers.trl_alone import QUIET, ROWS, OnTokens, checks, new

DPO, REWARD, SFT = "trl.DPOTrainer", "trl.RewardTrainer", "trl.SFTTrainer"
TEXTS = [{"chosen_ids": [5, 6, 7], "rejected_ids": [8, 9], "margin": 0.5, "other": 1}] * 3
TEXTS += [{"chosen_ids": [5] * 9, "rejected_ids": [8, 9], "margin": 1.5, "other": 1}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("policy")
    tiny_model("llama", AutoModelForCausalLM).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def trainer(folder, tmp_path_factory) -> DPOTrainer:
    return new(folder, tmp_path_factory.mktemp("out"))


def new_reward(kind: type, out: Path) -> RewardTrainer:
    config = RewardConfig if kind is RewardTrainer else MarginRewardConfig
    return kind(
        model=tiny_model("llama", AutoModelForSequenceClassification, num_labels=1, pad_token_id=0),
        args=config(output_dir=str(out), max_length=8, **QUIET), train_dataset=Dataset.from_list(TEXTS),
        processing_class=byte_tokenizer("chatml"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def reward_trainer(tmp_path_factory) -> RewardTrainer:
    return new_reward(RewardTrainer, tmp_path_factory.mktemp("out"))


@pytest.fixture
def batch(trainer) -> dict[str, torch.Tensor]:
    return trainer.data_collator(ROWS[:2])


def forward(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """log pi(y | x) from the logits, by hand: each position says the next token."""
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.log_softmax(dim=-1)
    told = logits[:, :-1].gather(2, batch["input_ids"][:, 1:, None]).squeeze(2) * batch["completion_mask"][:, 1:]
    return told.sum(dim=1)


def columns_that_reach_the_collator(trainer) -> set[str]:
    seen: set[str] = set()
    collator, trainer.data_collator = trainer.data_collator, lambda rows: seen.update(*rows) or {}
    try:
        next(iter(trainer.get_train_dataloader()))
    finally:
        trainer.data_collator = collator
    return seen


# ---- confidence DPO: batches and log-probabilities ------------------------------------------------------------------


def test_a_batch_has_the_chosen_rows_first_padded_on_the_right(trainer, batch):
    """So that ours are compared with theirs in the same order."""
    assert set(batch) == {"input_ids", "attention_mask", "completion_mask"}
    assert batch["input_ids"][:, :4].tolist()[1::2] == [
        [11, 12, 2, trainer.data_collator.pad_token_id],
        [11, 13, 14, 15],
    ]
    assert batch["completion_mask"].sum(dim=1).tolist() == [3, 2, 2, 4]
    assert batch["attention_mask"].sum(dim=1).tolist() == [6, 3, 5, 5]
    known = trainer.data_collator([{**row, "ref_chosen_logps": -1.0, "ref_rejected_logps": -2.0} for row in ROWS[:2]])
    assert known["ref_chosen_logps"].tolist() == [-1.0] * 2 and known["ref_rejected_logps"].tolist() == [-2.0] * 2


def test_answers_are_cut_off_at_their_end(folder, tmp_path):
    """By TRL and by us."""
    collator = new(folder, tmp_path, max_length=5).data_collator
    assert collator.max_length == 5 and collator.truncation_mode == "keep_start"
    assert collator(ROWS[:1])["input_ids"].tolist() == [[5, 6, 7, 8, 9], [5, 6, 7, 10, 2]]
    assert pair_rows.pair_of(ROWS[0], limit=5) == Item([5, 6, 7], [[8, 9], [10, 2]])


@checks("transformers.masking_utils", "_preprocess_mask_arguments")
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_mask_of_four_dimensions_is_taken_as_it_is(attention):
    """A token that may see nothing but itself says what it would say alone."""
    config = tiny_model("llama", AutoModelForCausalLM).config
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    mask = torch.eye(5, dtype=torch.bool)[None, None]
    given = mask if attention == "sdpa" else torch.zeros(mask.shape).masked_fill(~mask, torch.finfo().min)
    ids, zeros = torch.arange(10, 15)[None], torch.zeros(1, 5, dtype=torch.long)
    with torch.no_grad():
        together = model(input_ids=ids, position_ids=zeros, attention_mask=given).logits[0]
        alone = torch.cat([model(input_ids=ids[:, [i]]).logits[0] for i in range(5)])
    torch.testing.assert_close(together, alone)


@checks("trl.kernels", "ChunkedLogProbFunction")
def test_log_probabilities_in_tiles_are_the_soft_maxs():
    random = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 8, generator=random) for n in (6, 50))
    targets = torch.arange(6) * 7
    for softcap in (None, 2.0):
        logits = hidden @ weight.T
        expected = (logits if softcap is None else softcap * torch.tanh(logits / softcap)).log_softmax(dim=1)
        found = ChunkedLogProbFunction.apply(hidden, weight, None, targets, 1.0, 16, softcap, 1.0, ("log_probs",))[0]
        torch.testing.assert_close(found, expected[torch.arange(6), targets])


@checks("trl.trainer.utils", "maybe_gather_lm_head_ctx")
def test_nothing_is_gathered_without_zero_3():
    weight = torch.nn.Parameter(torch.ones(3))
    with maybe_gather_lm_head_ctx(weight, None):
        assert weight.numel() == 3


@checks("trl.models.utils", "disable_gradient_checkpointing")
def test_checkpointing_is_off_for_a_while(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.gradient_checkpointing_enable()
    with disable_gradient_checkpointing(model, None):
        assert not model.is_gradient_checkpointing
    assert model.is_gradient_checkpointing


@checks("trl.trainer.utils", "use_adapter")
def test_without_an_adapter_the_model_is_its_base(folder):
    base = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.arange(10, 15)[None]
    expected = base(input_ids=ids).logits
    settings = LoraConfig(target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    adapted = get_peft_model(base, settings)
    assert not torch.allclose(adapted(input_ids=ids).logits, expected, atol=1e-3)
    with use_adapter(adapted, None):
        assert torch.equal(adapted(input_ids=ids).logits, expected)


@checks("transformers.PreTrainedModel", "forward")
@checks(DPO, "compute_ref_log_probs")
def test_the_fused_head_gives_log_probabilities_of_every_label(trainer, batch):
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    trainer.model.eval()
    with torch.no_grad():
        found = trainer.model(**inputs, labels=labels, use_cache=False, fused_lm_head=True).log_probs.sum(dim=1)
    torch.testing.assert_close(found, forward(trainer.model, batch))
    reference = torch.cat(trainer.compute_ref_log_probs(trainer.ref_model, batch))
    torch.testing.assert_close(reference, found)
    assert not reference.requires_grad


@checks(DPO, "ref_model", "compute_ref_log_probs")
def test_the_reference_is_the_policy_as_it_began(folder, trainer, tmp_path):
    """A copy, or the policy without its adapters; precomputed, the policy itself before it is trained."""
    assert isinstance(trainer.ref_model, PreTrainedModel) and trainer.ref_model is not trainer.model
    theirs = dict(trainer.ref_model.named_parameters())
    assert all(torch.equal(value, theirs[name]) for name, value in trainer.model.named_parameters())
    adapters = LoraConfig(target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    adapted = new(folder, tmp_path, peft_config=adapters)
    assert adapted.ref_model is None
    batch = adapted.data_collator(ROWS[:2])
    adapted.model.eval()
    reference = torch.cat(adapted.compute_ref_log_probs(adapted.model, batch))
    torch.testing.assert_close(reference, forward(trainer.ref_model, batch))
    assert not torch.allclose(reference, forward(adapted.model, batch), atol=1e-2)


@checks(DPO, "_signature_columns", "_set_signature_columns_if_needed")
def test_columns_that_are_named_reach_the_collator(folder, tmp_path):
    rows = [{**row, "confidence": 0.5, "other": 1} for row in ROWS]
    trainer = new(folder, tmp_path, rows=rows)
    assert trainer._signature_columns is None
    trainer._set_signature_columns_if_needed()
    assert {"ref_chosen_logps", "ref_rejected_logps"} <= set(trainer._signature_columns)
    trainer._signature_columns.append("confidence")
    assert columns_that_reach_the_collator(trainer) == {"prompt_ids", "chosen_ids", "rejected_ids", "confidence"}


# ---- what a trainer holds -------------------------------------------------------------------------------------------


@checks(DPO, "__init__")
def test_a_trainer_takes_the_keywords_that_ours_looks_at():
    parameters = inspect.signature(DPOTrainer.__init__).parameters
    for name in ("ref_model", "data_collator", "compute_metrics", "eval_dataset", "peft_config", "callbacks"):
        assert parameters[name].default is None, f"DPOTrainer no longer takes {name}, or has another default"


@checks(DPO, "_tokenizer", "beta", "precompute_ref_logps")
@checks("transformers.Trainer", "is_deepspeed_enabled", "is_fsdp_enabled")
@checks("transformers.TrainingArguments", "deepspeed_plugin")
def test_a_trainer_holds_what_we_read_of_it(folder, trainer, tmp_path):
    other = new(folder, tmp_path, beta=0.7, precompute_ref_log_probs=True)
    assert trainer._tokenizer is trainer.processing_class
    assert (trainer.beta, other.beta) == (trainer.args.beta, 0.7)
    assert (trainer.precompute_ref_logps, other.precompute_ref_logps) == (False, True)
    assert other.ref_model is None and trainer._precompute_model_hash is None
    assert trainer.is_deepspeed_enabled is trainer.is_fsdp_enabled is False
    assert trainer.args.deepspeed_plugin is None


@checks(DPO, "_is_vision_dataset")
def test_images_in_the_data_are_noticed(folder, trainer, tmp_path):
    assert trainer._is_vision_dataset is False
    made: list[DPOTrainer] = []

    class Kept(OnTokens):
        def __init__(self, *args, **kwargs):
            made.append(self)
            super().__init__(*args, **kwargs)

    with pytest.raises(ValueError, match="vision"):  # the model sees none
        new(folder, tmp_path, Kept, rows=[{**row, "images": [1]} for row in ROWS])
    assert made[0]._is_vision_dataset is True


@checks("transformers.modeling_layers", "GradientCheckpointingLayer")
def test_a_layer_checkpoints_while_it_trains_itself():
    """Though all that is in it doesn't: without dropout, its activations are computed again in the backward pass."""
    model = tiny_model("llama", AutoModelForCausalLM)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    seen: list[bool] = []
    model.model.layers[0].mlp.register_forward_pre_hook(lambda module, args: seen.append(module.training))
    for training in (False, True):
        model.eval()
        for layer in model.modules():
            if isinstance(layer, GradientCheckpointingLayer):
                layer.training = training
        model(input_ids=torch.arange(10, 15)[None]).logits.sum().backward()
    assert seen == [False] * 3  # once, and then twice


@checks(DPO, "_metrics")
@checks(REWARD, "_metrics", "log")
@pytest.mark.parametrize("kind", ["trainer", "reward_trainer"])
def test_log_averages_the_metrics_of_its_mode_and_forgets_them(kind, request):
    trainer = request.getfixturevalue(kind)
    trainer.model.train()
    trainer._metrics["train"].update({"ours": [1.0, 3.0]})
    trainer._metrics["eval"]["theirs"].append(5.0)
    trainer.log({"loss": 0.0})
    assert trainer.state.log_history[-1]["ours"] == 2.0 and "theirs" not in trainer.state.log_history[-1]
    assert not trainer._metrics["train"] and trainer._metrics["eval"] == {"theirs": [5.0]}
    trainer.model.eval()
    trainer.log({"eval_loss": 0.0})
    assert trainer.state.log_history[-1]["eval_theirs"] == 5.0 and not trainer._metrics["eval"]


# ---- reward models and fine-tuning ----------------------------------------------------------------------------------


def test_a_reward_batch_has_the_chosen_rows_first_and_the_margin_beside(reward_trainer):
    batch = reward_trainer.data_collator(TEXTS[:2])
    assert set(batch) == {"input_ids", "attention_mask", "margin"}
    assert batch["attention_mask"].tolist() == [[1, 1, 1]] * 2 + [[1, 1, 0]] * 2
    assert batch["input_ids"][:2].tolist() == [[5, 6, 7]] * 2 and batch["margin"].tolist() == [0.5, 0.5]


@checks(REWARD, "_prepare_dataset", "_set_signature_columns_if_needed")
def test_reward_rows_of_ids_are_kept_and_long_ones_dropped(reward_trainer):
    assert reward_trainer.train_dataset.to_list() == TEXTS[:3]
    assert columns_that_reach_the_collator(reward_trainer) == {"chosen_ids", "rejected_ids", "margin"}


@checks("transformers.Trainer", "_prepare_inputs")
def test_a_batch_is_put_where_the_model_is(reward_trainer):
    found = reward_trainer._prepare_inputs({"input_ids": torch.ones(2, 3)})
    assert found["input_ids"].device == reward_trainer.model.device


@checks(REWARD, "compute_loss")
def test_the_margin_loss_is_trls(reward_trainer, tmp_path):
    """On pairs without filler: the same columns of the batch, the same halves of the logits."""
    ours = new_reward(MarginRewardTrainer, tmp_path)
    losses = []
    for trainer in (ours, reward_trainer):
        trainer.model.eval()
        losses.append(trainer.compute_loss(trainer.model, trainer.data_collator(TEXTS[:2])))
    torch.testing.assert_close(*losses)


@checks(SFT, "_prepare_dataset")
def test_fine_tuning_takes_rows_of_ids_and_labels_as_they_are(folder, tmp_path):
    rows = [{"input_ids": [5, 6, 7, 2], "labels": [-100, -100, 7, 2]}, {"input_ids": [8, 9], "labels": [-100, 9]}]
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder), args=SFTConfig(output_dir=str(tmp_path), **QUIET),
        train_dataset=Dataset.from_list(rows), processing_class=byte_tokenizer("chatml"),
    )  # fmt: skip
    assert trainer.train_dataset.to_list() == rows
    assert columns_that_reach_the_collator(trainer) >= {"input_ids", "labels"}
    assert trainer.data_collator(rows)["labels"].tolist() == [[-100, -100, 7, 2], [-100, 9, -100, -100]]


@checks(SFT, "compute_loss")
@pytest.mark.parametrize("packing", ["auto", "off"])
def test_fine_tuning_has_trls_losses_and_weights(folder, tmp_path, packing):
    """Over accumulated micro-batches with answers of different lengths."""
    random = torch.Generator().manual_seed(0)
    rows = []
    for i in range(14):
        ids = torch.randint(10, 250, (4 + i,), generator=random).tolist()
        rows.append({"input_ids": ids, "labels": [-100] * (1 + i % 3) + ids[1 + i % 3 :]})
    found = []
    for kind, more in ((SFTTrainer, {}), (PackedSFTTrainer, {"packing": Packing(packing, 24)})):
        settings = {**QUIET, "gradient_accumulation_steps": 2, "num_train_epochs": 2, "logging_steps": 1}
        trainer = kind(
            model=AutoModelForCausalLM.from_pretrained(folder), train_dataset=Dataset.from_list(rows),
            args=SFTConfig(output_dir=str(tmp_path / kind.__name__), learning_rate=1e-3, **settings),
            processing_class=byte_tokenizer("chatml"), **more,
        )  # fmt: skip
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        found.append((torch.tensor(losses), torch.cat([value.flatten() for value in trainer.model.parameters()])))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-5, atol=0)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=0, atol=5e-5)  # a rate of 1e-3, and AdamW
