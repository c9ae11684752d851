"""The language model of the benchmarks: a Llama with random weights and GPT-2's vocabulary, saved once for all."""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from alignment.models.hybrid_reward import HybridReward
from benchmarks.operations import Shape

END = "<|endoftext|>"
# A prompt's words, then the answer's and the end token: no role has a name, so that lengths are those of the data.
TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}"
    "{{ '<|endoftext|>' if message['role'] == 'assistant' else ' ' }}{% endfor %}"
)


@dataclass(frozen=True)
class Size:
    """The model, and the longest text that is read."""

    layers: int = 6
    width: int = 512
    intermediate: int = 1376
    heads: int = 8
    vocabulary: int = 50257
    longest: int = 1024
    tied: bool = True

    @property
    def shape(self) -> Shape:
        return Shape(self.layers, self.width, self.intermediate, self.vocabulary)


def configuration(size: Size) -> LlamaConfig:
    end = size.vocabulary - 1
    return LlamaConfig(
        vocab_size=size.vocabulary, hidden_size=size.width, intermediate_size=size.intermediate,
        num_hidden_layers=size.layers, num_attention_heads=size.heads, num_key_value_heads=size.heads,
        max_position_embeddings=2 * size.longest, tie_word_embeddings=size.tied, bos_token_id=None, eos_token_id=end,
        pad_token_id=end,
    )  # fmt: skip


def save(folder: Path, size: Size) -> None:
    """Model and tokenizer; the weights are random, and always the same."""
    disable_progress_bar()
    torch.manual_seed(0)
    model = LlamaForCausalLM(configuration(size))
    model.generation_config = GenerationConfig(eos_token_id=size.vocabulary - 1, pad_token_id=size.vocabulary - 1)
    model.save_pretrained(folder)
    tokenizer(size).save_pretrained(folder)


def tokenizer(size: Size) -> PreTrainedTokenizerFast:
    """Every id but the end token's is a word of its own, so that any ids are some text, and come back from it."""
    words = {f"w{i}": i for i in range(size.vocabulary - 1)} | {END: size.vocabulary - 1}
    inner = Tokenizer(WordLevel(words, unk_token="w0"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=END, pad_token=END, unk_token="w0")
    made.chat_template = TEMPLATE
    return made


def text(ids: list[int]) -> str:
    """What the tokenizer reads as these ids."""
    return " ".join(f"w{i}" for i in ids)


def reward(size: Size) -> HybridReward:
    """A hybrid reward of the model's shape, fitted on random states that differ a little between the sides."""
    random = torch.Generator().manual_seed(0)
    chosen, rejected = (torch.randn(40, size.layers, size.width, generator=random) + shift for shift in (0.1, -0.1))
    return HybridReward.fit(chosen, rejected)


def settings(size: Size) -> dict:
    return {"model": "Llama, random weights", **asdict(size)}
