"""Which prompts count as the same: in the split, as repetitions, and when evaluation prompts are kept from training."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

from alignment.types import Message

_WORDS = re.compile(r"\w+")


@lru_cache(maxsize=16)  # a prompt is looked at several times, one after the other
def normal_text(text: str) -> str:
    """The words of a text, whatever their case, white space, punctuation and encoding; its signs if it has no words."""
    if text.isascii():
        folded = text.lower()
    else:
        visible = "".join(character for character in text if unicodedata.category(character) != "Cf")
        folded = unicodedata.normalize("NFKC", visible).casefold()
    return " ".join(_WORDS.findall(folded)) or " ".join(folded.split())


def prompt_text(prompt: Sequence[Message]) -> str:
    """A whole conversation as normal text."""
    return normal_text("\n".join(message["content"] for message in prompt))


def text_hash(text: str, seed: int = 0) -> int:
    """A hash of 64 bits, the same on every machine and in every process."""
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, key=seed.to_bytes(16, signed=True)).digest()
    return int.from_bytes(digest)


def split_position(prompt: Sequence[Message], seed: int) -> float:
    """A prompt's position in [0, 1): the split holds out prompts below its share. Only the user's first turn counts, so
    that a conversation and its later turns fall into the same part."""
    return text_hash(normal_text(opening(prompt)["content"]), seed) / 2**64


def opening(prompt: Sequence[Message]) -> Message:
    """What a conversation opens with: the user's first turn."""
    return next((message for message in prompt if message["role"] == "user"), prompt[0])


def user_turns(prompt: Sequence[Message]) -> list[str]:
    """What the user says, turn by turn; of a conversation without a user what it opens with."""
    turns = [message["content"] for message in prompt if message["role"] == "user"]
    return turns or [opening(prompt)["content"]]


def turn_hashes(prompt: Sequence[Message]) -> set[int]:
    """The hashes of the user's turns and of the whole conversation: what a training prompt asks."""
    turns = {text_hash(normal_text(message["content"])) for message in prompt if message["role"] == "user"}
    return turns if len(prompt) == 1 else turns | {text_hash(prompt_text(prompt))}


def prompt_hashes(prompts: Iterable[Sequence[Message]]) -> set[int]:
    """The hashes of evaluation prompts: each one as a whole, and the last turn of each."""
    hashes = set()
    for prompt in prompts:
        hashes |= {text_hash(prompt_text(prompt)), text_hash(normal_text(prompt[-1]["content"]))}
    return hashes


class KeptOut(NamedTuple):
    """The prompts of an evaluation set: how many, and what tells a pair that asks one, which a prompt may have several
    of (its text, its last turn, its request without a context)."""

    prompts: int
    hashes: set[int]


def kept_out_of(
    prompts: Mapping[str, Sequence[Sequence[Message]]], also: Mapping[str, Sequence[Sequence[Message]]] | None = None
) -> dict[str, KeptOut]:
    """Evaluation prompts by their sets. also: other texts that ask for the same, of sets that have some."""
    others = also or {}
    return {
        name: KeptOut(len(asked), prompt_hashes([*asked, *others.get(name, ())])) for name, asked in prompts.items()
    }


def kept_out_dialogues(prompts: Iterable[Sequence[Message]]) -> KeptOut:
    """The prompts of held-out pairs, and what they open with: as in a split, their continuations count."""
    once = {prompt_text(prompt): prompt for prompt in prompts}
    return KeptOut(len(once), prompt_hashes([*once.values(), *([opening(prompt)] for prompt in once.values())]))
