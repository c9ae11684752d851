"""A reward read from a language model's own activations: a linear probe per layer, and a gate over them.

reward = HybridReward.fit(chosen, rejected)      # states (pair, layer, width), as models/activations.py reads them
reward.score(states)                             # (n,) of states (n, layer, width)
reward.judge(model, tokenizer, conversations)    # states and scores of conversations
reward.save(folder); HybridReward.load(folder)
"""

import json
from collections.abc import Callable, Sequence
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from alignment.maths.hybrid import GATES, Head, gate_weights, hybrid_score, vote_shape
from alignment.models.fit_heads import fit_heads
from alignment.models.fitting_states import require_pairs, require_prompts, require_tensor
from alignment.runs.artifacts import atomic_file, write_json
from alignment.types import Gate, Message, Pooling, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FORMAT = 1
POOLINGS = get_args(Pooling)
TENSORS, SETTINGS = "reward.safetensors", "reward.json"
DEFAULT_GATE: Gate = "static_softmax"
CAPPED = ", the largest allowed: held-out pairs are all ordered right"
CHUNK = 2**23  # numbers held in float64 at once while scoring: 64 MB


class CrossFitted(NamedTuple):
    """What a reward that was fitted on other pairs says of each training pair."""

    gaps: Tensor
    confidences: Tensor


class JudgedConversations(NamedTuple):
    """states: (conversation, layer, width) at the end of the last answer. scores: R of each."""

    states: Tensor
    scores: Tensor


