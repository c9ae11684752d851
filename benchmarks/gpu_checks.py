"""What of a GPU could only be simulated without one: python -m benchmarks.gpu_checks device=cuda size=... out=...

Each check says what was assumed (docs/gpus.md lists them), tries it on a small model, and is written to the file `out`
as soon as it is done: pass, fail, or not run where the machine can't tell.
"""

import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor
from transformers import TrainerCallback

from alignment.maths.noise import gumbel
from alignment.models.completions import token_log_probs
from alignment.models.decoding import generate_ids
from alignment.models.devices import to_device, to_host
from alignment.models.hybrid_reward import HybridReward
from alignment.sampling.generate import Draw
from benchmarks import arguments, gpu_side, lengths, models
from tests.devices.known_operations import FREE, REFUSED, WAITING

DEFAULTS = {"device": "cuda", "size": "{}", "out": ""}
FLOAT32 = 1e-4  # of the largest value: the order of additions
TOKENS = 16
SILENT = "only a GPU says when the host waits for it"


class NotHereError(Exception):
    """The machine can't tell."""


@dataclass(frozen=True)
class Here:
    """Where checks are run, with a model of this size."""

    device: torch.device
    size: models.Size
    rows: list[lengths.Pair]
    work: Path

    def trainer(self, **given: object) -> "gpu_side.ConfidenceDPOTrainer":
        side = gpu_side.DEFAULTS | {"device": self.device.type, "method": "full", "dtype": "float32", "batch": 4}
        more = {name: given.pop(name) for name in ("max_steps", "logging_steps", "reference_seed") if name in given}
        return gpu_side.build(side | given, self.size, self.rows, self.work, **more)


def main(argv: Sequence[str]) -> None:
    given = arguments.read(argv, DEFAULTS)
    size = models.Size(**json.loads(given["size"]))
    rows = lengths.pairs(64, size.vocabulary, size.longest)
    with tempfile.TemporaryDirectory() as work:
        run(Here(torch.device(given["device"]), size, rows, Path(work)), Path(given["out"]))


def run(here: Here, out: Path) -> dict[str, dict]:
    found: dict[str, dict] = {}
    for name, check in CHECKS.items():
        try:
            found[name] = {"result": "pass", "found": check(here)}
        except NotHereError as reason:
            found[name] = {"result": "not run", "found": str(reason)}
        except Exception as error:  # whatever it is: the other checks say something, too
            found[name] = {"result": "fail", "found": f"{type(error).__name__}: {error}"[-500:]}
        out.write_text(json.dumps(found))
    return found


def _on_a_gpu(here: Here, why_not: str) -> None:
    if here.device.type != "cuda":
        raise NotHereError(why_not)


# ---- when the host waits --------------------------------------------------------------------------------------------


@contextmanager
def _waits(here: Here) -> Iterator[list[str]]:
    """The lines at which the host waits for the device within, once it has ended."""
    found: list[str] = []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")
        lines = [f"{one.filename}:{one.lineno}" for one in said if "synchronizing" in str(one.message)]
    found += lines


def operations(here: Here) -> str:
    """Every operation of tests/devices/known_operations.py waits, or doesn't, or is refused, as it says."""
    _on_a_gpu(here, SILENT)
    wrong = []
    for name, does in (WAITING | FREE).items():
        tensor = torch.zeros(4, device=here.device)
        with _waits(here) as found:
            does(tensor)
        if bool(found) != (name in WAITING):
            wrong.append(f"{name}: {'waits' if found else 'does not wait'}")
    for name, does in REFUSED.items():
        try:
            does(torch.zeros(4, device=here.device))
        except (RuntimeError, TypeError):
            continue
        wrong.append(f"{name}: is not refused")
    _require(not wrong, "; ".join(wrong))
    return f"{len(WAITING)} wait, {len(FREE)} don't, {len(REFUSED)} are refused"


def step(here: Here) -> str:
    """No optimiser step of confidence DPO waits, with the live reward and its re-fit, clipping and AdamW."""
    _on_a_gpu(here, SILENT)
    trainer = here.trainer(max_steps=4, logging_steps=4)
    inside = _Inside(here)
    trainer.add_callback(inside)
    trainer.train()
    _require(not inside.found, f"{len(inside.found)} times, at {', '.join(sorted(set(inside.found))[:5])}")
    return "none in 4 steps"


