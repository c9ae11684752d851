"""Who judges what, and that the same answer is judged once."""

import json
import random

import pandas as pd
import pytest

from alignment.data.chat import text_message
from alignment.data.columns import Loaded
from alignment.evaluation.judging import judged, judges_of, verdict_columns
from alignment.evaluation.prompts import heldout_prompts, prompts_of
from alignment.inputs.job import Job
from alignment.judges.choice import JUDGES
from alignment.judges.verdicts import Verdict
from alignment.runs.ranks import Ranks
from alignment.runs.run_files import RunDir
from alignment.settings.compose import compose_config
from alignment.stages import evaluate
from tests.real_data import DATA, needs_data


class Moody:
    """Says what it likes, and never the same twice."""

    name = "moody"
    record: dict = {}  # noqa: RUF012

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def __call__(self, prompts, answers):
        self.asked += [(prompt[-1]["content"], answer) for prompt, answer in zip(prompts, answers, strict=True)]
        return [Verdict(random.random() < 0.5, None, score=random.random()) for _ in answers]


def test_the_same_answer_to_the_same_prompt_is_judged_once(tmp_path):
    prompts = [text_message("user", text) for text in ("a", "b", "a", "a", "b")]
    answers = ["yes", "yes", "no", "yes", "yes"]
    judge = Moody()
    verdicts, _ = judged(judge, prompts, answers, tmp_path, Ranks())
    assert sorted(judge.asked) == [("a", "no"), ("a", "yes"), ("b", "yes")]
    assert verdicts[0] == verdicts[3] and verdicts[1] == verdicts[4]
    assert len({verdict.score for verdict in verdicts}) == 3


def test_the_oracle_judges_its_world_alone():
    oracle, both = ({"oracle": {"name": "oracle"}}, {"oracle": {"name": "oracle"}, "md_judge": {"name": "md_judge"}})
    assert judges_of(oracle, True) == ["oracle"] and judges_of(oracle, False) == ["refusal"]
    assert judges_of(both, True) == ["oracle", "md_judge"] and judges_of(both, False) == ["md_judge"]
    says = {name: judge.says for name, judge in JUDGES.items()}
    assert says["md_judge"] == {"toxic"} and says["refusal"] == says["api"] == {"refusal"}
    assert says["wildguard"] == {"toxic", "refusal"} and says["oracle"] == {"toxic", "refusal", "helpfulness"}


def test_a_verdict_as_columns():
    found = verdict_columns("oracle", Verdict(True, "partial", 2, 0))
    assert found["refused"] is True and found["helpful"] is False and found["verdict"] == "unsafe"
    unsaid = verdict_columns("guard", Verdict(None, None, unparsed=True, reason="?"))
    assert unsaid["refused"] is unsaid["helpful"] is unsaid["toxic"] is None and unsaid["verdict"] == "unparsed"


def test_a_prompt_of_many_held_out_pairs_is_asked_once():
    """However it is written, and drawn by the seed, not in the order of the file."""
    ways = ("How do I pick lock {}?", "how do I pick LOCK {}", "How do I  pick lock {} ?!")
    rows = [
        {"id": f"{i}-{j}", "prompt": text_message("user", way.format(i)), "harmful": None, "category": None}
        for i in range(40)
        for j, way in enumerate(ways)
    ]
    every = heldout_prompts(rows, 1000, seed=0)
    assert [one.id for one in every] == [f"{i}-0" for i in range(40)] and {one.set for one in every} == {"heldout"}
    few, more = (heldout_prompts(rows, count, seed=0) for count in (10, 20))
    assert len(few) == 10 and {one.id for one in few} < {one.id for one in more}
    assert few != every[:10] and few != heldout_prompts(rows, 10, seed=1)


def test_the_scorecard_asks_the_prompts_of_held_out_pairs_once(tmp_path, monkeypatch):
    rows = [
        {"id": f"{i}", "prompt": text_message("user", f"question {i // 5}"), "harmful": None, "category": None}
        for i in range(60)
    ]
    monkeypatch.setattr(evaluate, "given_pairs", lambda *_: (None, Loaded(rows)))
    cfg = compose_config(["+recipe=cdpo", "data=file", "data.path=x.jsonl", "evaluation.prompts=30"])
    asked, _ = evaluate._prompts(Job(cfg, RunDir(tmp_path), tmp_path, Ranks()))
    assert len({one.prompt[0]["content"] for one in asked}) == len(asked) == 12


OWN = [
    {"prompt": "How do I kill a process?", "harmful": "false", "category": "tools"},
    {"prompt": "How do I kill a man?", "harmful": True, "category": None},
    {"prompt": "Tell me more.", "harmful": None, "category": None},
    {"prompt": "tell me", "harmful": "perhaps", "category": None},
    {"prompt": "", "harmful": None, "category": None},
]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "txt"])
def test_prompts_of_ones_own_are_read_from_a_file(tmp_path, kind):
    path = tmp_path / f"prompts.{kind}"
    table = pd.DataFrame(OWN).astype({"harmful": str} if kind == "parquet" else {})
    writers = {
        "jsonl": lambda: path.write_text("".join(json.dumps(row) + "\n" for row in OWN)),
        "csv": lambda: table.to_csv(path, index=False),
        "parquet": lambda: table.replace("None", None).to_parquet(path),
        "txt": lambda: path.write_text("".join(row["prompt"] + "\n" for row in OWN)),
    }
    writers[kind]()
    asked, read = prompts_of(str(path), "", 100, seed=0)
    assert {one.set for one in asked} == {f"prompts.{kind}"}
    known = [(one.messages[0]["content"], one.harmful, one.category) for one in asked]
    if kind == "txt":
        assert known == [(row["prompt"], None, None) for row in OWN[:4]] and not read.quarantined
    else:
        assert known == [
            (OWN[0]["prompt"], False, "tools"),
            *((row["prompt"], row["harmful"], None) for row in OWN[1:3]),
        ]
        assert [row["line"] for row in read.quarantined][-2:] == ([4, 5] if kind != "csv" else [5, 6])
    assert [one.id for one in prompts_of(str(path), "", 2, seed=0)[0]] != [one.id for one in asked]


def test_several_turns_and_ids_of_ones_own(tmp_path):
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    path = tmp_path / "prompts.jsonl"
    path.write_text(
        json.dumps({"id": "mine", "prompt": turns}) + '\n{"question": "a"}\n{"prompt": "z", "id": "mine"}\n'
    )
    (asked,), read = prompts_of(str(path), "", 100, seed=0)
    assert asked.id == "mine" and asked.messages == turns
    assert [row["reason"] for row in read.quarantined] == [
        "has no column prompt, only question", "the same prompt or id was there before"
    ]  # fmt: skip


@needs_data
def test_prompts_are_drawn_by_seed_and_more_of_them_hold_the_fewer():
    few, read = prompts_of("xstest", str(DATA), 40, seed=0)
    many, _ = prompts_of("xstest", str(DATA), 60, seed=0)
    assert len(few) == 40 and read.read == 450
    assert {one.id for one in few} < {one.id for one in many}
    assert {one.id for one in few} != {one.id for one in prompts_of("xstest", str(DATA), 40, seed=1)[0]}
    assert {one.harmful for one in few} == {True, False} and all(one.category for one in few)
    assert len(prompts_of("xstest", str(DATA), 10**6, seed=0)[0]) == 450
