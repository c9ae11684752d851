"""MMLU's questions (Hendrycks et al. 2021), from the hub's parquet or the original csv files, which have no heading."""

from collections.abc import Iterator
from pathlib import Path

from alignment.data.cells import BadRow, shown
from alignment.data.columns import Loaded
from alignment.data.files import read_file
from alignment.data.places import files_of
from alignment.data.raw_rows import content_id, load, text

LETTERS = "ABCD"
_COLUMNS = ("question", *LETTERS, "answer")


def questions(folder: str, split: str) -> Loaded:
    """The questions of split `dev` (five a subject, for the prompt) or `test`, each with four choices."""
    return questions_in(files_of("mmlu", folder, split), split)


def questions_in(files: list[Path], split: str) -> Loaded:
    """The questions in these files of a split."""
    return load("mmlu", (row for file in files for row in _read(file, split)), _question, repeats=True)


def _question(row: dict, file: Path) -> dict:
    subject, question = text(row, "subject"), text(row, "question")
    choices = row.get("choices")
    if not isinstance(choices, list) or len(choices) != 4:
        raise BadRow("choices are not four")
    choices = [
        text({f"choice {letter}": choice}, f"choice {letter}") for letter, choice in zip(LETTERS, choices, strict=True)
    ]
    answer = row.get("answer")
    if answer in tuple(LETTERS):
        answer = LETTERS.index(answer)
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer <= 3:
        raise BadRow(f"answer is {shown(row.get('answer'))}, not A to D or 0 to 3")
    return {
        "id": content_id("mmlu", subject, question, choices),
        "source": "mmlu",
        "subject": subject,
        "question": question,
        "choices": choices,
        "answer": answer,
    }


def _read(file: Path, split: str) -> Iterator[tuple[Path, int, dict | str]]:
    """Rows as the hub's parquet has them. A csv holds question, choices and letter; its file's name is the subject."""
    if file.suffix != ".csv":
        yield from ((file, line, row) for line, row in read_file("mmlu", str(file)))
        return
    subject = file.stem.removesuffix(f"_{split}")
    for line, row in read_file("mmlu", str(file), _COLUMNS):
        if isinstance(row, dict):
            choices = [row[letter] for letter in LETTERS]
            row = {**row, "subject": subject, "choices": choices, "answer": row["answer"].strip()}
        yield file, line, row
