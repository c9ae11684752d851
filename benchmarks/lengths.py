"""Preference pairs as they come: hh-rlhf's harmless test set where it is at hand, otherwise pairs of its lengths.

The data are read from ../shared/data beside the repository. Prompt: everything up to the last "Assistant:"; an answer
ends with the end token. Pairs with a text longer than the limit are left out, the others shuffled, always alike.
"""

import gzip
import json
import random
from pathlib import Path

from transformers import GPT2TokenizerFast

DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
DIALOGUES = DATA / "hh_rlhf" / "harmless-base" / "test.jsonl.gz"
TOKENIZER = DATA / "models" / "tokenizer_gpt2"
TURN = "\n\nAssistant:"
SEED = 0

# (prompt, chosen, rejected): forty pairs of the data, picked for having its quantiles and its padding in batches
TABLE = [
    (19, 8, 11), (24, 11, 7), (22, 20, 17), (21, 3, 44), (19, 17, 32), (21, 32, 23), (18, 56, 10), (64, 26, 12),
    (16, 70, 22), (87, 13, 19), (86, 22, 16), (52, 37, 38), (21, 68, 39), (16, 46, 66), (46, 16, 68), (85, 18, 42),
    (131, 13, 5), (15, 10, 130), (102, 37, 20), (88, 19, 61), (19, 128, 26), (159, 11, 7), (33, 58, 86),
    (136, 15, 33), (169, 26, 22), (127, 49, 52), (178, 25, 61), (200, 49, 29), (162, 12, 108), (164, 51, 70),
    (107, 36, 142), (253, 8, 54), (152, 90, 87), (117, 203, 42), (214, 54, 101), (265, 28, 80), (316, 37, 21),
    (241, 10, 210), (368, 71, 148), (421, 192, 60),
]  # fmt: skip

Pair = dict[str, list[int]]  # prompt_ids, chosen_ids, rejected_ids


def pairs(count: int, vocabulary: int, longest: int, tokens: int | None = None) -> list[Pair]:
    """The first `count` pairs of at most `longest` tokens a side; the last id of the vocabulary is the end token.

    With `tokens`, every pair has just so many: half of them the prompt's, a quarter each answer's.
    """
    if tokens is not None:
        found = _random_pairs([(tokens - 2 * (tokens // 4), tokens // 4, tokens // 4)], count, vocabulary)
    elif _at_hand():
        found = _real_pairs(count, vocabulary, longest)
    else:
        fitting = [triple for triple in TABLE if triple[0] + max(triple[1:]) <= longest]
        found = _random_pairs(fitting, count, vocabulary)
    return [found[i % len(found)] for i in range(count)]


def source() -> str:
    """Where `pairs` takes its lengths from, for the records."""
    return "hh-rlhf harmless, test set" if _at_hand() else "built-in table of hh-rlhf harmless lengths"


def length_of(pair: Pair) -> int:
    """Tokens a pair needs: its prompt once, and both answers."""
    return sum(len(ids) for ids in pair.values())


def _at_hand() -> bool:
    return DIALOGUES.is_file() and TOKENIZER.is_dir()


def _real_pairs(count: int, vocabulary: int, longest: int) -> list[Pair]:
    lines = gzip.decompress(DIALOGUES.read_bytes()).decode().splitlines()
    random.Random(SEED).shuffle(lines)
    tokenizer = GPT2TokenizerFast(vocab=str(TOKENIZER / "encoder.json"), merges=str(TOKENIZER / "vocab.bpe"))
    found = []
    for line in lines:
        row = json.loads(line)
        if _parts(row["chosen"])[0] != _parts(row["rejected"])[0]:
            continue  # a few pairs answer different prompts
        pair = _pair(row, tokenizer, vocabulary)
        if len(pair["prompt_ids"]) + max(len(pair["chosen_ids"]), len(pair["rejected_ids"])) <= longest:
            found.append(pair)
        if len(found) == count:
            break
    return found


def _pair(row: dict[str, str], tokenizer: GPT2TokenizerFast, vocabulary: int) -> Pair:
    """Ids beyond the vocabulary wrap around: smaller vocabularies are for tests."""
    end = vocabulary - 1
    (prompt, chosen), (_, rejected) = _parts(row["chosen"]), _parts(row["rejected"])
    ids = [[token % end for token in tokenizer(text).input_ids] for text in (prompt, chosen, rejected)]
    return {"prompt_ids": ids[0], "chosen_ids": [*ids[1], end], "rejected_ids": [*ids[2], end]}


def _parts(dialogue: str) -> tuple[str, str]:
    """The prompt, and the last answer to it."""
    at = dialogue.rindex(TURN) + len(TURN)
    return dialogue[:at], dialogue[at:]


def _random_pairs(lengths: list[tuple[int, int, int]], count: int, vocabulary: int) -> list[Pair]:
    """Random ids of these lengths, every answer with its end token."""
    source = random.Random(SEED)
    end = vocabulary - 1
    found = []
    for _ in range(count):
        prompt, *answers = source.choice(lengths)
        ids = [[source.randrange(end) for _ in range(length)] for length in (prompt, *(a - 1 for a in answers))]
        found.append({"prompt_ids": ids[0], "chosen_ids": [*ids[1], end], "rejected_ids": [*ids[2], end]})
    return found
