"""A guard read from a language model's own activations: how likely an answer is harmful.

guard = Guard.load(folder)
guard.judge(model, tokenizer, conversations)     # probabilities of harm, one for each conversation's last answer
guard.threshold                                  # harmful from this probability on

A guard is a ridge over the states of some layers (maths/answer_ridge.py), which reads the model it was fitted on and no
other: its file holds the states of a fixed conversation, and a model that has other ones is refused.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from alignment.data.cells import BadRow
from alignment.data.near_duplicates import any_turn_near
from alignment.maths.answer_probabilities import Calibration
from alignment.maths.answer_ridge import AnswerRidge
from alignment.runs.artifacts import atomic_file, write_json
from alignment.runs.manifest import hash_file
from alignment.types import GuardFit, Message, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from alignment.models.answer_states import StateReader

FORMAT = 1
PLACES = 2  # where states are read (models/answer_states.py), which needs transformers
TENSORS, SETTINGS = "guard.safetensors", "guard.json"
KNOWN: list[Message] = [{"role": "user", "content": "What is safe to eat?"}, {"role": "assistant", "content": "Bread."}]
ALIKE = 0.98  # cosine of the states of KNOWN in each layer: bfloat16 and float32 of one model agree to 0.999


@dataclass(frozen=True)
class GuardMeaning:
    """What a guard was fitted on and how, for people to read and for runs to check.

    model: the name of the model it reads; loaded_as: what loads that anywhere, None for a folder; fingerprint: which
    it was. fit: "judge", if no prompt that its run's policies learn from or are asked was among its own, or
    "benchmark", of all labelled answers. sources: how many answers of each set. categories: the kinds of harm that it
    tells apart, if the labels have any. quality: by fits to other prompts.
    """

    model: str
    loaded_as: str | None
    fingerprint: str
    fit: GuardFit
    sources: dict[str, int]
    penalty: float
    categories: list[str]
    quality: dict[str, Any]


class Guard:
    """Probabilities of harm of answers, from states (answer, layer, width) of all layers of its model."""

    def __init__(
        self,
        ridge: AnswerRidge,
        layers: range,
        calibration: Calibration,
        threshold: float,
        max_length: int,
        known: Tensor,
        seen: np.ndarray,
        meaning: GuardMeaning,
    ) -> None:
        """ridge: of harm, and then of each category. layers: those it reads, counted from 1. max_length: tokens at
        which a conversation is cut. known: the states of KNOWN. seen: the signatures of the prompts it was fitted on
        (data/near_duplicates.py)."""
        self.ridge, self.layers, self.calibration, self.threshold = ridge, layers, calibration, threshold
        self.max_length, self.known, self.seen, self.meaning = max_length, known, seen, meaning

    # ---- judging ----------------------------------------------------------------------------------------------------

    def scores(self, states: Tensor) -> tuple[np.ndarray, list[str | None]]:
        """The probability of harm of each answer, and its likeliest category. states: (answer, place and layer, width),
        as StateReader reads them of the guard's layers."""
        scores = self.ridge.score(states).numpy()
        names = self.meaning.categories
        likeliest = scores[:, 1:].argmax(axis=1) if names else []
        return self.calibration.probabilities(scores[:, 0]), [names[i] for i in likeliest] or [None] * len(scores)

    def judge(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        conversations: Sequence[list[Message]],
        batch_tokens: int = 16384,
    ) -> np.ndarray:
        """The probability that the last answer of each conversation, a list of messages, is harmful."""
        from alignment.models.answer_states import StateReader, answer_text  # here: a file needs no transformers
        from alignment.models.conversations import evaluating, whole_conversation
        from alignment.models.packing import Packing

        with evaluating(model, tokenizer) as loaded:
            reader = StateReader(loaded, self.layers, Packing("off"))
            self.require_model(reader)
            limit, texts = min(self.max_length, reader.limit), []
            for number, conversation in enumerate(conversations):
                *before, answer = whole_conversation(number, conversation)
                try:
                    texts.append(answer_text(loaded, before, answer["content"], limit))
                except BadRow as error:
                    raise UserError(f"conversation {number}", str(error), "shorten it, or leave it out") from error
            return self.scores(reader.states(texts, batch_tokens))[0] if texts else np.empty(0)

    def require_model(self, reader: "StateReader") -> None:
        """UserError unless the reader's model has the states that this guard was fitted on."""
        config = reader.loaded.model.config.get_text_config()
        count, width = config.num_hidden_layers, config.hidden_size
        if count < self.layers[-1] or width != self.known.shape[1]:
            problem = f"the model has {count} layers of width {width}"
        else:
            (states,) = reader.states([reader.known_text(KNOWN)], 1)
            alike = torch.cosine_similarity(states.double(), self.known.double(), dim=1)
            if bool((alike > ALIKE).all()):
                return
            problem = f"the model's states of a known conversation differ (cosine {float(alike.min()):.2f})"
        raise UserError("guard", problem, f"give the model it was fitted on: {self.meaning.model}")

    def has_seen(self, prompts: Sequence[Sequence[Message]]) -> np.ndarray:
        """Of each prompt: was the guard fitted on an answer to it or to one of its turns, or to nearly the same one?"""
        return any_turn_near(prompts, self.seen)

    # ---- files ------------------------------------------------------------------------------------------------------

    def save(self, folder: Path | str) -> None:
        """Writes guard.safetensors and guard.json; the same guard gives the same bytes."""
        folder = Path(folder)
        tensors = {
            "weight": self.ridge.weight, "bias": self.ridge.bias, "mean": self.ridge.mean, "known": self.known.float(),
            "seen": torch.from_numpy(self.seen.view(np.int64).copy()),
        }  # fmt: skip
        with atomic_file(folder / TENSORS) as file:
            file.write_bytes(save({name: value.contiguous() for name, value in tensors.items()}))
        write_json(
            folder / SETTINGS,
            {
                "format": FORMAT, "layers": [self.layers[0], self.layers[-1]],
                "temperature": self.calibration.temperature, "offset": self.calibration.offset,
                "threshold": self.threshold, "max_length": self.max_length, "meaning": asdict(self.meaning),
            },
        )  # fmt: skip

    @classmethod
    def load(cls, folder: Path | str) -> "Guard":
        """A saved guard; anything else is refused."""
        folder = Path(folder).expanduser()
        try:
            settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
            tensors = load((folder / TENSORS).read_bytes())
            if settings["format"] != FORMAT:
                raise _no_guard(folder, f"{SETTINGS} has format {settings['format']}, not {FORMAT}")
            first, last = settings["layers"]
            shape = PLACES * (last - first + 1), tensors["known"].shape[1]
            labels = 1 + len(settings["meaning"]["categories"])
            wanted = {"weight": (labels, *shape), "bias": (labels,), "mean": shape, "known": shape}
            if any(tuple(tensors[name].shape) != size for name, size in wanted.items()):
                raise _no_guard(folder, f"{TENSORS} doesn't hold what {SETTINGS} says")
            if not all(bool(tensors[name].isfinite().all()) for name in wanted):
                raise _no_guard(folder, f"{TENSORS} holds numbers that are not finite")
            return cls(
                AnswerRidge(tensors["weight"], tensors["bias"], tensors["mean"]), range(first, last + 1),
                Calibration(float(settings["temperature"]), float(settings["offset"])), float(settings["threshold"]),
                int(settings["max_length"]), tensors["known"], tensors["seen"].numpy().view(np.uint64),
                GuardMeaning(**settings["meaning"]),
            )  # fmt: skip
        except OSError as error:
            raise _no_guard(folder, f"{Path(error.filename or SETTINGS).name} can't be read") from error
        except (ValueError, KeyError, TypeError, SafetensorError) as error:
            raise _no_guard(folder, "it is damaged") from error


def guard_hash(folder: Path | str) -> str:
    """A hash of the guard's files: it changes when a weight or the threshold does."""
    files = [Path(folder).expanduser() / name for name in (SETTINGS, TENSORS)]
    return hashlib.sha256("".join(map(hash_file, files)).encode()).hexdigest()


def _no_guard(folder: Path, problem: str) -> UserError:
    return UserError(str(folder), problem, "give a folder that +recipe=guard wrote")
