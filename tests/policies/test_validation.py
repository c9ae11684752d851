"""A grid on pairs of one's own: judges choose the point, by answers to prompts that nothing else asks."""

import json
from pathlib import Path

import pytest

from alignment.data.columns import text_message
from alignment.data.contrast import REFUSALS, WORLD_REFUSAL, with_refusals
from alignment.evaluation.answers import Asked
from alignment.judges.words_guard import fit_words
from alignment.policies import search, validation
from alignment.policies.validation import asked_to_validate, require_kinds
from alignment.run import run_recipe
from alignment.runs.run_files import RunDir
from alignment.settings.compose import compose_config
from alignment.types import UserError
from alignment.world.grammar import evaluation_prompts
from alignment.world.preferences import Drawing, training_pairs
from tests.conftest import REPOSITORY

SMALL = [
    "run.workers=1",
    "sampling.max_new_tokens=12",
    "policy.max_steps=1",
    "policy.batch_size=4",
    "policy.logging_steps=1",
]


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def settings(tmp_path: Path, world_folder: Path) -> list[str]:
    """Pairs, evaluation and validation prompts of the world, as files, and a guard of words."""
    rows = list(training_pairs(30, Drawing(0)))
    pairs = write(
        tmp_path / "pairs.jsonl", [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in rows]
    )
    asked = [{"prompt": p.text, "harmful": p.harmful} for p in evaluation_prompts("same", 24, seed=5)]
    evaluated = write(tmp_path / "evaluated.jsonl", asked[:8])
    chooses = write(tmp_path / "chooses.jsonl", asked)
    texts = [row[side] for side in ("chosen", "rejected") for row in rows]
    prompts = [text_message("user", f"something else, number {i}") for i in range(len(texts))]
    guard = fit_words(prompts, texts, [False] * len(rows) + [True] * len(rows), seed=0)
    guard.save(tmp_path / "guard", 1.0, 0.5, {"answers": len(texts), "fit": "judge"})
    return [
        "+recipe=cdpo", *SMALL, "data=file", f"data.path={pairs}", f"evaluation.sets=[{evaluated}]",
        f"evaluation.validation_sets=[{chooses}]", "evaluation.prompts=8", "evaluation.validation=10",
        "judge=[refusal,words]", f"judge.words.path={tmp_path / 'guard'}", f"run.dir={tmp_path / 'run'}",
        "stages=[train_sft,train_dpo,report]", "policy.systems=[base,sft_refusals,dpo]", "policy.beta=[0.1]",
        "policy.learning_rate=[1e-4,1e-3]",
    ]  # fmt: skip


def test_judges_choose_the_point_and_say_why(settings, tmp_path):
    run_recipe(compose_config(settings))
    run = RunDir(tmp_path / "run")
    grid = json.loads(run.report.read_text())["grid"]
    assert [(point["system"], point["learning_rate"]) for point in grid] == [
        ("sft_refusals", 1e-4), ("sft_refusals", 1e-3), ("dpo", 1e-4), ("dpo", 1e-3),
    ]  # fmt: skip
    assert all(point["validation"].keys() == {"toxic_rate", "over_refusal", "useful_rate"} for point in grid)
    assert all(0 <= rate <= 1 for point in grid for rate in point["validation"].values())
    base = {"toxic_rate": 0.5, "over_refusal": 0.0, "useful_rate": 0.5}
    for system in ("sft_refusals", "dpo"):
        points = [point for point in grid if point["system"] == system]
        assert sum(point["chosen"] for point in points) == 1
    table = run.tables.read_text()
    assert all(part in table for part in ("on 10* validation", "chooses.jsonl, %", "useful answers, by", "chosen"))
    assert search.preference({**base, "toxic_rate": 0.1, "useful_rate": 0.3}, base) == (True, pytest.approx(-0.2))
    assert search.preference({**base, "toxic_rate": 0.1, "useful_rate": 0.45}, base) == (False, 0.1)


def test_no_prompt_is_both_asked_to_choose_and_evaluated(settings):
    asked = asked_to_validate(compose_config(settings))
    taken = {p.text for p in list(evaluation_prompts("same", 24, seed=5))[:8]}
    assert len(asked) == 10 and not taken & {prompt.messages[0]["content"] for prompt in asked}
    assert asked == asked_to_validate(compose_config(settings)), "the same ones every time"


def test_prompts_of_one_kind_cannot_choose():
    harmless = [Asked("own", "a", "hello", False)]
    with pytest.raises(
        UserError, match=r"evaluation\.validation_sets: none of its prompts is harmful; name both kinds"
    ):
        require_kinds(harmless)


def test_a_rate_counts_what_could_be_judged_of_its_prompts():
    asked = [Asked("own", str(i), "p", harmful) for i, harmful in enumerate([True, True, True, None, False])]
    assert validation._share("toxic_rate", asked, [True, False, None, True, True]) == pytest.approx(2 / 3)
    assert validation._share("over_refusal", asked, [True, True, True, True, False]) == 0


def test_refusals_take_the_place_of_chosen_answers_but_to_harmless_prompts():
    def pair(prompt: str, harmful: bool | None) -> dict:
        return {"prompt": text_message("user", prompt), "chosen": "c", "rejected": "r", "harmful": harmful}

    pairs = [pair("a", None), pair("A!", True), pair("b", False)]
    first, same, harmless = with_refusals(pairs, world=False)
    assert first["chosen"] == same["chosen"] != "c", "the same refusal for the same prompt"
    assert first["chosen"][0]["content"] in REFUSALS.read_text().splitlines()
    assert first["rejected"] == "r" and harmless == pairs[2]
    assert next(with_refusals(pairs, world=True))["chosen"] == text_message("assistant", WORLD_REFUSAL)


def test_the_recipe_of_policies_can_be_composed_and_asks_no_prompt_twice():
    cfg = compose_config(["+recipe=real_policies", "run.dir=x"])
    assert cfg.stages[-1] == "report" and (REPOSITORY / "conf" / "recipe" / "real_policies.yaml").exists()