class _Inside(TrainerCallback):
    """Where steps wait; the first one doesn't count: libraries set themselves up in it."""

    def __init__(self, here: Here) -> None:
        self.found: list[str] = []
        self._here, self._open = here, None

    def on_step_begin(self, args: object, state: SimpleNamespace, *others: object, **more: object) -> None:
        if state.global_step > 0:
            self._open = _waits(self._here)
            self._lines = self._open.__enter__()

    def on_step_end(self, *args: object, **more: object) -> None:
        if self._open is not None:
            self._open.__exit__(None, None, None)
            self.found += self._lines
            self._open = None


def answers(here: Here) -> str:
    """An answer waits once a token, and its tokens are those that the CPU draws."""
    _on_a_gpu(here, SILENT)
    loaded = SimpleNamespace(
        model=gpu_side.model({"device": "cpu", "dtype": "float32", "attention": "sdpa"}, here.size, seed=0).eval(),
        context=None, end_ids=set(), format=SimpleNamespace(stop=None),
    )  # fmt: skip
    prompts = [row["prompt_ids"][-20:] for row in here.rows[:6]]
    drawn = {"temperature": 1.0, "top_k": 20, "top_p": 0.9, "repetition_penalty": 1.1}

    def drawn_on(device: torch.device) -> list[list[int]]:
        loaded.model.to(device)
        return generate_ids(loaded, prompts, TOKENS, Draw(range(6), drawn, device))

    expected = drawn_on(torch.device("cpu"))
    drawn_on(here.device)  # libraries set themselves up
    draw = Draw(range(6), drawn, here.device)
    with _waits(here) as found:
        tokens = generate_ids(loaded, prompts, TOKENS, draw)
    same = sum(one == other for one, other in zip(tokens, expected, strict=True))
    _require(len(found) == TOKENS, f"{len(found)} times for {TOKENS} tokens, at {', '.join(sorted(set(found))[:5])}")
    _require(same >= 4, f"{same} of 6 answers are the CPU's: rounding turns few")
    return f"{TOKENS} times for {TOKENS} tokens; {same} of 6 answers are the CPU's"


# ---- copies and generators ------------------------------------------------------------------------------------------


def copies(here: Here) -> str:
    """to_device and to_host give the right numbers while the device goes on computing, and overwrites what it has."""
    side, tries = 512, 40
    random, waiting = torch.Generator().manual_seed(0), []
    for number in range(tries):
        host = torch.randn(side, side, generator=random)
        tensor = to_device(host, here.device)
        for _ in range(4):
            tensor = tensor * 2
        waiting.append((to_host(tensor), host * 16))
        host.zero_()  # what it was copied from belongs to others now
        del tensor
        _ = torch.full((side, side), float(number), device=here.device) @ torch.ones(side, side, device=here.device)
    wrong = sum(not torch.equal(copied(), expected) for copied, expected in waiting)
    _require(wrong == 0, f"{wrong} of {tries} copies hold other numbers")
    return f"{tries} copies"


def generators(here: Here) -> str:
    """What a training computes before its first step leaves the device's random numbers as they were."""
    _on_a_gpu(here, "a CPU's are the host's own")
    trainer = here.trainer(max_steps=1)
    trainer.train()
    before = torch.cuda.get_rng_state(here.device)
    trainer.check()
    _require(torch.equal(before, torch.cuda.get_rng_state(here.device)), "they are others")
    return "the same"


def noise(here: Here) -> str:
    """The noise that draws tokens is the CPU's, to the last digits of float64."""
    keys = torch.arange(-3, 5) * 2**60
    here_noise = gumbel(keys.to(here.device), 7, 1000).cpu()
    apart = float((here_noise - gumbel(keys, 7, 1000)).abs().max())
    _require(apart < 1e-12, f"up to {apart:.1e} apart")
    return f"at most {apart:.1e} apart"


# ---- numbers --------------------------------------------------------------------------------------------------------


