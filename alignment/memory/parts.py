"""How many bytes a rank's memory holds in a stage, by arithmetic alone, from the model's shape and how it is run.

Trainings have float32 weights, and in bfloat16 they are computed under autocast. A model has P parameters, of which T
train, on n ranks; a number takes b bytes, 2 in bfloat16 and 4 otherwise:

    layout          weights   gradients   AdamW       reference
    one rank, ddp   4P        4T          8T          4P           ddp: 4T more, the buckets that are reduced
    zero1           bP        bT          12T/n       bP           12: float32 copies of a rank's share, two moments;
    zero2           bP        bT/n        12T/n       bP           and 4T/n of float32 gradients while it steps
    zero3           bP/n      bT/n        12T/n       bP/n         and whole what is computed now
    zero3_offload   in the host's memory                           whole what is computed now
    fsdp2           4P/n      4T/n        8T/n        4P/n         and two blocks whole

The table is read off DeepSpeed 0.19 (runtime/zero/stage_1_and_2.py, stage3.py, zero/config.py), accelerate 1.15 and
TRL 1.16. Not all of it is held at once: a backward pass makes gradients while it frees activations. `peak` counts that.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

DEEPSPEED_BUCKET = 500_000_000  # elements: reduce_bucket_size, which launch/accelerate leaves at its default
LIVE_PARAMETERS = 1_000_000_000  # elements that ZeRO-3 keeps whole at most: stage3_max_live_parameters
VOCABULARY_TILE = {False: 4096, True: 32768}  # False: on a CPU, True: on a GPU (models/completions.py)
TOKEN_TILE = 4096  # tokens of TRL's tiled head, trl/kernels/chunked_logprob.py

# Memory that no list of tensors shows.
PROCESS = 600_000_000  # of a process on a CPU: the interpreter and libraries (0.52 GB in benchmarks/results.json)
CONTEXT = 1_500_000_000  # on a GPU: context and kernels, workspaces of cuBLAS, buffers of NCCL
FRAGMENTED = 0.1  # on a GPU: the share of activations and cache that the allocator loses between blocks


@dataclass(frozen=True)
class Memory:
    """Bytes that one rank holds, by what they are for.

    apart: the part of gradients and activations that is never held at the same time. around: the most that is held
    before the first step, when rows are checked, or after the last, when models are merged and scored. host: what a
    rank on a GPU holds in the memory of its machine.
    """

    weights: int = 0
    gradients: int = 0
    optimiser: int = 0
    reference: int = 0
    activations: int = 0
    hidden: int = 0
    cache: int = 0
    other: int = 0
    apart: int = 0
    around: int = 0
    host: int = 0

    @property
    def peak(self) -> int:
        """The most that is held at any moment."""
        parts = self.weights + self.gradients + self.optimiser + self.reference + self.activations
        return max(parts + self.hidden + self.cache + self.other - self.apart, self.around)


@dataclass(frozen=True)
class Shape:
    """How many parameters a model has, and where.

    block: the parameters of its largest block; head: those of the language-model head, 0 where none is computed.
    """

    parameters: int
    trainable: int
    layers: int
    width: int
    block: int
    head: int
    head_trains: bool
    tied: bool

    @property
    def outside(self) -> int:
        """Embeddings, head and final norm."""
        return max(0, self.parameters - self.layers * self.block)


@dataclass(frozen=True)
class Kept:
    """Bytes that one forward pass keeps.

    blocks and outside: what the backward pass needs, in the decoder's blocks and elsewhere; hidden: one layer's states;
    widest: the largest tensor; casts: weights in half precision that autocast makes and keeps; inputs: token ids and
    masks. Counted in tokens are targets, whose probability is computed.
    """

    blocks: int
    outside: int
    hidden: int
    widest: int
    casts: int
    inputs: int
    targets: int

    def held(self, checkpointing: bool, layers: int) -> int:
        """Bytes kept until the backward pass; with checkpointing every block's input, and one block computed again."""
        blocks = layers * self.hidden + self.blocks // layers if checkpointing else self.blocks
        return blocks + self.outside + self.inputs

    @property
    def working(self) -> int:
        """Bytes a block needs while it is computed: three of its widest tensors, and a few hidden states."""
        return 3 * self.widest + 4 * self.hidden


@dataclass(frozen=True)
class Setting:
    """How a training is run. reference: it holds a second model; accumulates: a step has several micro-batches."""

    layout: str
    ranks: int
    gpu: bool
    half: bool
    reference: bool
    checkpointing: bool
    accumulates: bool


