"""What an engine needs and is not there is said before anything is started."""

import sys

import pytest

from alignment.launching import engines
from alignment.settings.compose import compose_config
from alignment.types import UserError

SLURM = ["launch=slurm", "launch.gpus=0", "launch.processes=1"]


def cfg(*overrides: str):
    return compose_config(["+recipe=cdpo", *overrides])


@pytest.mark.parametrize("launch", [["launch=zero2", "launch.processes=2"], [*SLURM, "launch.layout=zero3"]])
def test_deepspeed_on_cpu_ranks_needs_a_compiler_and_ninja(launch, monkeypatch, tmp_path):
    engines.check(cfg(*launch))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match="there is no no-such-compiler; apt-get install g"):
        engines.check(cfg(*launch))
    monkeypatch.setenv("CXX", sys.executable)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="there is no ninja; pip install ninja"):
        engines.check(cfg(*launch))


def test_deepspeed_on_cpu_ranks_compiles_in_no_folder_with_a_blank(monkeypatch):
    monkeypatch.setattr(sys, "prefix", "/home/josé mit raum/.venv")
    with pytest.raises(UserError, match=r"fails in a folder with a blank \(/home/josé mit raum/.venv\); choose ddp"):
        engines.check(cfg("launch=zero2", "launch.processes=2"))
    engines.check(cfg("launch=ddp", "launch.processes=2"))
    engines.check(cfg("launch=slurm", "launch.gpus=4", "launch.layout=zero3"))


def test_on_the_nodes_of_a_cluster_gpus_are_what_the_settings_say(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    engines.check(cfg("launch=slurm", "launch.gpus=4", "launch.layout=zero3"))
    engines.check(cfg("launch=slurm", "launch.gpus=4", "launch.layout=fsdp2"))
    engines.check(cfg(*SLURM))
    engines.check(cfg())


@pytest.mark.parametrize("name, problem", [("FSDP", "FSDP needs GPUs"), ("DEEPSPEED", "there is no no-such-compiler")])
def test_likewise_under_an_accelerate_launch_of_ones_own(name, problem, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(UserError, match=problem):
        engines.check(cfg())


def test_fsdp_on_this_machine():
    with pytest.raises(UserError, match="FSDP needs GPUs, and there is none; choose ddp, or zero2"):
        engines.check(cfg("launch=fsdp2", "launch.processes=2"))


def test_four_bits_on_this_machine():
    with pytest.raises(
        UserError, match="lora: weights in 4 bits are for GPUs, and there is none; choose lora=adapters"
    ):
        engines.check(cfg("lora=quantized"))
