"""What the table of metrics says is all there is to say: gates, tables and pictures follow from a line of it."""

from dataclasses import fields

import pyarrow as pa
import pytest
from omegaconf import OmegaConf

from alignment.evaluation import gates
from alignment.evaluation.gates import GATES, Gate, checked, gates_of, limits, missed, require_measured
from alignment.evaluation.scorecard import scorecard
from alignment.evaluation.vocabulary import METRICS, WORLD_RATES, Metric, measurable
from alignment.reports.card import card_markdown, card_tables
from alignment.reports.pictures.scorecard_figure import _groups, draw_card
from alignment.reports.tables import as_text
from alignment.runs import artifacts
from alignment.settings import evaluation_schema
from alignment.settings.value_rules import check_values
from alignment.types import UserError

RECORD = {
    "systems": [{"name": "before", "model": "a"}, {"name": "after", "model": "b"}], "judges": {}, "sets": {},
    "decoding": {"sampled": {}}, "left_out": {},
}  # fmt: skip
NOTHING = {"mmlu": {"questions": 0}, "lm_eval": {"tasks": []}, "rankings": [], "reward_model": None,
           "usefulness": False, "pairwise": False}  # fmt: skip
ALWAYS = {"words", "unfinished"}


def test_the_gates_that_can_be_set_follow_from_their_metrics():
    assert {field.name for field in fields(evaluation_schema.Gate)} <= set(GATES)
    known = {
        "max_toxic_rate": Gate("toxic_rate", most=True),
        "max_toxic_increase": Gate("toxic_rate", most=True, change=True),
        "max_over_refusal": Gate("over_refusal", most=True),
        "max_over_refusal_increase": Gate("over_refusal", most=True, change=True),
        "max_unparsed": Gate("unparsed", most=True),
        "min_helpful_rate": Gate("helpful_rate", most=False),
        "min_mmlu": Gate("mmlu", most=False),
        "min_mmlu_change": Gate("mmlu", most=False, change=True),
        "min_ranked_right": Gate("ranked_right", most=False),
    }
    assert known.items() <= GATES.items()
    assert not {"max_words", "min_words", "min_unknown_refusal_rate", "max_helpful_rate"} & set(GATES)


@pytest.mark.parametrize(("name", "value"), [("max_toxic_rate", 1.1), ("max_toxic_rate", -0.1), ("min_mmlu", 30.0),
                                             ("min_mmlu_change", -1.1), ("max_unparsed", float("nan"))])  # fmt: skip
def test_a_limit_that_no_rate_has_is_refused(name, value):
    unset = dict.fromkeys(field.name for field in fields(evaluation_schema.Gate))
    with pytest.raises(UserError, match=rf"scorecard.gate.{name}: {value} is out of range"):
        check_values(OmegaConf.structured(evaluation_schema.Gate(**{**unset, name: value})), "scorecard.gate.")


def test_the_range_of_a_limit_is_that_of_its_metric():
    for field in fields(evaluation_schema.Gate):
        gate = GATES[field.name]
        assert not METRICS[gate.metric].rate or field.metadata["range"] == (-1 if gate.change else 0, 1)


def test_limits_are_the_gates_that_are_set():
    assert limits({"max_toxic_rate": 1, "max_toxic_increase": -1, "min_mmlu": None}) == {
        "max_toxic_rate": 1, "max_toxic_increase": -1,
    }  # fmt: skip


def test_what_judges_and_prompts_will_measure():
    refusal, guard, oracle = {"refusal"}, {"toxic"}, {"toxic", "refusal", "helpfulness"}
    assert measurable(NOTHING, {}) == ALWAYS
    assert measurable(NOTHING, {"a": refusal}, {"harmful", "harmless"}) == {
        *ALWAYS, "unparsed", "over_refusal", "refusal_rate",
    }  # fmt: skip
    assert measurable(NOTHING, {"a": refusal}, {"harmful"}) == {*ALWAYS, "unparsed", "refusal_rate"}
    assert measurable(NOTHING, {"a": guard}, {"unknown"}) == {*ALWAYS, "unparsed", "toxic_rate"}
    assert measurable(NOTHING, {"a": guard, "b": refusal}, {"harmless"}) == {*ALWAYS, "unparsed", "over_refusal"}
    assert set(WORLD_RATES) | {"helpfulness", "refusal_rate"} <= measurable(NOTHING, {"oracle": oracle})


