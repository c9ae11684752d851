"""lm-evaluation-harness on local task files: what it says of MMLU is what our own log-likelihoods say."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from alignment.models.choices import LETTERS, as_choices, choice_log_probs
from alignment.models.lm_harness import check_tasks, task_scores
from alignment.models.load import load_language_model
from alignment.models.packing import Packing
from alignment.models.source import source_at
from alignment.runs.ranks import Ranks
from alignment.types import UserError

pytest.importorskip("lm_eval", reason="needs the extra lm_eval")

SUBJECT = "us_foreign_policy"
# The harness's own template for MMLU (lm_eval/tasks/mmlu/default), on files instead of the hub.
TASK = """task: local_mmlu
dataset_path: json
dataset_kwargs:
  data_files:
    dev: {folder}/dev.jsonl
    test: {folder}/test.jsonl
test_split: test
fewshot_split: dev
fewshot_config:
  sampler: first_n
num_fewshot: {shots}
output_type: multiple_choice
description: "The following are multiple choice questions (with answers) about us foreign policy.\\n\\n"
doc_to_text: "{{{{question.strip()}}}}\\nA. {{{{choices[0]}}}}\\nB. {{{{choices[1]}}}}\\nC. {{{{choices[2]}}}}\\nD. {{{{choices[3]}}}}\\nAnswer:"
doc_to_choice: ["A", "B", "C", "D"]
doc_to_target: answer
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""  # noqa: E501


def read(path: Path) -> list[dict]:
    with path.open(newline="") as file:
        return [
            {"subject": SUBJECT, "question": row[0], "choices": row[1:5], "answer": LETTERS.index(row[5])}
            for row in csv.reader(file)
        ]


def write(folder: Path, examples: list[dict], questions: list[dict], shots: int) -> None:
    folder.mkdir(exist_ok=True)
    for name, rows in (("dev", examples), ("test", questions)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "task.yaml").write_text(TASK.format(folder=folder, shots=shots))


@pytest.mark.parametrize(("name", "shots"), [("dialogues-4m", 5), ("dialogues-4m", 0), ("stories260K-hf", 0)])
def test_the_harness_finds_the_same(name, shots, shared_data, tmp_path, monkeypatch):
    """The same answers right, question by question, and every log-likelihood equal."""
    examples, questions = (read(shared_data / f"mmlu/{split}/{SUBJECT}_{split}.csv") for split in ("dev", "test"))
    questions = questions[:24]
    write(tmp_path, examples, questions, shots)
    check_tasks(["local_mmlu"], tmp_path)
    source = source_at(f"{shared_data}/models/{name}")
    loaded = load_language_model(replace(source, dtype="float32"), torch.device("cpu"))

    asked = [as_choices(loaded, one, examples[:shots]) for one in questions]
    assert {one.shots for one in asked} == {shots}
    ours = choice_log_probs(loaded, asked, Packing("auto"), 4096, tmp_path / "batches", Ranks())
    theirs: list[float] = []
    from lm_eval.models.huggingface import HFLM

    whole = HFLM.loglikelihood
    monkeypatch.setattr(HFLM, "loglikelihood", lambda *args, **more: theirs_kept(theirs, whole(*args, **more)))
    loaded = load_language_model(replace(source, dtype="float32"), torch.device("cpu"))  # without our head
    rows = task_scores(loaded, ["local_mmlu"], tmp_path)
    right = [
        float(max(range(4), key=row.__getitem__) == one["answer"]) for row, one in zip(ours, questions, strict=True)
    ]
    assert [row["value"] for row in rows] == right
    assert 0 < sum(right) < len(right)
    torch.testing.assert_close(torch.tensor(theirs), torch.tensor(ours).flatten(), atol=1e-4, rtol=1e-5)


def theirs_kept(kept: list[float], found: list[tuple[float, bool]]) -> list[tuple[float, bool]]:
    kept += [value for value, _ in found]
    return found


BAD = {
    "doc_to_text: !function utils.text": "calls Python code (!function)",
    "dataset_path: cais/mmlu": "takes its data from 'cais/mmlu'",
    "dataset_kwargs: {data_files: 'https://example.org/x.json'}": "takes its data from elsewhere",
    "dataset_kwargs: {trust_remote_code: true}": "asks for trust_remote_code",
    "unsafe_code: true": "asks for unsafe_code",
    "metric_list: [{metric: bertscore}]": "wants the metric 'bertscore'",
    "task: [": "is not valid yaml",
}


@pytest.mark.parametrize("line", BAD)
def test_a_task_file_that_brings_code_or_leaves_the_machine_is_refused(line, tmp_path):
    write(tmp_path, [], [], 0)
    check_tasks(["local_mmlu"], tmp_path)
    (tmp_path / "bad.yaml").write_text(f"task: bad\n{line}\n")
    with pytest.raises(UserError) as error:
        check_tasks(["local_mmlu"], tmp_path)
    assert BAD[line] in str(error.value) and "\n" not in str(error.value)


def test_an_unknown_task_is_one_line(tmp_path):
    write(tmp_path, [], [], 0)
    with pytest.raises(UserError, match=r"there is no 'mmlu'.*the tasks there: local_mmlu"):
        check_tasks(["mmlu"], tmp_path)
    with pytest.raises(UserError, match="there is no folder"):
        check_tasks(["mmlu"], tmp_path / "nowhere")
