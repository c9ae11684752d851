"""The scorecard of two pretrained models with different tokenizers: refusals, MMLU, a reward model and its rankings."""

import json
import re
from pathlib import Path

import jsonschema
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from alignment.evaluation.usefulness import usefulness_rows
from alignment.models.load import load_language_model, load_reward_scorer
from alignment.models.packing import Packing
from alignment.models.scoring import reward_scores
from alignment.models.source import source_at
from alignment.run import run_recipe
from alignment.runs.ranks import Ranks
from alignment.runs.run_files import RunDir
from alignment.settings.compose import compose_config
from alignment.types import UserError
from tests.conftest import REPOSITORY
from tests.judges.chat_server import Answer, chat_server, says
from tests.real_data import DATA, needs_data
from tests.test_scorecard import check_numbers, rows_of

pytestmark = needs_data
MODELS = DATA / "models"
PARTS = ("on_topic", "log_perplexity", "repetition")
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
    wanted |= {(part, name) for name in sets for part in ("useful_rate", *PARTS)}
    wanted |= {("refusal_rate", "xstest"), ("over_refusal", "xstest"), ("over_refusal", "alpaca_eval")}
    assert whole - {("refusal_rate", "alpaca_eval")} == wanted | {("mmlu", "mmlu"), ("ranked_right", "bench")}
    assert not {one["metric"] for one in card["numbers"]} & {"toxic_rate", "helpful_rate"}, "no judge says that"


def test_usefulness_is_read_by_the_first_model_for_both_and_says_what_it_was_held_against(scored):
    run, card = scored
    rows = pq.read_table(run.usefulness).to_pylist()
    answers = [row for row in pq.read_table(run.answers).to_pylist() if row["asks"] == "harmless"]
    assert [(row["system"], row["id"]) for row in rows] == [(row["system"], row["id"]) for row in answers]
    loaded = load_language_model(source_at(str(MODELS / "stories260K-hf")), torch.device("cpu"))
    for system in ("before", "after"):
        number = next(i for i, row in enumerate(answers) if row["system"] == system and row["answer"])
        prompt = json.loads(answers[number]["prompt"])
        found, _ = usefulness_rows(
            loaded, [answers[number]], [prompt], Packing(), 4096, run.root / f"alone-{system}", Ranks()
        )
        assert rows[number]["on_topic"] == pytest.approx(found[0]["on_topic"], abs=1e-3)
    how = card["decoding"]["usefulness"]
    assert how["model"] == card["systems"][0]["model"] and "AUROC" in how["validated"]
    page, table = (run.stage("report") / "scorecard.md").read_text(), run.tables.read_text()
    assert "- usefulness: model stories260K-hf" in page and "useful answers, by likelihood, %" in page
    assert "useful answers" in table and "AUROC" in table


def test_a_judge_behind_an_api_says_which_models_answers_are_more_useful(settings, tmp_path):
    """It finds the longer answer better, and whatever it reads first where both answers are as long."""

    def longer(number: int, body: dict) -> Answer:
        texts = re.findall(r"<answer-\d-(\w+)>\n(.*?)\n</answer-\d-\1>", body["messages"][1]["content"], re.DOTALL)
        if len(texts) != 2:
            return says("LABEL: full_compliance\nSENTENCE: none")
        return says(f"BETTER: {2 if len(texts[1][1]) > len(texts[0][1]) else 1}")

    run = RunDir(tmp_path / "run")
    with chat_server(longer) as server:
        overrides = [
            *settings[:3], "evaluation.sets=[alpaca_eval]", "evaluation.prompts=6", "model.answer_tokens=6",
            f"evaluation.folder={DATA}", "judge=[refusal,api]", f"judge.api.url={server.url}", "judge.api.model=m",
            "judge.api.key_variable=null", f"judge.api.cache={tmp_path}/cache", "scorecard.pairwise=true",
            "scorecard.usefulness=false", f"run.dir={run.root}",
        ]  # fmt: skip
        run_recipe(compose_config(overrides))
    rows = pq.read_table(run.comparisons).to_pylist()
    answers = {(row["system"], row["id"]): row["answer"] for row in pq.read_table(run.answers).to_pylist()}
    assert len(rows) == 6 and {(row["system"], row["than"], row["judge"]) for row in rows} == {
        ("after", "before", "api")
    }
    for row in rows:
        before, after = (len(answers[system, row["id"]]) for system in ("before", "after"))
        assert row["preferred"] == (0.5 if before == after else float(after > before))
    card = json.loads(run.scorecard.read_text())
    check_numbers(run, card)
    found = {one["metric"]: one for one in card["numbers"] if one["judge"] == "api"}
    assert found["preferred_rate"]["value"] == sum(row["preferred"] for row in rows) / 6
    assert found["preferred_rate"]["system"] == "after" and "flipped" in found
    assert not run.usefulness.exists() and card["decoding"]["pairwise"]["pairs"] == 6


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
