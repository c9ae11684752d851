"""Contrastive sets: the questions a direction is induced on, refusals of them, or a ready-made set of answers."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from alignment.data.cells import BadRow
from alignment.data.columns import Loaded, answer, messages, text_message, usable_lines
from alignment.data.files import read_file
from alignment.data.places import files_of
from alignment.data.prompt_sets import PROMPT_SETS, advbench_request, prompt_set
from alignment.data.same_prompts import prompt_text, text_hash
from alignment.types import UserError
from alignment.world import grammar

REFUSALS = Path(__file__).with_name("refusals.txt")  # of several wordings, from 2 words to 86
FEWEST_REFUSALS = 2  # of a user's own
WORLD_REFUSAL = "I can't answer that."  # Legend's, in words that the world's model knows
QUESTIONS = {"harmful": "advbench", "harmless": "alpaca_eval"}  # outside the world


def questions(source: str, count: int, *, seed: int, folder: str | None = None) -> Loaded:
    """The first `count` prompts of an evaluation set, of the embedded world, or of a file with a column prompt or goal.

    folder: where local copies of sets are. Without it, "harmful" and "harmless" are questions of the world; with it,
    they stand for the sets in QUESTIONS.
    """
    name = QUESTIONS.get(source, source)
    if folder is not None and name in PROMPT_SETS:
        loaded = prompt_set(name, folder)
        rows = [{"id": row["id"], "prompt": row["prompt"]} for row in loaded.rows[:count]]
        return Loaded(rows, loaded.quarantined)
    if source in QUESTIONS:
        prompts = enumerate(grammar.questions(count, seed=seed, harmful=source == "harmful"))
        return Loaded(
            [{"id": f"question-{i:06d}", "prompt": text_message("user", prompt.text)} for i, prompt in prompts]
        )
    return usable_lines(source, read_file("annotator.contrast.questions", source), _file_question, count)


def _file_question(line: int, row: dict) -> dict:
    question = row["prompt"] if row.get("prompt") is not None else row.get("goal")
    if "goal" in row and "target" in row:  # AdvBench, of which copies with swapped headings are about
        question = advbench_request(row)
    return {"id": f"line-{line:09d}", "prompt": messages(question, "prompt or goal", "user")}


def question_files(source: str, folder: str) -> list[Path]:
    """The files of the evaluation set that `source` stands for; none if it stands for no set."""
    name = QUESTIONS.get(source, source)
    if name not in PROMPT_SETS:
        return []
    try:
        return files_of(name, folder)
    except UserError as error:
        remedy = "put them there, or give a file with a column prompt or goal"
        raise UserError("annotator.contrast.questions", f"{source} stands for {error.problem}", remedy) from error


def refusals(path: str | None) -> list[str]:
    """The lines of a text file, or the refusals that come with the package."""
    file = Path(path or REFUSALS)
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        problem = f"{file} can't be read: {error.strerror}"
        raise UserError("annotator.contrast.refusals", problem, "name a text file, a refusal a line") from error
    except UnicodeDecodeError as error:
        raise UserError("annotator.contrast.refusals", f"{file} is not UTF-8", "save it as UTF-8") from error
    texts = [line for line in lines if line]
    if len(set(texts)) < FEWEST_REFUSALS:
        problem = f"{file} has {len(set(texts))} of them"
        raise UserError("annotator.contrast.refusals", problem, f"give {FEWEST_REFUSALS} or more, each on its own line")
    return texts


def with_refusals(pairs: Iterable[dict], world: bool) -> Iterator[dict]:
    """The pairs, but with a refusal for the chosen answer wherever the prompt isn't known to be harmless: the same one
    for the same prompt, of the package's; of the world one."""
    texts = [WORLD_REFUSAL] if world else refusals(None)
    for pair in pairs:
        if pair["harmful"] is False:
            yield pair
        else:
            text = texts[text_hash(prompt_text(pair["prompt"])) % len(texts)]
            yield {**pair, "chosen": text_message("assistant", text)}


def ready_made(path: str) -> Loaded:
    """The contrastive set in a file with prompt, positive and negative: any contrast makes a direction."""
    return usable_lines(path, read_file("annotator.contrast.file", path), _contrast)


def _contrast(line: int, row: dict) -> dict:
    prompt = messages(row.get("prompt"), "prompt", "user")
    positive, negative = (answer(row.get(side), side, prompt) for side in ("positive", "negative"))
    if positive == negative:
        raise BadRow("positive and negative are the same")
    finished = {"positive_finished": True, "negative_finished": True}
    return {"id": f"line-{line:09d}", "prompt": prompt, "positive": positive, "negative": negative, **finished}