def head(here: Here) -> str:
    """The log-probabilities of answers and their gradients, by the head that a GPU takes, are a CPU's softmax."""
    trainer = here.trainer()
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    model, found = trainer.model, []
    for exact, device in ((False, here.device), (True, torch.device("cpu"))):
        model.to(device).zero_grad()
        given = {name: value.to(device) for name, value in batch.items() if torch.is_tensor(value)}
        if exact:  # of whole logits, in float64
            model.double()
            hidden = model.model(**trainer.layout.inputs(given, model), use_cache=False).last_hidden_state.flatten(0, 1)
            logits = model.lm_head(hidden[given["predictors"]]).log_softmax(dim=1)
            values = logits.gather(1, given["targets"][:, None])[:, 0]
        else:
            values = token_log_probs(model, model, trainer.layout, given)
        (values * torch.linspace(-1, 2, len(values), device=device)).sum().backward()
        found.append([values.detach(), model.lm_head.weight.grad, model.model.layers[0].mlp.up_proj.weight.grad])
        found[-1] = [tensor.double().cpu() for tensor in found[-1]]
    apart = max(_relative(*both) for both in zip(*found, strict=True))
    _require(apart < FLOAT32, f"{apart:.1e} apart, of the largest")
    return f"{apart:.1e} apart, of the largest"


def flex(here: Here) -> str:
    """Gradients through FlexAttention's packed mask are sdpa's."""
    _on_a_gpu(here, "FlexAttention has no backward pass on a CPU")
    found: list[list[Tensor]] = []
    for attention in ("sdpa", "flex_attention"):
        trainer = here.trainer(attention=attention, reference_seed=1)
        batch = trainer._prepare_inputs(trainer.data_collator([trainer.train_dataset[i] for i in range(4)]))
        model = trainer.model.to(here.device)
        trainer.judge(model, batch).log_ratio_difference.sum().backward()
        found.append([parameter.grad for parameter in model.parameters()])
    apart = max(_relative(*both) for both in zip(*found, strict=True))
    _require(apart < FLOAT32, f"{apart:.1e} apart, of the largest")
    return f"{apart:.1e} apart, of the largest"


def reward_fit(here: Here) -> str:
    """A reward on wide states is fitted on the GPU, and is the one that the CPU fits."""
    _on_a_gpu(here, "wide states are fitted on the CPU here")
    random = torch.Generator().manual_seed(0)
    chosen, rejected = (torch.randn(40, 3, 2048, generator=random) + shift for shift in (0.03, -0.03))
    there = HybridReward.fit(chosen, rejected)
    available, torch.cuda.is_available = torch.cuda.is_available, lambda: False
    try:
        ours = HybridReward.fit(chosen, rejected)
    finally:
        torch.cuda.is_available = available
    apart = _relative(there.score(chosen), ours.score(chosen))
    _require(apart < 1e-2, f"scores up to {apart:.1e} apart, of the largest")
    return f"scores up to {apart:.1e} apart, of the largest"


def four_bits(here: Here) -> str:
    """A layer in 4 bits computes what its weights say once they are whole again, in bfloat16."""
    _on_a_gpu(here, "it has other kernels here")
    try:
        import bitsandbytes
    except ImportError as error:
        raise NotHereError("bitsandbytes is not installed") from error
    layer = bitsandbytes.nn.Linear4bit(
        256, 256, bias=False, compute_dtype=torch.bfloat16, compress_statistics=True, quant_type="nf4"
    ).to(here.device)
    x = torch.randn(64, 256, device=here.device, dtype=torch.bfloat16, requires_grad=True)
    whole = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).to(torch.bfloat16)
    layer(x).sum().backward()
    expected = torch.ones(64, 256, device=here.device, dtype=torch.bfloat16) @ whole
    apart = max(_relative(layer(x).float(), (x @ whole.T).float()), _relative(x.grad.float(), expected.float()))
    _require(apart < 2**-6, f"{apart:.1e} apart, of the largest")  # both round to 2^-9, sums of 256 a little more
    return f"{apart:.1e} apart, of the largest"


def _relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def _require(holds: bool, found: str) -> None:
    if not holds:
        raise AssertionError(found)


CHECKS: dict[str, Callable[[Here], str]] = {
    "operations": operations, "step": step, "answers": answers, "copies": copies, "generators": generators,
    "noise": noise, "head": head, "flex": flex, "reward fit": reward_fit, "4 bits": four_bits,
}  # fmt: skip

if __name__ == "__main__":
    main(sys.argv[1:])
