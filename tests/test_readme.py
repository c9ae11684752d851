"""What the README prints to be copied runs as it is printed."""

import json
import re

import torch
from transformers import AutoModelForCausalLM

from alignment.data.world_pairs import world_pairs
from alignment.world.preferences import Drawing
from tests.conftest import REPOSITORY


def test_confidence_dpo_in_ten_lines(world_folder, tmp_path, monkeypatch):
    """With pairs and model of the world, two steps, and no reward given: one is fitted first."""
    (snippet,) = [
        code
        for code in re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
        if "ConfidenceDPOTrainer" in code
    ]
    assert len([line for line in snippet.splitlines() if line.strip()]) <= 10
    changed = snippet.replace("Qwen/Qwen3-0.6B", str(world_folder)).replace(
        "learning_rate=1e-6)", "learning_rate=1e-4, max_steps=2, use_cpu=True, bf16=False, report_to='none')"
    )
    assert changed.count("max_steps=2") == 1
    rows = world_pairs(48, 2, Drawing(0))[0].rows
    monkeypatch.chdir(tmp_path)
    with open("pairs.jsonl", "w") as file:
        for row in rows:
            file.write(json.dumps({name: row[name] for name in ("prompt", "chosen", "rejected")}) + "\n")
    names: dict = {}
    exec(changed, names)
    trainer = names["trainer"]
    assert trainer.state.global_step == 2 and trainer.live.reward.alpha > 0
    trained, base = (AutoModelForCausalLM.from_pretrained(path) for path in ("safer/policy", world_folder))
    assert not torch.equal(trained.lm_head.weight, base.lm_head.weight)