@pytest.mark.parametrize(("settings", "more"), [
    ({"mmlu": {"questions": 5}}, {"mmlu"}), ({"lm_eval": {"tasks": ["x"]}}, {"lm_eval"}),
    ({"usefulness": True}, {"useful_rate", "on_topic", "log_perplexity", "repetition"}),
    ({"pairwise": True}, {"preferred_rate", "flipped"}),
    ({"reward_model": "rm"}, {"reward"}), ({"reward_model": "rm", "rankings": ["x"]}, {"reward", "ranked_right"}),
])  # fmt: skip
def test_what_settings_of_the_scorecard_will_measure(settings, more):
    assert measurable({**NOTHING, **settings}, {}) == ALWAYS | more


def answers(folder, rows: list[dict], columns: pa.Schema):
    (folder / "evaluate").mkdir()
    artifacts.write_rows(folder / "evaluate/answers.parquet", rows, columns)
    return folder / "evaluate"


def test_a_new_metric_is_a_line_of_the_table_and_a_column(tmp_path, monkeypatch):
    """Short answers, 1 of 4 before and 3 of 4 after: figures, difference, gates, table, page and picture know them."""
    short = Metric("short answers", "answers", "short", more_is_better=True, needs="short.words",
                   remedy="set scorecard.short.words", heading="answers of a few words")  # fmt: skip
    monkeypatch.setitem(METRICS, "short_rate", short)
    monkeypatch.setattr(gates, "GATES", gates_of(METRICS))
    assert "short_rate" in measurable({**NOTHING, "short": {"words": 5}}, {})
    with pytest.raises(
        UserError, match=r"min_short_rate: nothing here measures short_rate \(why\); set scorecard.short"
    ):
        require_measured({"min_short_rate": 0.5}, measurable({**NOTHING, "short": {"words": 0}}, {}), True, "why")

    columns = pa.schema([(name, pa.string()) for name in ("system", "set", "id", "asks")])
    columns = columns.append(pa.field("seed", pa.int64())).append(pa.field("short", pa.bool_()))
    for name in ("words", "reward", "unfinished"):
        columns = columns.append(pa.field(name, pa.float64()))
    rows = [
        {"system": system, "seed": 0, "set": "asked", "id": str(i), "asks": "harmless", "short": i < count}
        for system, count in (("before", 1), ("after", 3)) for i in range(4)
    ]  # fmt: skip
    card = scorecard(answers(tmp_path, rows, columns), RECORD, {"min_short_rate": 0.8, "min_short_change": 0.5})
    assert [(one["system"], one["value"]) for one in card["numbers"]] == [("before", 0.25), ("after", 0.75)]
    assert [(one["value"], one["only_before"], one["only_after"]) for one in card["differences"]] == [(0.5, 0, 2)]
    assert missed(card["gates"]) == ["scorecard.gate.min_short_rate=0.8 is missed on asked: short_rate of after is 75%"]
    assert [one["passed"] for one in card["gates"]] == [False, True]
    text = as_text(card_tables(card))
    assert "short answers, %" in text and "75.0 [30.1, 95.4]" in text and "+50.0 [" in text
    assert "| short answers, % | asked |  | 4* | 25.0 [4.6, 69.9] |" in card_markdown(card)
    assert list(_groups(card)) == ["short_rate"]
    draw_card(card, tmp_path / "card.png")
    assert (tmp_path / "card.png").stat().st_size > 5000


def test_a_gate_on_a_known_metric_is_there_before_anybody_sets_it():
    """The schema has no min_refusal_rate yet."""
    number = {"metric": "refusal_rate", "category": None, "gated": True, "value": 0.4, "system": "after",
              "set": "asked", "judge": "refusal"}  # fmt: skip
    assert [one["passed"] for one in checked({"min_refusal_rate": 0.5}, [number], [])] == [False]
    assert [one["passed"] for one in checked({"min_refusal_rate": 0.3}, [number], [])] == [True]
    unread = {**number, "metric": "unparsed", "value": 0.2}
    assert checked({"max_unparsed_increase": 0.5}, [unread], []) == [
        {"gate": "max_unparsed_increase", "limit": 0.5, "value": None, "system": None, "set": None, "judge": None,
         "passed": False},
    ]  # fmt: skip
    assert [one["gate"] for one in checked({"min_refusal_rate": 0.3}, [number, unread], [])] == [
        "min_refusal_rate", "max_unparsed",
    ]  # fmt: skip


def test_titles_in_the_reports_of_the_world():
    titles = {name: metric.title(metric.world.answer) for name, metric in WORLD_RATES.items()}
    assert titles == {
        "toxic_rate": "harmful prompts: toxic, %",
        "over_refusal": "harmless twins: refused, %",
        "helpful_rate": "harmless twins: helpful, %",
    }
