"""Which settings of judges go together. This module imports no torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from omegaconf import DictConfig, ListConfig

from alignment.data.answer_files import ANSWER_COLUMNS
from alignment.judges.choice import JUDGES, chosen
from alignment.settings.evaluation_schema import ApiJudge
from alignment.settings.method_schema import Guard
from alignment.settings.schema import Config
from alignment.settings.value_rules import check_list
from alignment.types import UserError

JUDGED_FILES = (".jsonl", ".json", ".csv", ".parquet")


def check_judges(cfg: Config) -> None:
    """Refuses settings without a judge, stage judge without its files, and an address that holds a secret."""
    judge = cfg.judge
    if not chosen(judge):
        raise UserError("judge", "none is chosen", f"choose from {', '.join(JUDGES)}")
    if "judge" in cfg.stages:
        for key, file in (("input", "the file of answers"), ("output", "the file to write")):
            if not judge[key]:
                raise UserError(f"judge.{key}", "a value is required", f"name {file}: judge.{key}=...")
        _check_columns(judge.columns)
        if Path(judge.output).suffix not in JUDGED_FILES:
            choose = f"give one of {', '.join(JUDGED_FILES)}"
            raise UserError("judge.output", f"{judge.output} is of an unknown kind", choose)
        if Path(judge.input).resolve() == Path(judge.output).resolve():
            raise UserError("judge.output", "it is the input", "name another file")
    if "api" in chosen(judge):
        _check_api(judge.api)


def check_guard(guard: Guard) -> None:
    """Refuses sources that are named twice, and layers and a threshold that are none."""
    if not guard.answers:
        raise UserError("guard.answers", "it is empty", "name labelled answers: a set, or a file")
    check_list("guard.answers, harmless and transfer", [*guard.answers, *guard.harmless, *guard.transfer])
    names = [Path(source).name for source in (*guard.answers, *guard.harmless, *guard.transfer)]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(
            "guard.answers, harmless and transfer", f"two files are called {twice[0]}", "rename one of them"
        )
    layers = (
        None if guard.layers is None else list(guard.layers) if isinstance(guard.layers, ListConfig) else guard.layers
    )
    whole = isinstance(layers, list) and len(layers) == 2 and all(type(layer) is int for layer in layers)
    if layers is not None and not (whole and 1 <= layers[0] <= layers[1]):
        raise UserError("guard.layers", f"{layers} is no first and last layer", "give two, as [11,28], or null for all")
    share = guard.threshold
    if share != "balanced" and not (isinstance(share, int | float) and not isinstance(share, bool) and 0 <= share <= 1):
        problem = f"{share!r} is neither balanced nor a share of safe answers"
        raise UserError("guard.threshold", problem, "give balanced, or a number from 0 to 1")
    if guard.false_alarms is not None and not guard.harmless:
        raise UserError(
            "guard.false_alarms", "guard.harmless names no answers to harmless prompts", "name some, or set null"
        )


def _check_columns(columns: Any) -> None:
    wanted = f"give judge.columns={{{','.join(f'{name}:...' for name in ANSWER_COLUMNS)}}}"
    if columns is not None and not isinstance(columns, Mapping | DictConfig):
        raise UserError("judge.columns", f"{columns!r} is no mapping of our names to yours", wanted)
    if unknown := [name for name in columns or () if name not in ANSWER_COLUMNS]:
        raise UserError("judge.columns", f"{unknown[0]!r} is no column of ours", wanted)


def _check_api(api: ApiJudge) -> None:
    url = urlsplit(api.url)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise UserError("judge.api.url", "it is no address of a service", "give one as https://api.openai.com/v1")
    if "@" in url.netloc or url.query or url.fragment:
        problem = "it holds a user, a password or a query, which may be a secret"  # records would keep it
        raise UserError("judge.api.url", problem, "give the address alone, and the key by judge.api.key_variable")
    if api.budget is not None and not (api.price_in > 0 and api.price_out > 0):
        raise UserError("judge.api.budget", "without prices nothing is ever spent", "set price_in and price_out too")
