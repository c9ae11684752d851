"""Rows of several texts in trainings: put to the test once a run, without a trace, and padded where they fail it."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, Qwen3MoeConfig
from trl import SFTConfig

from alignment.models import packing
from alignment.models.packing import Packing
from alignment.runs.agreements import agreements
from alignment.trainers import rows
from alignment.trainers.sft import PackedSFTTrainer
from alignment.types import UserError
from tests.conftest import byte_tokenizer
from tests.models.test_architectures import EXPERTS, WIDE
from tests.trainers.test_cdpo import CPU, a_reward, folder, new_trainer, pairs, train, weights  # noqa: F401 (a fixture)


@pytest.fixture
def tested(monkeypatch) -> list:
    """The micro-batches that were put to the test."""
    seen = []
    find = rows.why_different

    def noting(read, model, layout, items, *more):
        seen.append(items)
        return find(read, model, layout, items, *more)

    monkeypatch.setattr(rows, "why_different", noting)
    return seen


def settled(folder, out, **settings):  # noqa: F811
    return train(folder, out, reward=a_reward(), max_steps=2, **settings)


def test_the_longest_pair_is_in_the_micro_batch_that_is_tested(folder, tmp_path, tested):  # noqa: F811
    data = pairs(26)
    trainer, _ = settled(folder, tmp_path, data=data, per_device_train_batch_size=2)
    (items,) = tested
    sizes = [item.longest for item in map(trainer.data_collator.item, trainer.train_dataset)]
    assert len(items) == 2 and items[0].longest == max(sizes) and items[1].longest == sizes[0]


def test_it_leaves_no_trace(folder, tmp_path):  # noqa: F811
    trainer, _ = new_trainer(folder, tmp_path, reward=a_reward(), activation_checkpointing=True)
    trainer.model.train()
    before, state = {name: value.clone() for name, value in weights(trainer).items()}, torch.get_rng_state()
    modes = [module.training for module in trainer.model.modules()]
    trainer.check_rows(trainer.model, gradient=True)
    assert trainer.layout.packed and torch.equal(state, torch.get_rng_state())
    assert [module.training for module in trainer.model.modules()] == modes
    assert all(weight.grad is None for weight in trainer.model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in weights(trainer).items())


def test_rows_that_fail_are_padded_and_a_line_says_why(folder, tmp_path, monkeypatch, capsys):  # noqa: F811
    """An answer that sees the one before it: the training is that of packing=off, and no checkpoint knows otherwise."""
    mask = packing.packed_mask
    monkeypatch.setattr(packing, "packed_mask", lambda item, branch, *more: mask(item, branch.clamp(max=1), *more))
    trainer, steps = settled(folder, tmp_path / "wrong")
    assert not trainer.layout.together and trainer.data_collator.layout == trainer.layout
    assert (
        "  rows: padded, one answer a row: packed, log-probabilities of some rows differ by " in capsys.readouterr().out
    )
    _, padded = settled(folder, tmp_path / "off", packing="off")
    assert steps.of("loss") == padded.of("loss")


def test_a_run_finds_it_out_once_for_an_architecture_and_a_layout(folder, tmp_path, tested, monkeypatch):  # noqa: F811
    def checked(**settings):
        trainer, _ = new_trainer(folder, tmp_path, reward=a_reward(), **settings)
        trainer.check_rows(trainer.model, gradient=True)
        return trainer.layout

    with agreements.in_a_run(tmp_path / "found"):
        assert checked().packed and checked(seed=3, learning_rate=1e-5).packed
        assert len(tested) == 1 and len(list((tmp_path / "found").iterdir())) == 1
        checked(packing_max_tokens=50)
        assert len(tested) == 2, "another layout"
        mask = packing.packed_mask
        monkeypatch.setattr(packing, "packed_mask", lambda item, branch, *more: mask(item, branch.clamp(max=1), *more))
        assert not checked(bf16=True).packed and len(tested) == 3, "another precision"
        assert not checked(bf16=True).packed and len(tested) == 3, "what failed is kept, too"
    assert not checked().packed and len(tested) == 4, "outside a run it is found anew"
    assert len(list((tmp_path / "found").iterdir())) == 3, "and not kept"


def test_segments_train_as_padded_rows_do(folder, tmp_path):  # noqa: F811
    found = {}
    for name in ("segments", "off"):
        model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa", dtype=torch.float32)
        trainer, steps = settled(folder, tmp_path / name, model=model, packing=name, learning_rate=1e-4)
        assert trainer.layout.segments == (name == "segments")
        found[name] = [steps.of(figure) for figure in ("loss", "confidence", "hybrid_gap")]
    np.testing.assert_allclose(found["segments"], found["off"], rtol=2e-5, atol=2e-5)


# ---- mixtures of experts --------------------------------------------------------------------------------------------


def mixture(**settings) -> torch.nn.Module:
    config = Qwen3MoeConfig(**WIDE, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, **settings)
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")


def fine_tuner(tmp_path, model, **settings) -> PackedSFTTrainer:
    data = Dataset.from_dict({"input_ids": [[5, 6, 7, 8]] * 4, "labels": [[-100, -100, 7, 8]] * 4})
    arguments = SFTConfig(output_dir=str(tmp_path), **CPU, max_steps=1)
    return PackedSFTTrainer(
        model, arguments, Packing(), train_dataset=data, processing_class=byte_tokenizer("chatml"), **settings
    )


def test_a_mixture_of_experts_trains_only_if_told_to(tmp_path, capsys):
    assert "num_local_experts" in EXPERTS
    with pytest.raises(UserError, match=r"without_router_loss: qwen3_moe has a loss that keeps its routers balanced"):
        fine_tuner(tmp_path, mixture())
    trainer = fine_tuner(tmp_path, mixture(), without_router_loss=True)
    trainer.train()
    assert "  experts: trained without the routers' loss (its weight was 0.001)\n" in capsys.readouterr().out
    assert trainer.layout.packed and not trainer.model.config.output_router_logits
    fine_tuner(tmp_path, mixture(router_aux_loss_coef=0.0))


def test_without_router_loss_is_refused_where_there_is_none(folder, tmp_path):  # noqa: F811
    with pytest.raises(UserError, match="without_router_loss: llama has no loss for routers; leave it out"):
        new_trainer(folder, tmp_path, reward=a_reward(), without_router_loss=True)
