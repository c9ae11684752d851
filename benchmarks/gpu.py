"""The benchmarks of an NVIDIA machine, in less than ten minutes: python -m benchmarks.gpu

First what could only be simulated without one, on a small model: the checks of gpu_checks.py; packed rows against
padded ones with sdpa and FlexAttention, in float32 and bfloat16; FSDP2 on one rank against no FSDP. Then confidence DPO
of a 7B-shaped Llama with random weights in bfloat16, LoRA and, where memory allows, full: ours against TRL's DPOTrainer
at batch 8. Writes results_gpu.json beside this file. Of every entry it says pass, fail or not run, and why; what was
measured is in `entries`. Exits with 1 where one failed.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace

import torch

from benchmarks import arguments, lengths, machine, models
from benchmarks.comparisons import summary
from benchmarks.gpu_checks import CHECKS
from benchmarks.run import table
from benchmarks.turns import REPOSITORY, Side

RESULTS = Path(__file__).parent / "results_gpu.json"
SECONDS = 560  # after this nothing new is begun
CHECKING, PART = 150, 110  # at most: for all checks of gpu_checks.py, and for each process of what is exact
ROUNDS, WARM_UP = 5, 2  # the second step still compiles and allocates
GIGABYTE = 1e9
FULL_NEEDS = 75 * GIGABYTE  # weights, gradients, two moments and the reference in bfloat16, and room for activations
FSDP2 = REPOSITORY / "launch" / "accelerate" / "fsdp2.yaml"


LARGE = models.Size(layers=32, width=4096, intermediate=11008, heads=32, vocabulary=32000, longest=1024, tied=False)
SMALL = models.Size(layers=4, width=256, intermediate=704, heads=4, vocabulary=2000, longest=512, tied=False)


@dataclass(frozen=True)
class Machine:
    """What is run where: the large size for speed, the small one for exactness."""

    device: str = "cuda"
    large: models.Size = LARGE
    small: models.Size = SMALL
    attentions: tuple[str, ...] = ("sdpa", "flex_attention")
    methods: tuple[str, ...] = ("lora", "full")
    rounds: int = ROUNDS
    warm_up: int = WARM_UP


def main(argv: Sequence[str]) -> None:
    arguments.read(argv, {})
    if not torch.cuda.is_available():
        arguments.stop("benchmarks.gpu: there is no NVIDIA GPU here; python -m benchmarks.run is for processors")
    results = run(Machine(), RESULTS)
    for entry, one in results["said"].items():
        print(f"{one['result']:8} {entry}: {one['found']}")
    print(table(results["entries"]))
    sys.exit(any(one["result"] == "fail" for one in results["said"].values()))


def run(here: Machine, path: Path) -> dict:
    """Everything, written to the file as it is found."""
    started = time.monotonic()
    results: dict = {
        "machine": machine.description() | _gpu(here.device), "versions": machine.versions(),
        "lengths": lengths.source(), "exactness": {}, "fsdp2": {}, "entries": [], "said": checks(here),
    }  # fmt: skip
    said = results["said"]
    for name, part, judged in (("exactness", exactness, exact), ("fsdp2", fsdp2, sharded_as_plain)):
        try:
            results[name] = part(here)
            said |= judged(results[name])
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            said[name] = _said("fail", _end(error))
        path.write_text(json.dumps(results, indent=2) + "\n")
    rate = _matmul_rate(here.device)
    for method in here.methods:
        sides: dict[str, dict] = {}
        for side, attention in (("ours", "sdpa"), ("theirs", "sdpa"), ("ours", "flex_attention")):
            what = f"{method}, {side}, {attention}"
            if attention not in here.attentions:
                continue
            problem = _problem(here, method, time.monotonic() - started)
            if problem:
                said[what] = _said("not run", problem)
                continue
            try:
                found = sides[f"{side} {attention}"] = steps(here, method, side, attention, rate)
                said[what] = _said("pass", f"{found['pairs_per_second']:.2f} pairs a second")
            except RuntimeError as error:
                said[what] = _said("fail", _end(error))
            results["entries"] = [one for one in results["entries"] if one["method"] != method]
            results["entries"] += entries(method, sides)
            path.write_text(json.dumps(results, indent=2) + "\n")
    return results


# ---- speed ----------------------------------------------------------------------------------------------------------


def steps(here: Machine, method: str, side: str, attention: str, rate: float) -> dict:
    """One side by itself: two models of 7B don't fit beside each other. Checkpointing only where it must be."""
    for checkpointing in ("no", "yes"):
        given = {
            "part": "train", "side": side, "method": method, "attention": attention, "device": here.device,
            "size": json.dumps(asdict(here.large)), "checkpointing": checkpointing,
        }  # fmt: skip
        try:
            with Side("gpu_side", given, machine.threads()) as running:
                found = [running.step() for _ in range(here.warm_up + here.rounds)][here.warm_up :]
            return summary(found, running, SimpleNamespace(matmul_rate=rate))
        except RuntimeError as error:
            if "OutOfMemory" not in str(error) or checkpointing == "yes":
                raise
    raise AssertionError("unreachable")


def entries(method: str, sides: dict[str, dict]) -> list[dict]:
    """Each of ours beside TRL's, as in results.json."""
    theirs = sides.get("theirs sdpa")
    if theirs is None:
        return []
    return [
        {
            "comparison": "cdpo", "name": f"cdpo 7B {method} {name.partition(' ')[2]}", "method": method, "batch": 8,
            "unit": "pairs", "ours": ours, "theirs": theirs,
            "speed_ratio": ours["pairs_per_second"] / theirs["pairs_per_second"],
            "memory_ratio": ours["peak_bytes"] / theirs["peak_bytes"],
        }
        for name, ours in sides.items() if name.startswith("ours")
    ]  # fmt: skip