class HybridReward(nn.Module):
    """R(h) = sum_l w_l s_l: the gate's weight w_l times the score of layer l's probe, over all layers.

    s_l = z_l . weight_l / width + bias_l, where z_l is the standardised state of layer l.
    The division by width makes weights of one size at any width: a step of 0.01 moves a score by at most 0.01
    times the mean |z|. All parameters are float64.

    gate: one of maths.hybrid.GATES; `vote` is its matrix or vector, where it has one. layer: the one that best_layer
    picks. pooling: where in an answer the states were read, and must be read to be scored. alpha: the slope at which
    sigma(alpha (R_c - R_r)) is a probability on held-out training pairs, None if never calibrated.
    meaning: what it was fitted on and how, for people to read.
    cross_fitted: of each pair it was just fitted on, gap and gamma by fits without that pair; a loaded one has none.
    """

    cross_fitted: CrossFitted | None = None

    def __init__(
        self,
        mean: Tensor,
        scale: Tensor,
        head: Head,
        pooling: Pooling,
        alpha: float | None,
        meaning: dict[str, str],
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise UserError("pooling", f"{pooling!r} is not a choice", f"choose one of {', '.join(POOLINGS)}")
        self.register_buffer("mean", mean.double())
        self.register_buffer("scale", scale.double())
        self.weight, self.bias = nn.Parameter(head.weight.double()), nn.Parameter(head.bias.double())
        self.vote = None if head.vote is None else nn.Parameter(head.vote.double())
        self.gate, self.layer, self.pooling, self.alpha, self.meaning = head.gate, head.layer, pooling, alpha, meaning

    # ---- scoring ----------------------------------------------------------------------------------------------------

    def layer_scores(self, states: Tensor) -> Tensor:
        """s of every row and layer, in float64, whatever float dtype the states have; all are finite numbers."""
        scores = self.unchecked_scores(states)
        if not bool(scores.isfinite().all()):
            raise UserError("states", "some are not finite numbers", "read them in float32 or bfloat16")
        return scores

    def unchecked_scores(self, states: Tensor) -> Tensor:
        """The same, whatever numbers come out: nothing waits for the device that computes them."""
        self._check(states)
        size = max(1, CHUNK // self.weight.numel())
        probe = self.weight / (self.scale * self.weight.shape[1])
        offset = self.bias - (self.mean * probe).sum(dim=1)
        scores = [torch.einsum("nlw,lw->nl", part.to(probe), probe) for part in states.split(size)]
        return torch.cat(scores) + offset

    def gate_weights(self, layer_scores: Tensor) -> Tensor:
        """w of every row and layer."""
        return gate_weights(layer_scores, self.gate, self.vote, self.layer)

    def forward(self, states: Tensor) -> Tensor:
        """R of every row, differentiable in the parameters and in the states."""
        scores = self.layer_scores(states)
        return hybrid_score(scores, self.gate_weights(scores))

    @torch.no_grad()
    def score(self, states: Tensor) -> Tensor:
        """R of every row."""
        return self(states)

    def judge(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        conversations: Sequence[list[Message]],
        batch_tokens: int = 16384,
    ) -> JudgedConversations:
        """States and R of the last answer of every conversation, a list of messages. model: the one whose states this
        reward was fitted on, with its head or without."""
        from alignment.models.conversations import conversation_states  # here: states alone need no transformers

        config = model.config.get_text_config()
        if (config.num_hidden_layers, config.hidden_size) != (wanted := tuple(self.weight.shape)):
            problem = f"it has {config.num_hidden_layers} layers of width {config.hidden_size}"
            raise UserError("model", problem, f"give the one it was fitted on, with {wanted[0]} of width {wanted[1]}")
        states = conversation_states(model, tokenizer, conversations, self.pooling, batch_tokens)
        return JudgedConversations(states, self.score(states))

    def __repr__(self) -> str:
        layers, width = self.weight.shape
        alpha = "none" if self.alpha is None else f"{self.alpha:.4g}"
        at = "" if self.layer is None else f" (layer {self.layer + 1})"
        return (
            f"HybridReward(gate={self.gate}{at}, layers={layers}, width={width}, "
            f"fitted on {self.meaning.get('pairs', '?')} pairs, pooling={self.pooling}, alpha={alpha})"
        )

    def _check(self, states: Tensor) -> None:
        wanted = tuple(self.weight.shape)
        require_tensor("states", states)
        if states.ndim != 3 or tuple(states.shape[1:]) != wanted or not states.is_floating_point():
            problem = f"they are {states.dtype} of shape {tuple(states.shape)}"
            raise UserError("states", problem, f"give floats of shape (n, {wanted[0]}, {wanted[1]})")

    # ---- fitting ----------------------------------------------------------------------------------------------------

    @classmethod
    def fit(
        cls,
        chosen: Tensor,
        rejected: Tensor,
        gate: Gate = DEFAULT_GATE,
        seed: int = 0,
        margin: float = 1.0,
        pooling: Pooling = "endpoint",
        prompts: Sequence[int] | None = None,
    ) -> "HybridReward":
        """Fits probes and gate to states (pair, layer, width). The seed deals the pairs into folds, nothing else.

        prompts: a number for each pair's prompt. Give them where a prompt has several pairs: these share answers, and
        must share a fold, or what is chosen on held-out pairs is chosen on answers that were fitted.
        """
        return cls.fit_gates(chosen, rejected, [gate], seed, margin, pooling, prompts)[gate]

    @classmethod
    def fit_gates(
        cls,
        chosen: Tensor,
        rejected: Tensor,
        gates: Sequence[Gate] = GATES,
        seed: int = 0,
        margin: float = 1.0,
        pooling: Pooling = "endpoint",
        prompts: Sequence[int] | None = None,
    ) -> dict[Gate, "HybridReward"]:
        """One reward per gate, from the same probes and folds: what they have in common is computed once."""
        require_pairs(chosen, rejected)
        for name, value, choices in (*(("gate", gate, GATES) for gate in gates), ("pooling", pooling, POOLINGS)):
            if value not in choices:
                raise UserError(name, f"{value!r} is not a choice", f"choose one of {', '.join(choices)}")
        if isinstance(margin, bool) or not isinstance(margin, Real) or not 0 <= margin < float("inf"):
            raise UserError("margin", f"{margin!r} is no number of at least 0", "give one, as 1.0")
        numbers = None if prompts is None else require_prompts(prompts, len(chosen))
        fitted = fit_heads(chosen, rejected, gates, seed, float(margin), numbers)
        rewards: dict[Gate, HybridReward] = {}
        for gate, of_gate in fitted.gates.items():
            alpha, capped = of_gate.temperature
            meaning = {
                "pairs": str(len(chosen)), "seed": str(seed), "margin": f"{margin:g}", "cost": f"{of_gate.cost:g}",
                "steps": str(of_gate.steps), "alpha": f"{alpha:.4g}{CAPPED if capped else ''}",
            }  # fmt: skip
            rewards[gate] = cls(fitted.mean, fitted.scale, of_gate.head, pooling, alpha, meaning)
            rewards[gate].cross_fitted = CrossFitted(of_gate.heldout_gaps, of_gate.heldout_confidences)
        return rewards

    # ---- files ------------------------------------------------------------------------------------------------------

    def save(self, folder: Path | str) -> None:
        """Writes reward.safetensors and reward.json; the same reward gives the same bytes."""
        folder = Path(folder)
        with atomic_file(folder / TENSORS) as file:
            file.write_bytes(save({name: value.cpu().contiguous() for name, value in self.state_dict().items()}))
        layers, width = self.weight.shape
        write_json(
            folder / SETTINGS,
            {
                "format": FORMAT, "gate": self.gate, "layer": self.layer, "pooling": self.pooling, "alpha": self.alpha,
                "layers": layers, "width": width, "meaning": self.meaning,
            },
        )  # fmt: skip

    @classmethod
    def load(cls, folder: Path | str) -> "HybridReward":
        """A saved reward; anything else is refused."""
        folder = Path(folder)
        settings = _read(folder, SETTINGS, json.loads)
        if not isinstance(settings, dict) or settings.get("format") != FORMAT:
            raise _no_reward(folder, f"{SETTINGS} has another format than {FORMAT}")
        if not _describes_a_reward(settings):
            raise _no_reward(folder, f"{SETTINGS} doesn't describe a reward")
        shape, gate = (settings["layers"], settings["width"]), settings["gate"]
        vote = vote_shape(gate, shape[0])
        wanted = {"mean": shape, "scale": shape, "weight": shape, "bias": shape[:1], **({"vote": vote} if vote else {})}
        tensors = _read(folder, TENSORS, load)
        if {name: tuple(value.shape) for name, value in tensors.items()} != wanted:
            raise _no_reward(folder, f"{TENSORS} doesn't hold what {SETTINGS} says")
        if not all(bool(value.isfinite().all()) for value in tensors.values()):
            raise _no_reward(folder, f"{TENSORS} holds numbers that are not finite")
        head = Head(tensors["weight"], tensors["bias"], tensors.get("vote"), gate, settings["layer"])
        return cls(tensors["mean"], tensors["scale"], head, settings["pooling"], settings["alpha"], settings["meaning"])


def _read(folder: Path, name: str, parse: Callable[[bytes], Any]) -> Any:
    try:
        return parse((folder / name).read_bytes())
    except OSError as error:
        raise _no_reward(folder, f"{name} can't be read") from error
    except (ValueError, SafetensorError) as error:
        raise _no_reward(folder, f"{name} is damaged") from error


def _describes_a_reward(settings: dict[str, Any]) -> bool:
    if set(settings) != {"format", "gate", "layer", "pooling", "alpha", "layers", "width", "meaning"}:
        return False
    layers, width, layer, alpha = (settings[key] for key in ("layers", "width", "layer", "alpha"))
    if type(layers) is not int or type(width) is not int:
        return False
    if settings["gate"] not in GATES or settings["pooling"] not in POOLINGS:
        return False
    if not (alpha is None or isinstance(alpha, int | float)) or not isinstance(settings["meaning"], dict):
        return False
    return layer in range(layers) if settings["gate"] == "best_layer" else layer is None


def _no_reward(folder: Path, problem: str) -> UserError:
    return UserError(str(folder), problem, "give a folder that HybridReward.save wrote")
