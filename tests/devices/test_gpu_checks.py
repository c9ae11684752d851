"""The checks that a GPU is for, tried on a device that isn't there: that they pass where all is as it was assumed."""

import json
import re
import subprocess

import pytest
import torch

from benchmarks import gpu, gpu_checks, lengths, models
from tests.conftest import REPOSITORY
from tests.devices.host_and_device import DEVICE
from tests.devices.test_training_waits import device_rank

SMALL = models.Size(2, 32, 64, 4, 300, 128, tied=False)
MEASURED = ("packed rows in float32", "packed rows in bfloat16", "fsdp2", "lora", "full")


@pytest.fixture(scope="module")
def rows() -> list[lengths.Pair]:
    return lengths.pairs(16, SMALL.vocabulary, SMALL.longest)


@pytest.mark.parametrize("name", ["operations", "answers", "copies", "noise"])
def test_they_pass_on_a_device(name, rows, tmp_path, monkeypatch):
    """Not tried: FlexAttention's, of which the modes see no storage, and those that train or fit, which takes seconds
    (test_waits.py and test_training_waits.py do both)."""
    with device_rank(monkeypatch):
        assert gpu_checks.CHECKS[name](gpu_checks.Here(DEVICE, SMALL, rows, tmp_path))


def test_each_says_what_it_found_and_the_rest_is_tried_all_the_same(rows, tmp_path, monkeypatch):
    def fails(here: gpu_checks.Here) -> str:
        raise RuntimeError("an illegal memory access")

    checks = {"operations": gpu_checks.operations, "fails": fails, "noise": gpu_checks.noise}
    monkeypatch.setattr(gpu_checks, "CHECKS", checks)
    found = gpu_checks.run(gpu_checks.Here(torch.device("cpu"), SMALL, rows, tmp_path), tmp_path / "out.json")
    assert {name: one["result"] for name, one in found.items()} == {
        "operations": "not run", "fails": "fail", "noise": "pass",
    }  # fmt: skip
    assert found["fails"]["found"] == "RuntimeError: an illegal memory access"
    assert json.loads((tmp_path / "out.json").read_text()) == found


@pytest.mark.parametrize("ends", ["crash", "time"])
def test_what_comes_after_a_check_that_ended_the_process_is_not_run(ends, monkeypatch):
    def started(command: list[str], **settings: object) -> subprocess.CompletedProcess:
        (out,) = (argument.removeprefix("out=") for argument in command if argument.startswith("out="))
        with open(out, "w") as file:
            json.dump({"operations": {"result": "pass", "found": "as known"}}, file)
        if ends == "time":
            raise subprocess.TimeoutExpired(command, 180)
        return subprocess.CompletedProcess(command, -11, "", "Segmentation fault")

    monkeypatch.setattr(gpu.subprocess, "run", started)
    said = gpu.checks(gpu.Machine("cpu", SMALL, SMALL))
    assert list(said) == list(gpu_checks.CHECKS) and said["operations"]["result"] == "pass"
    others = [one for name, one in said.items() if name != "operations"]
    assert {one["result"] for one in others} == {"not run"}
    assert all(("Segmentation fault" if ends == "crash" else "no time") in one["found"] for one in others)


def test_every_assumption_names_its_entry():
    """docs/gpus.md: what stays untested, and the entry of gpu.sh that tests it; each entry stands there."""
    listed = (REPOSITORY / "docs" / "gpus.md").read_text().partition("## What stays untested")[2]
    rows = re.findall(r"^\| [^`].+ \| (.+) \|$", listed, re.MULTILINE)[1:]
    named = {entry for row in rows for entry in re.findall(r"`([^`]+)`", row)}
    assert named == {*gpu_checks.CHECKS, *MEASURED}
