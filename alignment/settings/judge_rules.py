"""Which judges can be chosen together with what. Nothing here imports torch."""

from pathlib import Path
from urllib.parse import urlsplit

from alignment.judges.choice import JUDGES, chosen
from alignment.settings.schema import ApiJudge, Config
from alignment.types import UserError

GUARD_JUDGES = tuple(name for name, judge in JUDGES.items() if judge.kind == "guard")
JUDGED_FILES = (".jsonl", ".json", ".csv", ".parquet")


def check_judges(cfg: Config) -> None:
    """Refuses a judging without files, without a judge, or with an address that holds a secret."""
    judge = cfg.judge
    if not chosen(judge):
        raise UserError("judge", "none is chosen", f"choose from {', '.join(JUDGES)}")
    if "judge" in cfg.stages:
        for key, what in (("input", "the file of answers"), ("output", "the file to write")):
            if not judge[key]:
                raise UserError(f"judge.{key}", "a value is required", f"name {what}: judge.{key}=...")
        if Path(judge.output).suffix not in JUDGED_FILES:
            wanted = ", ".join(JUDGED_FILES)
            raise UserError("judge.output", f"{judge.output} is of an unknown kind", f"give one of {wanted}")
        if Path(judge.input).resolve() == Path(judge.output).resolve():
            raise UserError("judge.output", "it is the input", "name another file")
    if "api" in chosen(judge):
        _check_api(judge.api)


def _check_api(api: ApiJudge) -> None:
    url = urlsplit(api.url)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise UserError("judge.api.url", "it is no address of a service", "give one as https://api.openai.com/v1")
    if "@" in url.netloc or url.query or url.fragment:
        raise UserError(  # it would be kept in records: it isn't quoted here either
            "judge.api.url", "it holds a user, a password or a query, which may be a secret",
            "give the address alone, and the key by judge.api.key_variable",
        )  # fmt: skip
    if api.budget is not None and not (api.price_in > 0 and api.price_out > 0):
        raise UserError("judge.api.budget", "without prices nothing is ever spent", "set price_in and price_out too")
