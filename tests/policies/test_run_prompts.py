"""What a run's judge may not have seen: its pairs, what it asks, labelled answers that margins are read along."""

import json
from pathlib import Path

import pyarrow as pa

from alignment.evaluation.answers import evaluation_prompts, validation_prompts
from alignment.policies.run_prompts import run_prompts
from alignment.runs import artifacts
from alignment.runs.ranks import Ranks
from alignment.runs.run_files import RunDir
from alignment.settings.compose import compose_config


def test_what_the_world_asks_counts() -> None:
    """Its evaluation prompts, and those that choose between policies."""
    cfg = compose_config(["+recipe=cdpo", "data.pairs=20", "data.heldout=10"])
    cfg.data.evaluation, cfg.evaluation.prompts, cfg.evaluation.validation = 4, 6, 8
    given = set(run_prompts(cfg, RunDir(Path("nowhere")), Ranks()))
    asked = evaluation_prompts(6, seed=cfg.data.seed) + validation_prompts(8, 6, seed=cfg.data.seed)
    assert len(asked) == 3 * 6 + 8 and {prompt.prompt for prompt in asked} <= given
    others = {prompt.prompt for prompt in evaluation_prompts(40, seed=cfg.data.seed)}
    assert not others <= given


def test_every_turn_of_a_user_counts(tmp_path: Path) -> None:
    """Of pairs, and of prompts that are asked."""

    def dialogue(number: int) -> list[dict]:
        said = [("user", f"first {number}"), ("assistant", f"reply {number}"), ("user", f"second {number}")]
        return [{"role": role, "content": content} for role, content in said]

    pairs = [{"prompt": dialogue(i), "chosen": "yes", "rejected": "no"} for i in range(12)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    (tmp_path / "asked.jsonl").write_text(json.dumps({"prompt": dialogue(99)}) + "\n")
    cfg = compose_config(["+recipe=legend_rm", "data=file", f"data.path={tmp_path}/pairs.jsonl"])
    cfg.evaluation.sets = ["data", f"{tmp_path}/asked.jsonl"]
    given = run_prompts(cfg, RunDir(tmp_path / "run"), Ranks())
    assert sorted(given) == sorted(f"{turn} {i}" for i in [*range(12), 99] for turn in ("first", "second"))


def test_the_rewards_own_pairs_count(tmp_path: Path) -> None:
    for name in ("policy", "reward"):
        rows = [{"prompt": f"{name} {i}", "chosen": "yes", "rejected": "no"} for i in range(12)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = [f"data.path={tmp_path}/policy.jsonl", f"reward.path={tmp_path}/reward.jsonl"]
    cfg = compose_config(["+recipe=cdpo", "data=file", *files, "evaluation.sets=[data]"])
    given = run_prompts(cfg, RunDir(tmp_path / "run"), Ranks())
    assert sorted(given) == sorted(f"{name} {i}" for name in ("policy", "reward") for i in range(12))


def test_labelled_answers_that_margins_are_read_along_count(tmp_path) -> None:
    cfg = compose_config(["+recipe=legend_rm", "data.pairs=20", "data.heldout=10", "evaluation.sets=[data]"])
    cfg.data.evaluation, cfg.evaluation.prompts, cfg.evaluation.validation = 4, 6, 8
    run = RunDir(tmp_path)
    given = run_prompts(cfg, run, Ranks())
    assert len(given) == 30 + 3 * 4 + 3 * 6 + 8
    run.induced.parent.mkdir()
    asked = {"prompt": [{"role": "user", "content": "safe?"}], "negative_prompt": [{"role": "user", "content": "not?"}]}
    kind = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    artifacts.write_rows(run.induced, [asked], pa.schema([(name, kind) for name in asked]))
    assert run_prompts(cfg, run, Ranks()) == given  # of the run's own questions nothing is labelled
    cfg.annotator.contrast.labelled = "labelled.jsonl"
    assert run_prompts(cfg, run, Ranks()) == [*given, "safe?", "not?"]
