"""Contrastive sets: the questions a direction is induced on, or a ready-made set of answers to them."""

from pathlib import Path

from alignment.data.columns import BadRow, Loaded, answer, messages, usable_lines
from alignment.data.files import read_file
from alignment.data.places import files_of
from alignment.data.prompt_sets import PROMPT_SETS, advbench_request, prompt_set
from alignment.types import UserError
from alignment.world import grammar

QUESTIONS = {"harmful": "advbench", "harmless": "alpaca_eval"}  # outside the world


def questions(source: str, count: int, *, seed: int, folder: str | None = None) -> Loaded:
    """`count` prompts: the first of a file with a column prompt or goal, or of an evaluation set.

    folder: where local copies of sets are; harmful or harmless ones are the world's without it, of those above with it.
    """
    if folder is not None and QUESTIONS.get(source, source) in PROMPT_SETS:
        loaded = prompt_set(QUESTIONS.get(source, source), folder)
        rows = [{"id": row["id"], "prompt": row["prompt"]} for row in loaded.rows[:count]]
        return Loaded(rows, loaded.quarantined)
    if source in QUESTIONS:
        drawn = grammar.questions(count, seed=seed, harmful=source == "harmful")
        asked = [messages(prompt.text, "prompt", "user") for prompt in drawn]
        return Loaded([{"id": f"question-{i:06d}", "prompt": prompt} for i, prompt in enumerate(asked)])
    return usable_lines(source, read_file("annotator.contrast.questions", source), _file_question, count)


def _file_question(line: int, row: dict) -> dict:
    asked = row["prompt"] if row.get("prompt") is not None else row.get("goal")
    if "goal" in row and "target" in row:  # AdvBench, of which copies with swapped headings are about
        asked = advbench_request(row)
    return {"id": f"line-{line:09d}", "prompt": messages(asked, "prompt or goal", "user")}


def question_files(source: str, folder: str) -> list[Path]:
    """Of the evaluation set that `source` stands for; none if it stands for no set."""
    name = QUESTIONS.get(source, source)
    if name not in PROMPT_SETS:
        return []
    try:
        return files_of(name, folder)
    except UserError as error:
        remedy = "put them there, or give a file with a column prompt or goal"
        raise UserError("annotator.contrast.questions", f"{source} stands for {error.problem}", remedy) from error


def ready_made(path: str) -> Loaded:
    """A file with prompt, positive and negative: any contrast makes a direction."""
    return usable_lines(path, read_file("annotator.contrast.file", path), _contrast)


def _contrast(line: int, row: dict) -> dict:
    made = {"id": f"line-{line:09d}", "prompt": messages(row.get("prompt"), "prompt", "user")}
    for side in ("positive", "negative"):
        made |= {side: answer(row.get(side), side, made["prompt"]), f"{side}_finished": True}
    if made["positive"] == made["negative"]:
        raise BadRow("positive and negative are the same")
    return made
