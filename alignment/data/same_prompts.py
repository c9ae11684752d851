"""When two prompts are the same: for the split, for repetitions, and for keeping evaluation prompts out of training."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b

from alignment.types import Message

_WORDS = re.compile(r"\w+")


@lru_cache(maxsize=16)  # a prompt is looked at more than once in a row
def normal_text(text: str) -> str:
    """The words: case, white space, punctuation and the ways to write a character aside. Of signs alone, the signs."""
    if text.isascii():
        folded = text.lower()
    else:  # without characters that nobody sees
        seen = "".join(character for character in text if unicodedata.category(character) != "Cf")
        folded = unicodedata.normalize("NFKC", seen).casefold()
    return " ".join(_WORDS.findall(folded)) or " ".join(folded.split())


def prompt_text(prompt: Sequence[Message]) -> str:
    """A whole conversation as normal text."""
    return normal_text("\n".join(message["content"] for message in prompt))


def text_hash(text: str, seed: int = 0) -> int:
    """64 bits that are the same on every machine and in every process."""
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, key=seed.to_bytes(16, signed=True)).digest()
    return int.from_bytes(digest)


def share(prompt: Sequence[Message], seed: int) -> float:
    """A number in [0, 1) that depends on how a conversation opens alone, so that its later turns fall on its side."""
    opening = next((message for message in prompt if message["role"] == "user"), prompt[0])
    return text_hash(normal_text(opening["content"]), seed) / 2**64


def asked(prompt: Sequence[Message]) -> set[int]:
    """What the user asks in it, turn by turn and as a whole, each as a hash of its normal text."""
    turns = {text_hash(normal_text(message["content"])) for message in prompt if message["role"] == "user"}
    return turns if len(prompt) == 1 else turns | {text_hash(prompt_text(prompt))}


def all_asked(prompts: Iterable[Sequence[Message]]) -> set[int]:
    """Of evaluation prompts: each as a whole, and where it is a conversation, its last turn."""
    found = set()
    for prompt in prompts:
        found.add(text_hash(prompt_text(prompt)))
        found.add(text_hash(normal_text(prompt[-1]["content"])))
    return found
