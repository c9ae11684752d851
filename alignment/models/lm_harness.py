"""Tasks of lm-evaluation-harness (the extra lm_eval) from local task files, on a model that is loaded.

A task file is data: a file that names Python code, a metric or a data set from elsewhere is refused before a model is
loaded. Every document's score is kept, and the harness's own figure must be the mean of these scores.
"""

import logging
import re
from collections.abc import Sequence
from pathlib import Path

import yaml

from alignment.models.load import Loaded
from alignment.types import StageFailed, UserError

LOCAL_READERS = ("json", "csv", "parquet", "arrow", "text")  # what `dataset_path` may be
KEY = "scorecard.lm_eval.include_path"
FEWSHOT_SEED = 1234  # the harness's own
REMEDY = "leave it out of the task's metric_list"


def check_tasks(tasks: Sequence[str], folder: Path) -> None:
    """Raises UserError unless every task is there, and every file in the folder is harmless."""
    if not folder.is_dir():
        raise UserError(KEY, f"there is no folder {folder}", "give the folder of your task files")
    for file in sorted(folder.rglob("*")):
        if file.is_file() and (file.suffix in (".yaml", ".yml") or file.name.endswith("_yaml")):
            _check_file(file)
    manager = _manager(folder)
    for task in tasks:
        if task not in manager.all_tasks:
            known = ", ".join(manager.all_tasks) or "none"
            raise UserError("scorecard.lm_eval.tasks", f"there is no {task!r} in {folder}", f"the tasks there: {known}")


def _check_file(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    if tag := re.search(r"(^|[\s:\[{,-])(![\w/.]+)", text):
        raise UserError(KEY, f"{file} calls Python code ({tag[2]})", "write the task without it")
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(KEY, f"{file} is not valid yaml: {str(error).splitlines()[0]}", "mend it") from error
    for node in _dictionaries(content):
        path = node.get("dataset_path")
        if path is not None and path not in LOCAL_READERS:
            remedy = f"use dataset_path {', '.join(LOCAL_READERS)} and dataset_kwargs.data_files"
            raise UserError(KEY, f"{file} takes its data from {path!r}", remedy)
        if "://" in str(node.get("dataset_kwargs")):
            raise UserError(KEY, f"{file} takes its data from elsewhere", "name local files in dataset_kwargs")
        for key in ("unsafe_code", "trust_remote_code", "custom_dataset"):
            if node.get(key):
                raise UserError(KEY, f"{file} asks for {key}", "leave it out")
        metric = node.get("metric")
        if node.get("hf_evaluate") or (isinstance(metric, str) and metric not in _metrics()):
            problem = f"{file} wants the metric {metric!r}, which is code of the hub"
            raise UserError(KEY, problem, "use the harness's own")


def _dictionaries(content: object) -> list[dict]:
    """All dictionaries in a file's content, itself among them."""
    if isinstance(content, dict):
        return [content, *_dictionaries(list(content.values()))]
    return [node for part in content for node in _dictionaries(part)] if isinstance(content, list) else []


def _metrics() -> set[str]:
    import lm_eval.api.metrics  # noqa: F401  fills the registry
    from lm_eval.api.registry import METRIC_REGISTRY

    return set(METRIC_REGISTRY)


def _manager(folder: Path):
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=str(folder), include_defaults=False)


def task_scores(loaded: Loaded, tasks: Sequence[str], folder: Path, batch_size: int = 8) -> list[dict]:
    """set (the task), measure, id and value of every document: prompts and scoring are the harness's own."""
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    loaded_tasks = _manager(folder).load(list(tasks))
    for task in loaded_tasks["tasks"].values():
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=FEWSHOT_SEED)
    model = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=batch_size)
    results = evaluate(lm=model, task_dict=loaded_tasks, bootstrap_iters=0, log_samples=True)
    rows = []
    for task, samples in results["samples"].items():
        of_task = []
        for sample in samples:
            for metric in sample["metrics"]:
                name = metric if sample["filter"] == "none" else f"{metric},{sample['filter']}"
                value = _number(task, metric, sample[metric])
                of_task.append({"set": task, "measure": name, "id": f"{task}-{sample['doc_id']:06d}", "value": value})
        _check_means(task, of_task, results["results"][task])
        rows += of_task
    return rows


def _number(task: str, metric: str, value: object) -> float:
    if isinstance(value, bool | int | float):
        return float(value)
    problem = f"{metric} is no number of a document's own, so nothing could be traced"
    raise StageFailed(f"lm_eval {task}", problem, REMEDY)


def _check_means(task: str, rows: list[dict], means: dict[str, float]) -> None:
    for metric in {row["measure"] for row in rows}:
        values = [row["value"] for row in rows if row["measure"] == metric]
        name = metric if "," in metric else f"{metric},none"
        if abs(sum(values) / len(values) - means[name]) > 1e-9:
            problem = f"{metric} is not the mean over its documents, so it could not be traced"
            raise StageFailed(f"lm_eval {task}", problem, REMEDY)
