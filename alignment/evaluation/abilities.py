"""What models can do beside answering safely: MMLU and other tasks, and how a reward model ranks pairs."""

from collections.abc import Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from alignment.data.cells import BadRow
from alignment.data.columns import Loaded, readable
from alignment.data.mmlu import questions
from alignment.data.rewardbench import file_pairs, pairs
from alignment.evaluation.answers import Asked
from alignment.evaluation.prompts import rank
from alignment.models.choices import LETTERS, as_choices, choice_log_probs
from alignment.models.devices import device
from alignment.models.load import Loaded as LoadedModel
from alignment.models.load import load_reward_scorer
from alignment.models.packing import Packing
from alignment.models.source import source_at
from alignment.runs import artifacts
from alignment.runs.ranks import Ranks
from alignment.runs.run_files import RunDir
from alignment.sampling.candidates import Question, reward_model_scorer, score_answers
from alignment.sampling.generate import Sample
from alignment.types import UserError

MMLU, REWARDBENCH = "mmlu", "rewardbench"
ROW = [("system", pa.string()), ("seed", pa.int64()), ("set", pa.string()), ("id", pa.string())]
CHOICE_COLUMNS = pa.schema(
    [
        *ROW, ("subject", pa.string()), ("shots", pa.int64()), ("answer", pa.string()), ("said", pa.string()),
        ("right", pa.bool_()), *((f"log_prob_{letter}", pa.float64()) for letter in "abcd"),
    ]
)  # fmt: skip
RANKING_COLUMNS = pa.schema(
    [
        *ROW, ("subset", pa.string()), ("chosen_score", pa.float64()), ("rejected_score", pa.float64()),
        ("right", pa.bool_()),
    ]
)  # fmt: skip
TASK_COLUMNS = pa.schema([*ROW, ("measure", pa.string()), ("value", pa.float64())])


def mmlu_questions(folder: str, count: int, shots: int, *, seed: int) -> tuple[list[dict], dict[str, list[dict]]]:
    """At most `count` test questions of every subject, drawn by `seed`; and the first `shots` examples of each."""
    examples, tests = _by_subject(folder, "dev"), _by_subject(folder, "test")
    drawn = [row for rows in tests.values() for row in sorted(rows, key=lambda row: rank(row["id"], seed))[:count]]
    if short := [name for name in tests if len(examples.get(name, [])) < shots]:
        raise UserError("scorecard.mmlu.shots", f"{short[0]} has fewer than {shots} examples", "give fewer")
    return drawn, {name: examples.get(name, [])[:shots] for name in tests}


def _by_subject(folder: str, split: str) -> dict[str, list[dict]]:
    subjects: dict[str, list[dict]] = {}
    for row in questions(folder, split).rows:
        subjects.setdefault(row["subject"], []).append(row)
    return subjects


def mmlu_rows(
    loaded: LoadedModel,
    asked: Sequence[dict],
    examples: dict[str, list[dict]],
    packing: Packing,
    batch_tokens: int,
    work: Path,
    ranks: Ranks,
) -> tuple[list[dict], list[str]]:
    """A row for every question that fits the model's context, and why each of the others has none."""
    too_long: list[str] = []
    fitting = list(
        readable(
            asked,
            lambda question: as_choices(loaded, question, examples[question["subject"]]),
            lambda question, why: too_long.append(f"{question['id']}: {why}"),
        )
    )
    if not fitting:
        raise UserError("scorecard.mmlu", "no question fits the model's context", "set scorecard.mmlu.questions=0")
    log_probs = choice_log_probs(loaded, [choices for _, choices in fitting], packing, batch_tokens, work, ranks)
    rows = []
    for (question, choices), values in zip(fitting, log_probs, strict=True):
        likeliest = max(range(len(LETTERS)), key=values.__getitem__)
        rows.append(
            {
                "set": MMLU, "id": question["id"], "subject": question["subject"], "shots": choices.shots,
                "answer": LETTERS[question["answer"]], "said": LETTERS[likeliest],
                "right": likeliest == question["answer"],
                **{f"log_prob_{letter.lower()}": value for letter, value in zip(LETTERS, values, strict=True)},
            }
        )  # fmt: skip
    return rows, too_long


def ranking_rows(
    loaded: LoadedModel,
    name: str,
    ranked: Loaded,
    packing: Packing,
    batch_tokens: int,
    work: Path,
    ranks: Ranks,
) -> list[dict]:
    """The scores a reward model gives both answers of every pair, which is right if the chosen one has the higher.

    Pairs longer than the model's context are quarantined.
    """

    def whole(row: dict) -> dict:
        if any(text.truncated for text in loaded.format.render(row["prompt"], _answers(row), loaded.context)):
            raise BadRow(f"longer than the context of {loaded.context} tokens")
        return row

    rows = ranked.readable(whole)
    if not rows:
        raise UserError("scorecard.rankings", f"no pair of {name} can be scored", "give others")
    prompts = [Question(row["id"], row["prompt"], []) for row in rows]
    answers = [[Sample(message["content"], True) for (message,) in _answers(row)] for row in rows]
    scored = score_answers(reward_model_scorer(loaded), loaded, prompts, answers, packing, batch_tokens, work, ranks)
    return [
        {
            "set": name, "id": row["id"], "subset": row["category"], "chosen_score": float(chosen),
            "rejected_score": float(rejected), "right": bool(chosen > rejected),
        }
        for row, (chosen, rejected) in zip(rows, scored.scores, strict=True)
    ]  # fmt: skip


def _answers(row: dict) -> list[list[dict]]:
    return [row["chosen"], row["rejected"]]


