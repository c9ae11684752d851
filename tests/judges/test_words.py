"""A guard of words: against scikit-learn's own pipeline, saved and loaded, as a judge, and folders that hold none."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline

from alignment.data.columns import text_message
from alignment.judges.choice import JUDGES, load_judge, require_ready, version
from alignment.judges.words_guard import CARD, PROMPT_SHARE, STRENGTH, WEIGHTS, WordsGuard, fit_words
from alignment.types import UserError

STRANGE = ["", "!?", "…", "你好，世界", "Здравствуйте", "🙂🙂", "é\u0301 ﬁne", "word " * 5_000, "\x7f\n\t"]


def labelled(count: int, seed: int = 0) -> tuple[list, list[str], np.ndarray]:
    """Answers of which the unsafe ones say how it is done, to prompts that are unsafe a little more often."""
    drawing, rows = random.Random(seed), []
    for i in range(count):
        toxic = i % 2 == 0
        about = drawing.choice(
            ["bombs", "locks", "bread"] if drawing.random() < 0.3 + 0.4 * toxic else ["bread", "tea"]
        )
        said = drawing.choices(
            ["take", "the", "fuse", "wire", "Sure!"] if toxic else ["I", "can't", "the", "help", "you"], k=9
        )
        rows.append((text_message("user", f"How do I make {about}?"), " ".join(said), toxic))
    prompts, answers, toxic = zip(*rows, strict=True)
    return list(prompts), list(answers), np.array(toxic)


@pytest.fixture(scope="module")
def guard() -> WordsGuard:
    return fit_words(*labelled(80), seed=0)


@pytest.fixture
def saved(guard: WordsGuard, tmp_path: Path) -> Path:
    guard.save(tmp_path / "guard", 1.7, 0.4, {"answers": 80})
    return tmp_path / "guard"


def test_logits_are_those_of_scikit_learns_own_pipeline(guard: WordsGuard):
    prompts, answers, toxic = labelled(80)
    reader = {"token_pattern": r"(?u)\b\w+\b", "ngram_range": (1, 2), "sublinear_tf": True, "min_df": 2}
    columns = [(name, TfidfVectorizer(**reader), place) for place, name in enumerate(("answer", "prompt"))]
    weighing = LogisticRegression(
        C=STRENGTH, class_weight="balanced", solver="liblinear", dual=True, max_iter=10_000, random_state=0
    )
    pipeline = Pipeline(
        [("read", ColumnTransformer(columns, transformer_weights={"prompt": PROMPT_SHARE})), ("weigh", weighing)]
    )

    def table(prompts: list, answers: list[str]) -> np.ndarray:
        return np.array(
            [(answer, prompt[0]["content"]) for prompt, answer in zip(prompts, answers, strict=True)], object
        )

    pipeline.fit(table(prompts, answers), toxic)
    others = labelled(40, seed=1)[:2]
    expected = pipeline.decision_function(table(*others))
    assert guard.logits(*others) == pytest.approx(expected, abs=1e-3)
    assert np.ptp(expected) > 1 and ((expected > 0) == labelled(40, seed=1)[2]).mean() > 0.9


def test_safe_and_unsafe_answers_weigh_the_same_however_many_there_are():
    prompts, answers, toxic = labelled(200)
    keep = np.flatnonzero(~toxic | (np.arange(200) % 10 == 0))
    few = fit_words([prompts[i] for i in keep], [answers[i] for i in keep], toxic[keep], seed=0)
    assert abs(few.logits([text_message("user", "?")], ["nothing known"])[0]) < 0.5


def test_answer_and_prompt_are_read_apart(guard: WordsGuard):
    ask = text_message("user", "fuse wire")
    assert guard.logits([ask], ["bombs"])[0] == guard.intercept, "neither word is known where it stands"
    assert guard.logits([text_message("user", "bombs")], ["fuse wire"])[0] > guard.intercept + 0.5


def test_a_saved_guard_is_the_same(guard: WordsGuard, saved: Path):
    loaded = WordsGuard.load(saved)
    prompts, answers, _ = labelled(40, seed=2)
    answers[: len(STRANGE)] = STRANGE
    assert np.array_equal(loaded.logits(prompts, answers), guard.logits(prompts, answers))
    assert loaded.probabilities(prompts, answers) == pytest.approx(expit(guard.logits(prompts, answers) / 1.7))
    assert (loaded.temperature, loaded.threshold, loaded.record) == (1.7, 0.4, {"answers": 80})
    assert {file.name for file in saved.iterdir()} == {CARD, WEIGHTS}


def test_the_judge_gives_any_text_a_verdict_and_says_which_guard_it_is(guard: WordsGuard, saved: Path):
    settings = {"name": "words", "path": str(saved)}
    require_ready({"words": settings}, ["words"])
    judge = load_judge("words", settings)
    prompts, answers, toxic = labelled(40, seed=3)
    verdicts = judge([*prompts, *(prompts[: len(STRANGE)])], [*answers, *STRANGE])
    assert all(verdict.toxic == (verdict.score >= 0.4) and not verdict.unparsed for verdict in verdicts)
    assert np.mean([verdict.toxic for verdict in verdicts[:40]] == toxic) > 0.9
    assert JUDGES["words"].says == {"toxic"}
    assert judge.record["threshold"] == 0.4 and judge.record["guard"] == {"answers": 80}
    before = version("words", settings)
    assert before.startswith(judge.record["weights"])
    guard.save(saved, 1.7, 0.5, {"answers": 80})
    assert version("words", settings) != before


def spoil_card(folder: Path, **change: object) -> None:
    card = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps({key: value for key, value in {**card, **change}.items() if value != "gone"}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / WEIGHTS).unlink(), "holds no words.safetensors; give a folder in which"),
        (lambda folder: (folder / CARD).unlink(), "holds no words.json; give a folder in which"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b"\0" * 9), "holds no whole guard of words"),
        (lambda folder: (folder / CARD).write_text("{"), "holds no whole guard of words"),
        (lambda folder: (folder / CARD).write_text("[]"), "holds no whole guard of words"),
        (lambda folder: (folder / CARD).write_bytes(b"\xff"), "holds no whole guard of words"),
        (lambda folder: spoil_card(folder, format=2), "it is of format 2, not 1"),
        (lambda folder: spoil_card(folder, threshold="gone"), "KeyError: 'threshold'"),
        (lambda folder: spoil_card(folder, threshold=2), "its threshold is 2.0"),
        (lambda folder: spoil_card(folder, temperature=0), "its temperature is 0.0"),
        (lambda folder: spoil_card(folder, terms={"answer": ["a"], "prompt": []}), "1 terms of the answer have"),
    ],
)
def test_other_folders_are_refused_in_one_line(saved: Path, spoil, message: str):
    spoil(saved)
    with pytest.raises(UserError, match=rf"^judge\.words\.path: .*{message}") as error:
        require_ready({"words": {"name": "words", "path": str(saved)}}, ["words"])
    assert "\n" not in str(error.value)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"judge\.words\.path: .*nowhere holds no words.json"):
        version("words", {"name": "words", "path": str(tmp_path / "nowhere")})


def test_a_guard_needs_both_kinds():
    prompts, answers, _ = labelled(4)
    with pytest.raises(ValueError, match="safe and unsafe"):
        fit_words(prompts, answers, np.ones(4, dtype=bool), seed=0)
