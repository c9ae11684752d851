"""Which model is loaded, how a run knows that it is another one, and what is new in it."""

import os

import pytest
import torch

from alignment.models import source
from alignment.models.load import load_reward_base
from alignment.models.source import source_at


def test_a_new_head_is_drawn_from_its_seed_and_nothing_else(world_folder):
    before = torch.get_rng_state()
    heads = [load_reward_base(source_at("world"), seed).model.score.weight for seed in (0, 1, 0)]
    assert torch.equal(heads[0], heads[2]) and not torch.equal(heads[0], heads[1])
    assert torch.equal(torch.get_rng_state(), before), "others draw from it"


@pytest.mark.parametrize("hashed_whole", [source.HASHED_WHOLE, 4], ids=["small", "large"])
def test_a_model_is_another_one_when_a_file_changes_and_keeps_its_size(tmp_path, monkeypatch, hashed_whole):
    """Large files are known by size and time of change."""
    monkeypatch.setattr(source, "HASHED_WHOLE", hashed_whole)

    def fingerprint() -> str:
        source_at.cache_clear()
        return source_at(str(tmp_path)).fingerprint

    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_text("weights 1")
    found = [fingerprint(), fingerprint()]
    for content in ("weights 2", "weights"):
        (tmp_path / "model.safetensors").write_text(content)
        os.utime(tmp_path / "model.safetensors", (0, len(found)))
        found.append(fingerprint())
    (tmp_path / "config.json").rename(tmp_path / "other.json")
    (tmp_path / "config.json").write_text("weights 1")
    found.append(fingerprint())
    assert found[0] == found[1] and len(set(found)) == 4
