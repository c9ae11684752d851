"""What the README prints to be copied runs as it is printed."""

import json
import re

import pytest
import torch
from transformers import AutoModelForCausalLM

from alignment.data.world_pairs import world_pairs
from alignment.reports.policies import policy_tables
from alignment.reports.reward_models import reward_tables
from alignment.reports.tables import as_text
from alignment.world.identity import generator_hash, model_hash
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


@pytest.mark.parametrize("recipe", ["legend_rm", "cdpo"])
def test_its_tables_are_those_of_the_committed_reports(recipe):
    """Line by line, as a run prints them from its report.json; docs/reports has the reports of the commands."""
    report = json.loads((REPOSITORY / f"docs/reports/{recipe}.json").read_text())
    if recipe == "legend_rm":
        tables = reward_tables(report["reward_model"])
    else:
        tables = policy_tables(report["policy"], report["ratio"])
    printed = {" ".join(line.split()) for line in as_text(tables).splitlines()}
    title = {"legend_rm": "unseen pairs ranked right", "cdpo": "toxic answers, %"}[recipe]
    blocks = (REPOSITORY / "README.md").read_text().split("```")[1::2]
    (shown,) = [block for block in blocks if title in block and "─" in block]
    lines = [" ".join(line.split()) for line in shown.splitlines() if re.search(r"\d\.\d", line)]
    assert len(lines) >= 5 and [line for line in lines if line not in printed] == []
    assert report["world"] == {"generator": generator_hash(), "model": model_hash()}
