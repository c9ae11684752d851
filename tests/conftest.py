"""What tests share: tiny random models of several architectures, tokenizers with known chat templates, real data."""

import tests.environment  # noqa: F401 (first: libraries read it when they are imported)

# isort: split

import gc
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Barrier

import pytest
import torch
from filelock import FileLock
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from torch.distributed import HashStore
from transformers import (
    AutoModel,
    AutoTokenizer,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from alignment.runs import ranks as ranks_module
from alignment.runs.ranks import Ranks
from alignment.world.identity import LANGUAGE_MODEL
from tests import longest_first, small_recipe
from tests.small_recipe import Undisturbed

torch.set_num_threads(1)

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED_DATA = REPOSITORY.parent / "shared" / "data"

SIZES = {"vocab_size": 600, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
CONFIGS = {
    "llama": lambda: LlamaConfig(**SIZES, **HEADS),
    "qwen2": lambda: Qwen2Config(**SIZES, **HEADS),
    "mistral": lambda: MistralConfig(**SIZES, **HEADS, sliding_window=None),
    "gemma2": lambda: Gemma2Config(**SIZES, **HEADS, head_dim=8),
    "gemma3": lambda: Gemma3TextConfig(**SIZES, **HEADS, head_dim=8),
    "gpt2": lambda: GPT2Config(vocab_size=600, n_embd=32, n_layer=3, n_head=4, n_positions=256),
}

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA_2 = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ bos_token }}"
    "[INST] {{ message['content'] }} [/INST]{% else %} {{ message['content'] }} {{ eos_token }}{% endif %}{% endfor %}"
)
LLAMA_3 = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
TEMPLATES = {  # name: (template, bos, eos, pad, further special tokens)
    "chatml": (CHATML, None, "<|endoftext|>", "<|endoftext|>", ["<|im_start|>", "<|im_end|>"]),
    "llama2": (LLAMA_2, "<s>", "</s>", "</s>", []),  # pad is eos
    "llama3": (
        LLAMA_3, "<|begin_of_text|>", "<|end_of_text|>", "<|pad|>",
        ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    ),
    "plain": (None, "<s>", "</s>", "<pad>", []),
}  # fmt: skip


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    longest_first.reorder(items)


def pytest_collection_finish() -> None:
    """Each training collects garbage twice: what was imported, a few million objects, is not looked through again."""
    gc.freeze()
    gc.enable()


def byte_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """One token per byte, and the special tokens and chat template of a family of models."""
    template, bos, eos, pad, others = TEMPLATES[name]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE({character: i for i, character in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=bos, eos_token=eos, pad_token=pad, additional_special_tokens=others
    )
    if bos is not None:
        fast.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, fast.bos_token_id)]
        )
    fast.chat_template = template
    return fast


def tiny_model(name: str, kind: type = AutoModel, seed: int = 0, **settings) -> torch.nn.Module:
    """A random model of an architecture with three layers of 32."""
    config = CONFIGS[name]()
    for setting, value in settings.items():
        setattr(config, setting, value)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = kind.from_config(config, attn_implementation="eager")
        for parameter in model.parameters():  # initial weights of 0.02 would leave all states nearly equal
            torch.nn.init.normal_(parameter, std=0.2) if parameter.ndim > 1 else None
    return model.eval()


@pytest.fixture(scope="session")
def _nowhere(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("nowhere")


@pytest.fixture(autouse=True)
def _started_nowhere(_nowhere, monkeypatch) -> Iterator[None]:
    """No test sees what lies in the folder the suite was started in, or leaves anything there."""
    monkeypatch.chdir(_nowhere)
    yield
    assert not (left := os.listdir(_nowhere)), f"the test left {left} in the folder it was started in"


@pytest.fixture(scope="session")
def once(tmp_path_factory) -> Callable[[str, Callable[[Path], None]], Path]:
    """once(name, make): a folder that the first worker to ask for it makes, for all of them; nobody may change it."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent

    def made_once(name: str, make: Callable[[Path], None]) -> Path:
        folder, made = base / name, base / f"{name}.made"
        with FileLock(base / f"{name}.lock"):
            if not made.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                made.touch()
        return folder

    return made_once


@pytest.fixture(scope="session")
def undisturbed(once) -> Callable[..., Undisturbed]:
    """undisturbed(*overrides): a recipe run in small, by the command line."""

    def run(*overrides: str) -> Undisturbed:
        name = f"undisturbed-{hashlib.sha256(json.dumps(overrides).encode()).hexdigest()[:8]}"
        folder = once(name, lambda folder: small_recipe.undisturbed(folder, *overrides))
        return Undisturbed(folder / "run", *json.loads((folder / "facts.json").read_text()))

    return run


@pytest.fixture(scope="session")
def world_folder() -> Path:
    """The world's language model."""
    return LANGUAGE_MODEL


@pytest.fixture(scope="session")
def world_tokenizer(world_folder):
    return AutoTokenizer.from_pretrained(world_folder)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    if not SHARED_DATA.is_dir():
        pytest.skip("needs the real data beside the repository (../shared/data)")
    return SHARED_DATA


@pytest.fixture
def two_ranks(monkeypatch) -> list[Ranks]:
    """Ranks as two threads, which share a store and wait for each other; each comes to its first deal."""
    store, all_there = HashStore(), Barrier(2, timeout=60)

    class InThreads(Ranks):
        def _store(self) -> HashStore:
            return store

        def any(self, here: bool) -> bool:
            all_there.wait()
            return here

    monkeypatch.setattr(ranks_module, "_deals", itertools.repeat(0))
    return [InThreads(0, 2), InThreads(1, 2)]