def training(shape: Shape, kept: Kept, setting: Setting, hidden: int = 0) -> Memory:
    """Memory of a training after a step, optimiser states included. hidden: bytes of a live reward's states."""
    fixed = _fixed(shape, setting)
    activations = kept.held(setting.checkpointing, shape.layers) + kept.casts + _on_top(shape, kept, setting)
    kept_gradients = fixed.gradients if setting.accumulates else 0
    at_end = 4 * shape.head if shape.tied and shape.head_trains else 0  # the embeddings' part, before it is added
    together = activations + fixed.gradients
    if not setting.layout.startswith(("zero2", "zero3", "fsdp2")):  # there only shares are kept
        together = max(activations + kept_gradients, fixed.gradients + at_end)
    fragmented = int(FRAGMENTED * activations) if setting.gpu else 0
    return replace(
        fixed, activations=activations, hidden=hidden, other=fixed.other + overhead(setting.gpu) + fragmented,
        apart=activations + fixed.gradients - together,
    )  # fmt: skip


def inference(
    weights: int, kept: Kept, gpu: bool, *, hidden: int = 0, cache: int = 0, logits: int = 0, host: int = 0
) -> Memory:
    """Memory of inference: weights are whole on every rank, and nothing is kept for a backward pass.

    logits: bytes of the logits of the tokens that come next.
    """
    activations = kept.working + kept.inputs + logits
    fragmented = int(FRAGMENTED * (activations + cache)) if gpu else 0
    other = overhead(gpu) + fragmented
    return Memory(weights=weights, activations=activations, hidden=hidden, cache=cache, other=other, host=host)


def in_turn(parts: Sequence[Memory]) -> Memory:
    """Memory of computations that follow one another: the largest of each kind, and the largest peak."""
    kinds = [kind.name for kind in fields(Memory) if kind.name != "apart"]
    largest = Memory(**{name: max(getattr(part, name) for part in parts) for name in kinds})
    return replace(largest, apart=largest.peak - max(part.peak for part in parts))


def overhead(gpu: bool) -> int:
    return CONTEXT if gpu else PROCESS


def cache_bytes(rows: int, tokens: int, layers: int, heads: int, width: int, bytes_each: int) -> int:
    """Bytes of the cached keys and values. heads: how many heads have keys; width: numbers in one of them."""
    return rows * tokens * layers * 2 * heads * width * bytes_each


def sampling_bytes(rows: int, vocabulary: int, bytes_each: int, greedy: bool) -> int:
    """Bytes of logits and their float32 copy; to sample, also of the noise: int64 and float64 (maths/noise.py)."""
    return rows * vocabulary * (bytes_each + 4 + (0 if greedy else 24))


def _fixed(shape: Shape, setting: Setting) -> Memory:
    """Weights, gradients, optimiser and reference of a rank, by layout: the table above."""
    everything, trained, ranks = shape.parameters, shape.trainable, setting.ranks
    layout, each = setting.layout, 2 if setting.half else 4
    copies = 2 if setting.reference else 1
    loaded = 4 * everything * copies if setting.gpu else 0  # float32, on the host first, by every rank
    own, share = trained // ranks, each * everything // ranks
    if layout in ("zero1", "zero2"):
        gradients = each * (trained if layout == "zero1" else own) + 4 * own
        bucket = each * min(DEEPSPEED_BUCKET, trained)
        fixed = Memory(weights=each * everything, gradients=gradients, optimiser=12 * own, other=bucket)
    elif layout in ("zero3", "zero3_offload"):
        whole = each * (min(everything, LIVE_PARAMETERS) + (DEEPSPEED_BUCKET if setting.gpu else trained))
        if layout == "zero3_offload":
            return Memory(other=whole, host=max(loaded, share * copies + each * own + 16 * own))
        gradients = each * own + 4 * min(own, LIVE_PARAMETERS)
        fixed = Memory(weights=share, gradients=gradients, optimiser=12 * own, other=whole)
    elif layout == "fsdp2":
        weights, gradients, optimiser = 4 * everything // ranks, 4 * trained // ranks, 8 * trained // ranks
        whole = each * (2 * shape.block + shape.outside) + each * shape.block  # two blocks, and gradients of one
        fixed = Memory(weights=weights, gradients=gradients, optimiser=optimiser, other=whole)
    else:
        buckets = 4 * trained if ranks > 1 else 0
        fixed = Memory(weights=4 * everything, gradients=4 * trained, optimiser=8 * trained, other=buckets)
    return replace(fixed, reference=fixed.weights if setting.reference else 0, host=loaded)


def _on_top(shape: Shape, kept: Kept, setting: Setting) -> int:
    """The most bytes on top of what is kept: in the reference's pass, at the head, or as the backward pass begins."""
    each, tokens = 2 if setting.half else 4, kept.targets
    if setting.gpu:
        tokens = min(tokens, TOKEN_TILE)
    tile = each * tokens * VOCABULARY_TILE[setting.gpu] if shape.head else 0
    reference = kept.working + 2 * tile + kept.casts if setting.reference else 0
    states = 4 * kept.targets * shape.width if shape.head else 0
    head = 2 * states + tile + (4 * shape.head if shape.head_trains else 0)  # the head's gradient stays as blocks begin
    return max(reference, head, head - tile + kept.working)