def answer_rewards(
    loaded: LoadedModel,
    questions: Sequence[Question],
    answers: Sequence[str],
    packing: Packing,
    batch_tokens: int,
    work: Path,
    ranks: Ranks,
) -> tuple[list[float | None], list[str]]:
    """The reward of each answer, None for one that the model can't read; and why it can't."""
    samples = [[Sample(answer, True)] for answer in answers]
    scored = score_answers(reward_model_scorer(loaded), loaded, questions, samples, packing, batch_tokens, work, ranks)
    rewards = np.concatenate(scored.scores).tolist()
    return [None if isnan(reward) else reward for reward in rewards], scored.unscored


# ---- of a run --------------------------------------------------------------------------------------------------------


class Abilities:
    """Multiple choice, local tasks of lm-evaluation-harness, and rankings, where the scorecard's settings ask for them.

    folder: where local copies of MMLU and RewardBench are looked for; seed: draws MMLU's questions.
    """

    def __init__(
        self, card: Mapping[str, Any], folder: str, seed: int, packing: Packing, batch_tokens: int, work: Path,
        ranks: Ranks,
    ) -> None:  # fmt: skip
        self._packing, self._batch_tokens, self._work, self._ranks = packing, batch_tokens, work, ranks
        self._questions, self._shots = card["mmlu"]["questions"], card["mmlu"]["shots"]
        self._task_names, self._include_path = list(card["lm_eval"]["tasks"]), card["lm_eval"]["include_path"]
        self._reward_model = card["reward_model"]
        self._choices: list[dict] = []
        self._tasks: list[dict] = []
        self._rankings: list[dict] = []
        self.left_out: dict[str, list[str]] = {}
        if self._questions:
            self._mmlu = mmlu_questions(folder, self._questions, self._shots, seed=seed)
        if self._task_names:
            from alignment.models.lm_harness import check_tasks

            check_tasks(self._task_names, Path(self._include_path))
        self._pairs = {
            Path(name).stem: pairs(folder) if name == REWARDBENCH else file_pairs(name) for name in card["rankings"]
        }
        if len(self._pairs) < len(card["rankings"]):
            raise UserError("scorecard.rankings", "two files have the same name", "rename one")

    @property
    def of_models(self) -> bool:
        """Is anything asked of language models?"""
        return bool(self._questions or self._task_names)

    @property
    def decoding(self) -> dict[str, dict]:
        """How what isn't sampled came about."""
        found: dict[str, dict] = {}
        if self._choices:
            fewer = sum(row["shots"] < self._shots for row in self._choices)
            found["log-likelihood"] = {
                "questions_a_subject": self._questions, "shots": self._shots, "asked_with_fewer_shots": fewer,
                "chat_template": None,
            }  # fmt: skip
        if self._tasks:
            found["lm-evaluation-harness"] = {"tasks": self._task_names, "chat_template": None}
        if self._reward_model is not None:
            found["reward model"] = {"model": self._reward_model}
        return found

    def measure(self, system: str, seed: int, loaded: LoadedModel) -> None:
        """What a language model knows; of a system trained with several seeds, the first one's."""
        of = {"system": system, "seed": seed}
        if self._task_names:  # first: it wants the model as it was loaded
            self._tasks += [{**of, **row} for row in self._ranks.from_main(lambda: self._harness(system, loaded))]
        if self._questions:
            work = self._work / "choices" / system
            rows, too_long = mmlu_rows(loaded, *self._mmlu, self._packing, self._batch_tokens, work, self._ranks)
            self._choices += [{**of, **row} for row in rows]
            self.left_out[f"mmlu, {system}"] = too_long
            letters = {row["said"] for row in rows}
            if len(letters) == 1 and len(rows) > 1:
                self._ranks.say(
                    f"  {system} says {letters.pop()} to all {len(rows)} questions: no sign that it knows any"
                )

    def _harness(self, system: str, loaded: LoadedModel) -> list[dict]:
        from alignment.models.lm_harness import task_scores

        kept = self._work / "lm_eval" / f"{system}.json"
        if not kept.exists():
            rows = task_scores(loaded, self._task_names, Path(self._include_path))
            artifacts.write_json(kept, rows)
        return artifacts.read_json(kept)

    def score(self, rows: list[dict], by_id: dict[tuple[str, str], Asked]) -> None:
        """Answers and pairs by the reward model, into the rows."""
        if self._reward_model is None:
            return
        loaded = load_reward_scorer(source_at(self._reward_model, "scorecard.reward_model"), device())
        settings = self._packing, self._batch_tokens
        asked = [Question(f"{row['system']}, {row['id']}", by_id[row["set"], row["id"]].messages, []) for row in rows]
        answers = [row["answer"] for row in rows]
        rewards, self.left_out["rewards"] = answer_rewards(
            loaded, asked, answers, *settings, self._work / "rewards", self._ranks
        )
        for row, reward in zip(rows, rewards, strict=True):
            row["reward"] = reward
        name = Path(self._reward_model).name
        for file, ranked in self._pairs.items():
            of_file = ranking_rows(loaded, file, ranked, *settings, self._work / "rankings" / file, self._ranks)
            self._rankings += [{"system": name, "seed": 0, **row} for row in of_file]
            self.left_out[f"rankings, {file}"] = [row["reason"] for row in ranked.quarantined]

    def write(self, run: RunDir, out: Path) -> None:
        for path, rows, columns in (
            (run.choices, self._choices, CHOICE_COLUMNS),
            (run.task_scores, self._tasks, TASK_COLUMNS),
            (run.rankings, self._rankings, RANKING_COLUMNS),
        ):
            if rows:
                artifacts.write_rows(out / path.name, rows, columns)
