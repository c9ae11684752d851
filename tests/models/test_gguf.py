"""A GGUF file becomes a model's folder once; one that isn't whole, or would be another model, is refused in a line."""

import re
import struct

import pytest
import torch
from transformers import AutoModelForCausalLM

from alignment.models.load import load_language_model, saved_dtype
from alignment.models.source import known_as, require_weights, shape_of, source_at
from alignment.types import UserError
from tests import tiny_gguf


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source_at.cache_clear()
    yield
    source_at.cache_clear()


def test_a_file_becomes_a_folder_with_the_weights_and_the_template_it_holds(tmp_path, capsys):
    file = tmp_path / "tiny.Q4_1.gguf"
    expected = tiny_gguf.write(file)
    source = source_at(str(file))
    require_weights(source, "model.path")
    loaded = load_language_model(source, torch.device("cpu"))
    found = loaded.model.state_dict()
    assert all(torch.equal(found[name], weight) for name, weight in expected.state_dict().items())
    assert shape_of(source)[0] == 2 and saved_dtype(source, "auto") == torch.float32
    assert "quantization_config" not in loaded.model.config.to_dict()
    assert loaded.tokenizer.decode([*loaded.end_ids]) == "<|im_end|>"
    [rendered] = loaded.format.render(
        [{"role": "user", "content": "Hi"}], [[{"role": "assistant", "content": "Ho."}]], 64
    )
    text = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHo.<|im_end|>"
    assert loaded.tokenizer.decode(rendered.ids).startswith(text)
    assert known_as(source) == (
        "tiny.Q4_1", f"dequantised from the GGUF file with the hash `{source.fingerprint.split()[1][:16]}`"
    )  # fmt: skip
    assert "is dequantised, once" in capsys.readouterr().err

    loaded.model.save_pretrained(tmp_path / "trained")  # what is trained from it needs no GGUF
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "trained")
    assert all(torch.equal(again.state_dict()[name], weight) for name, weight in found.items())

    moved = file.rename(tmp_path / "other.gguf")  # the content counts, not the name
    assert source_at(str(moved)).path == source.path and not capsys.readouterr().err


def test_a_folder_holds_one_file_or_the_one_that_is_named(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    tiny_gguf.write(folder / "a.gguf")
    one = source_at(str(folder))
    assert one.gguf == "a.gguf" and one.path != str(folder)
    (folder / "b.gguf").write_bytes((folder / "a.gguf").read_bytes())
    with pytest.raises(UserError, match=r"holds several GGUF files: a.gguf, b.gguf; choose one: model.gguf_file=a"):
        source_at(str(folder), "model.path", None)
    assert source_at(str(folder), gguf_file="b.gguf").path == one.path
    with pytest.raises(UserError, match=r"model.gguf_file: .*models holds no c.gguf; give the name"):
        source_at(str(folder), gguf_file="c.gguf")
    with pytest.raises(UserError, match=r"model.gguf_file: .*a.gguf is a file already; leave it out"):
        source_at(str(folder / "a.gguf"), gguf_file="a.gguf")


def _changed(content: bytes, **changes: int) -> bytes:
    version, tensors, values = struct.unpack_from("<IQQ", content, 4)
    facts = {"version": version, "tensors": tensors, "values": values} | changes
    return content[:4] + struct.pack("<IQQ", *facts.values()) + content[24:]


@pytest.mark.parametrize(
    "damage, problem",
    [
        (lambda content: b"GGML" + content[4:], "is no GGUF file; give one"),
        (lambda content: content[:3], "is no GGUF file"),
        (lambda content: _changed(content, version=1), "is of version 1 of GGUF, and 2 or 3 can be read"),
        (lambda content: content[:-200], r"is cut off or damaged: it has [\d,]+ bytes, and by its header [\d,]+"),
        (lambda content: content[:900], "is cut off or damaged: its header goes on behind its 900 bytes"),
        (lambda content: _changed(content, values=2**60), "is cut off or damaged|is damaged"),
        (lambda content: _changed(content, tensors=2**60), "is cut off or damaged|is damaged"),
        (lambda content: content[:24] + b"\xff" * 8 + content[32:], "is cut off or damaged: its header goes on"),
        (
            lambda content: content.replace(b"general.architecture", b"general.architectura", 1),
            "names no architecture",
        ),
    ],
    ids=["magic", "empty", "version", "cut", "header", "values", "tensors", "string", "nameless"],
)
def test_a_damaged_file_is_one_line(tmp_path, damage, problem):
    whole, file = tmp_path / "whole.gguf", tmp_path / "tiny.gguf"
    tiny_gguf.write(whole)
    file.write_bytes(damage(whole.read_bytes()))
    with pytest.raises(UserError, match=f"^model.path: {re.escape(str(file))} ({problem})[^\n]*$"):
        source_at(str(file))


def test_an_architecture_that_transformers_does_not_know_is_one_line(tmp_path):
    tiny_gguf.write(tmp_path / "tiny.gguf", architecture="unheard")
    with pytest.raises(UserError, match=r"can't read .*tiny.gguf, of the architecture 'unheard' \(.*not supported"):
        source_at(str(tmp_path / "tiny.gguf"))


@pytest.mark.parametrize(
    "settings, problem",
    [
        ({"without": "blk.1.ffn_norm.weight"}, "lacks the weights of model.layers.1.post_attention_layernorm.weight"),
        ({"spoilt": "blk.0.attn_norm.weight"}, "holds weights that are not finite"),
    ],
    ids=["without", "spoilt"],
)
def test_a_file_that_would_be_another_model_is_one_line(tmp_path, settings, problem):
    tiny_gguf.write(tmp_path / "tiny.gguf", **settings)
    with pytest.raises(UserError, match=f"tiny.gguf {problem}; give another file"):
        source_at(str(tmp_path / "tiny.gguf"))
    assert not [file for file in (tmp_path / "cache/repalign/models").iterdir() if file.suffix != ".lock"]