def _problem(here: Machine, method: str, seconds: float) -> str | None:
    """Why something isn't begun."""
    if seconds > SECONDS:
        return "no time was left"
    if here.device == "cuda" and method == "full":
        memory = torch.cuda.get_device_properties(0).total_memory
        if memory < FULL_NEEDS:
            return f"{memory / GIGABYTE:.0f} GB of memory; full training needs about {FULL_NEEDS / GIGABYTE:.0f}"
    return None


def _matmul_rate(device: str) -> float:
    if device == "cpu":
        return machine.matmul_rate()
    return machine.matmul_rate(device, torch.bfloat16, size=8192)


def _gpu(device: str) -> dict:
    if device == "cpu":
        return {}
    properties = torch.cuda.get_device_properties(0)
    return {"gpu": properties.name, "gpu_memory_bytes": properties.total_memory}


# ---- what could only be simulated -----------------------------------------------------------------------------------


def checks(here: Machine) -> dict[str, dict]:
    """What gpu_checks.py says, in a process of its own: one of them may end it, and the rest is not run then."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        given = {"device": here.device, "size": json.dumps(asdict(here.small)), "out": str(out)}
        command = [sys.executable, "-m", "benchmarks.gpu_checks", *(f"{name}={value}" for name, value in given.items())]
        why = "a check before it ended the process"
        try:
            done = subprocess.run(
                command, cwd=REPOSITORY, capture_output=True, text=True, timeout=CHECKING, check=False
            )
            if done.returncode:
                why += f": {done.stderr[-300:]}"
        except subprocess.TimeoutExpired:
            why = f"no time was left: {CHECKING} s for all checks"
        found = json.loads(out.read_text()) if out.is_file() else {}
    return {name: found.get(name) or _said("not run", why) for name in CHECKS}


def exact(found: dict) -> dict[str, dict]:
    """Of `exactness`: packed rows in float32 are padded ones, and in bfloat16 as near to them as those."""
    furthest = {name: f"{apart / found['mean_size']:.1e}" for name, apart in found["furthest"].items()}
    return {
        f"packed rows in {dtype}": _said(
            "pass" if found[flag] else "fail",
            ", ".join(f"{name}: {apart}" for name, apart in furthest.items() if dtype in name),
        )
        for dtype, flag in (("float32", "float32_equal"), ("bfloat16", "bfloat16_as_near_as_padded"))
    }


def sharded_as_plain(found: dict) -> dict[str, dict]:
    """Of `fsdp2`: its losses are those of one process; accelerate falls back to DDP where it can't shard."""
    launched = found["fsdp2"]["launched"]
    if launched != "FSDP":
        return {"fsdp2": _said("not run", f"accelerate made {launched} of it")}
    return {"fsdp2": _said("pass" if found["equal"] else "fail", f"losses up to {found['furthest']:.1e} apart")}


def _said(result: str, found: str) -> dict:
    return {"result": result, "found": found}


def _end(error: Exception) -> str:
    return str(error)[-500:]


# ---- exactness ------------------------------------------------------------------------------------------------------


def exactness(here: Machine) -> dict:
    """The largest distance of log-ratio differences from those of padded float32 rows, beside their mean size.

    In bfloat16 the padded rows' own distance is the measure: packed ones may not be further off than twice it.
    """
    found = _alone(here, [sys.executable], part="exactness", method="full", attention=",".join(here.attentions))
    differences = {name: torch.tensor(values) for name, values in found.items()}
    plain = differences["sdpa, float32, packing off"]
    off = {name: float((found - plain).abs().max()) for name, found in differences.items()}
    size = float(plain.abs().mean())
    exact = all(off[f"{attention}, float32, packing auto"] < 1e-4 * size for attention in here.attentions)
    near = all(
        off[f"{attention}, bfloat16, packing auto"] <= 2 * off[f"{attention}, bfloat16, packing off"]
        for attention in here.attentions
    )
    return {"furthest": off, "mean_size": size, "float32_equal": exact, "bfloat16_as_near_as_padded": near}


def fsdp2(here: Machine) -> dict:
    """The losses of five steps in float32, launched plainly and as FSDP2 on one rank."""
    launch = [
        sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(FSDP2), "--num_processes", "1",
    ]  # fmt: skip
    plain, sharded = (
        _alone(here, launcher, part="losses", method="full", dtype="float32") for launcher in ([sys.executable], launch)
    )
    apart = max(abs(one / other - 1) for one, other in zip(plain["losses"], sharded["losses"], strict=True))
    really = sharded["launched"] == "FSDP"  # accelerate falls back to DDP where it can't shard
    return {"plain": plain, "fsdp2": sharded, "furthest": apart, "equal": really and apart < 1e-4}


def _alone(here: Machine, launcher: list[str], **given: str) -> dict:
    """What a part on the small model writes."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        given |= {"side": "ours", "device": here.device, "size": json.dumps(asdict(here.small)), "out": str(out)}
        command = [*launcher, "-m", "benchmarks.gpu_side", *(f"{name}={value}" for name, value in given.items())]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=PART, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        return json.loads(out.read_text())


if __name__ == "__main__":
    main(sys.argv[1:])
