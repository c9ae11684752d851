"""Which model a run uses: what is said of weights that nobody can give."""

import socket
import time

import pytest
from huggingface_hub import constants

from alignment.models.source import ModelSource, require_weights
from alignment.types import UserError


def test_a_hub_that_cannot_be_reached_is_one_line(tmp_path, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between the client's own tries
    problem = "judge.path: the weights of some/model are not in the cache, and the hub can't be reached; give a folder"
    with pytest.raises(UserError, match=problem):
        require_weights(ModelSource("some/model", "a" * 40), "judge.path")
