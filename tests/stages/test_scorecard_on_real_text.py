"""The scorecard of two pretrained models with different tokenizers: refusals, MMLU, a reward model and its rankings."""

import json
from pathlib import Path

import jsonschema
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from alignment.models.load import load_reward_scorer
from alignment.models.scoring import reward_scores
from alignment.models.source import source_at
from alignment.run import run_recipe
from alignment.runs.run_files import RunDir
from alignment.settings.compose import compose_config
from alignment.types import UserError
from tests.conftest import REPOSITORY
from tests.real_data import DATA, needs_data
from tests.test_scorecard import check_numbers, rows_of

pytestmark = needs_data
MODELS = DATA / "models"
PAIRS = [
    {
        "id": i, "prompt": f"what is {i} and {i}?", "chosen": f"it is {2 * i}.", "rejected": "no. " * (i + 1),
        "subset": name,
    }
    for i, name in enumerate(["math-prm"] * 4 + ["xstest-should-respond"] * 3)
]  # fmt: skip


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> list[str]:
    """A reward model (an untrained head on the small one), and pairs: one of them is none, one is longer than 512."""
    folder = tmp_path_factory.mktemp("reward")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_pretrained(MODELS / "stories260K-hf", num_labels=1)
    tokenizer = AutoTokenizer.from_pretrained(MODELS / "stories260K-hf")
    model.config.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    model.save_pretrained(folder / "rm")
    tokenizer.save_pretrained(folder / "rm")
    same = {**PAIRS[0], "id": 90, "rejected": PAIRS[0]["chosen"]}
    long = {**PAIRS[0], "id": 91, "chosen": "so it is. " * 400}
    with (folder / "bench.jsonl").open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in [*PAIRS, same, long])
    return [
        "+recipe=scorecard", f"scorecard.before={MODELS}/stories260K-hf", f"scorecard.after={MODELS}/dialogues-4m",
        "evaluation.sets=[xstest,alpaca_eval]", "evaluation.prompts=8", "model.answer_tokens=12",
        "scorecard.mmlu.questions=2", "scorecard.mmlu.shots=1", f"evaluation.folder={DATA}",
        f"scorecard.reward_model={folder}/rm", f"scorecard.rankings=[{folder}/bench.jsonl]",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def scored(tmp_path_factory, settings) -> tuple[RunDir, dict]:
    run = RunDir(tmp_path_factory.mktemp("scored"))
    run_recipe(compose_config([*settings, f"run.dir={run.root}"]))
    return run, json.loads(run.scorecard.read_text())


def test_every_number_is_that_of_its_rows(scored):
    run, card = scored
    check_numbers(run, card)
    jsonschema.validate(card, json.loads((REPOSITORY / "alignment/reports/scorecard.schema.json").read_text()))
    whole = {(one["metric"], one["set"]) for one in card["numbers"] if one["category"] is None}
    sets = ("xstest", "alpaca_eval")
    wanted = {("words", name) for name in sets} | {("unfinished", name) for name in sets}
    wanted |= {("reward", name) for name in sets} | {("unparsed", name) for name in sets}
    wanted |= {("refusal_rate", "xstest"), ("over_refusal", "xstest"), ("over_refusal", "alpaca_eval")}
    assert whole - {("refusal_rate", "alpaca_eval")} == wanted | {("mmlu", "mmlu"), ("ranked_right", "bench")}
    assert not {one["metric"] for one in card["numbers"]} & {"toxic_rate", "helpful_rate"}, "no judge says that"


def test_questions_that_fit_no_context_are_left_out_and_said(scored):
    """The stories' tokenizer makes a token of almost every letter, and its model reads 512 of them."""
    run, card = scored
    left = len(card["left_out"]["mmlu, before"])
    asked = {name: [row for row in pq.read_table(run.choices).to_pylist() if row["system"] == name]
             for name in ("before", "after")}  # fmt: skip
    assert len(asked["before"]) + left == len(asked["after"]) == 8
    assert card["decoding"]["log-likelihood"]["asked_with_fewer_shots"] == sum(
        row["shots"] < 1 for rows in asked.values() for row in rows
    )
    for row in asked["after"]:
        logs = [row[f"log_prob_{letter}"] for letter in "abcd"]
        assert row["said"] == "ABCD"[logs.index(max(logs))] and row["right"] == (row["said"] == row["answer"])
    subjects = {one["category"] for one in card["numbers"] if one["metric"] == "mmlu"} - {None}
    assert len(subjects) == 4


def test_pairs_are_ranked_as_the_reward_model_scores_them_alone(scored, settings):
    run, card = scored
    rows = pq.read_table(run.rankings).to_pylist()
    assert [row["subset"] for row in rows] == [pair["subset"] for pair in PAIRS]
    same, long = card["left_out"]["rankings, bench"]
    assert same == "chosen and rejected are the same" and long.endswith("longer than the context of 512 tokens")
    loaded = load_reward_scorer(source_at(settings[-2].partition("=")[2]), torch.device("cpu"))
    for row, pair in zip(rows, PAIRS, strict=True):
        prompt = [{"role": "user", "content": pair["prompt"]}]
        answers = [[{"role": "assistant", "content": pair[side]}] for side in ("chosen", "rejected")]
        both = [reward_scores(loaded.model, [one], 0)[0].item() for one in loaded.format.render(prompt, answers)]
        assert [row["chosen_score"], row["rejected_score"]] == pytest.approx(both, abs=1e-4)
        assert row["right"] == (both[0] > both[1])
    by_subset = [one for one in card["numbers"] if one["metric"] == "ranked_right" and one["category"] == "math-prm"]
    (sections,) = card["sections"]
    assert set(sections["sections"]) == {"Reasoning", "Safety"} and sections["score"] is None
    assert sections["sections"]["Reasoning"] == pytest.approx(by_subset[0]["value"])
    assert by_subset[0]["n"] == 4 and set(rows_of(run, by_subset[0])["subset"]) == {"math-prm"}


def test_a_second_call_finds_it_all_and_other_pairs_are_ranked_anew(scored, settings, capsys):
    run, _ = scored
    capsys.readouterr()
    run_recipe(compose_config([*settings, f"run.dir={run.root}"]))
    assert capsys.readouterr().out.count("up to date") == 2


def test_a_file_of_pairs_that_is_not_there_is_said_at_once(settings, tmp_path):
    with pytest.raises(UserError, match=r"there is no file nowhere\.jsonl"):
        run_recipe(compose_config([*settings[:-1], "scorecard.rankings=[nowhere.jsonl]", f"run.dir={tmp_path}"]))
    assert not (tmp_path / "evaluate").exists()


def test_a_classifier_of_several_scores_is_no_reward_model(tmp_path):
    AutoModelForSequenceClassification.from_pretrained(MODELS / "stories260K-hf", num_labels=3).save_pretrained(
        tmp_path
    )
    AutoTokenizer.from_pretrained(MODELS / "stories260K-hf").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="gives 3 scores, not one"):
        load_reward_scorer(source_at(str(Path(tmp_path))), torch.device("cpu"))
