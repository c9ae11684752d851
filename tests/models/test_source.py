"""Which model a run uses: what is said of weights that nobody can give."""

import socket
import time

import pytest
from huggingface_hub import constants

from alignment.data import hub
from alignment.models.source import ModelSource, require_weights, source_at
from alignment.types import UserError


def test_a_hub_that_cannot_be_reached_is_one_line(tmp_path, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between the client's own tries
    problem = "judge.path: the weights of some/model are not in the cache, and the hub can't be reached at http"
    with pytest.raises(UserError, match=problem):
        require_weights(ModelSource("some/model", "a" * 40), "judge.path")


def test_a_hub_that_never_answers_is_one_line_within_seconds(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        problem = (
            r"model.path: some/silent is not a folder, and the hub can't be reached: .* no answer within 0.5 s; give"
        )
        with pytest.raises(UserError, match=problem):
            source_at("some/silent")
        assert time.monotonic() - started < 5 and constants.HF_HUB_OFFLINE, "nothing after it waits again"


def test_a_card_and_hidden_files_are_no_part_of_a_model(tmp_path):
    """Else an evaluation that writes figures into a policy's card makes the next one think the policy changed."""

    def fingerprint() -> str:
        source_at.cache_clear()
        return source_at(str(tmp_path)).fingerprint

    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    before = fingerprint()
    (tmp_path / "README.md").write_text("a card")
    (tmp_path / ".cache" / "huggingface").mkdir(parents=True)
    (tmp_path / ".cache" / "huggingface" / "model.metadata").write_text("a date")
    assert fingerprint() == before
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    assert fingerprint() != before
