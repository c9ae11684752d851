"""What a process computes on, on machines that nobody here has."""

import os

import pytest
import torch
from transformers import TrainingArguments

from alignment.launching import local
from alignment.memory.machine import machine
from alignment.models.devices import device, training_dtype
from alignment.run import run_recipe
from alignment.runs.ranks import accelerator, cores, on_cpu
from alignment.settings.compose import compose_config
from alignment.trainers.margin_rm import MarginRewardConfig, MarginRewardTrainer
from alignment.types import UserError
from tests import small_recipe
from tests.trainers.test_margin_rm import new_model, pairs


@pytest.fixture
def mac(monkeypatch):
    """Apple's GPU, which has no float64, and no sched_getaffinity, which is Linux's."""
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: torch.device("mps"))
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.delattr(os, "sched_getaffinity")


def test_a_mac_computes_on_its_cpu(mac, tmp_path, world_folder):
    assert accelerator() is None and on_cpu() and device() == torch.device("cpu")
    assert cores() == os.cpu_count() and local._environment(2)["OMP_NUM_THREADS"]
    cfg = compose_config([*small_recipe.SMALL, f"run.dir={tmp_path}", "reward_model.margins=[none]"])
    assert not machine(cfg, 1).gpu
    run_recipe(cfg)
    with pytest.raises(UserError, match="there is no GPU to count; say how many ranks"):
        local._gpus()


def test_a_trainer_of_ones_own_is_told_to_stay_there(monkeypatch, tmp_path):
    arguments = MarginRewardConfig(str(tmp_path), report_to="none", use_cpu=True)
    monkeypatch.setattr(TrainingArguments, "device", torch.device("mps"))
    with pytest.raises(UserError, match=r"args: Apple's GPUs have no float64.*; set use_cpu=True"):
        MarginRewardTrainer(new_model(), arguments, pairs(8))


@pytest.mark.parametrize(("native", "dtype"), [(True, "bfloat16"), (False, "float32")])
def test_emulated_bfloat16_is_not_chosen(native, dtype, monkeypatch):
    """torch says yes for T4 and V100, where it is slower than float32."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native)
    assert training_dtype("auto") == dtype and training_dtype("bfloat16") == "bfloat16"


@pytest.mark.parametrize("kind", ["cuda", "xpu", None])
def test_other_accelerators_are_used(kind, monkeypatch):
    there = None if kind is None else torch.device(kind)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: there)
    assert accelerator() == kind and on_cpu() == (kind is None)
