"""Who judges what, and that the same answer is judged once."""

import random

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


@needs_data
def test_prompts_are_drawn_by_seed_and_more_of_them_hold_the_fewer():
    few, read = prompts_of("xstest", str(DATA), 40, seed=0)
    many, _ = prompts_of("xstest", str(DATA), 60, seed=0)
    assert len(few) == 40 and read.read == 450
    assert {one.id for one in few} < {one.id for one in many}
    assert {one.id for one in few} != {one.id for one in prompts_of("xstest", str(DATA), 40, seed=1)[0]}
    assert {one.harmful for one in few} == {True, False} and all(one.category for one in few)
    assert len(prompts_of("xstest", str(DATA), 10**6, seed=0)[0]) == 450
