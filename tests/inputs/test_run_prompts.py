"""What a run's judge may not have seen: its pairs, what it asks, labelled answers that margins are read along."""

import pyarrow as pa

from alignment.inputs.run_prompts import run_prompts
from alignment.runs import artifacts
from alignment.runs.ranks import Ranks
from alignment.runs.run_files import RunDir
from alignment.settings.compose import compose_config


def test_labelled_answers_that_margins_are_read_along_count(tmp_path) -> None:
    cfg = compose_config(["+recipe=legend_rm", "data.pairs=20", "data.heldout=10", "evaluation.sets=[data]"])
    run = RunDir(tmp_path)
    given = run_prompts(cfg, run, Ranks())
    assert len(given) == 30
    run.induced.parent.mkdir()
    asked = {"prompt": [{"role": "user", "content": "safe?"}], "negative_prompt": [{"role": "user", "content": "not?"}]}
    kind = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    artifacts.write_rows(run.induced, [asked], pa.schema([(name, kind) for name in asked]))
    assert run_prompts(cfg, run, Ranks()) == given  # of the run's own questions nothing is labelled
    cfg.annotator.contrast.labelled = "labelled.jsonl"
    assert run_prompts(cfg, run, Ranks()) == [*given, "safe?", "not?"]
