"""Which judge a name stands for. Each is imported only when it is chosen: some need no model, and no torch."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from alignment.judges.verdicts import Judge

Settings = Mapping[str, Any]


def load_judge(name: str, settings: Settings) -> Judge:
    """The judge of that name under its settings (conf/judge/<name>.yaml), ready to judge."""
    return JUDGES[name](settings)


def chosen(settings: Settings) -> list[str]:
    """The judges that judge=... names: the block of each is there, and says whose it is."""
    return [name for name in JUDGES if (settings.get(name) or {}).get("name") == name]


def require_ready(settings: Settings, names: Sequence[str]) -> None:
    """UserError for a judge that can't be loaded, as far as can be seen at no cost: a key, files of weights."""
    for name in names:
        more = settings.get(name) or {}
        if more.get("path") is not None:
            from alignment.models.source import model_source, require_weights

            require_weights(model_source("local", more["path"], f"judge.{name}.path"), f"judge.{name}.path")
        if name == "api":
            from alignment.judges.chat_service import key_from

            key_from(more["key_variable"])


def _oracle(settings: Settings) -> Judge:
    from alignment.judges.world_oracle import OracleJudge

    return OracleJudge()


def _refusal(settings: Settings) -> Judge:
    from alignment.judges.refusal import RefusalJudge

    return RefusalJudge()


def _guard(name: str, settings: Settings) -> Judge:
    from alignment.judges.generative import load_guard

    return load_guard(name, **_without_name(settings))


def _classifier(settings: Settings) -> Judge:
    from alignment.judges.classifier import load_classifier

    return load_classifier(**_without_name(settings))


def _api(settings: Settings) -> Judge:
    from alignment.judges.api import ApiJudge
    from alignment.judges.chat_service import ChatService, key_from

    more = _without_name(settings)
    key = key_from(more.pop("key_variable"))
    folder = more.pop("cache")
    cache = _cache_folder() / "judge" if folder is None else Path(folder).expanduser()
    return ApiJudge(ChatService(**more, key=key, cache=cache))


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "repalign"


def _without_name(settings: Settings) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key != "name"}


JUDGES: dict[str, Callable[[Settings], Judge]] = {
    "oracle": _oracle,
    "refusal": _refusal,
    "llama_guard_2": partial(_guard, "llama_guard_2"),
    "llama_guard_3": partial(_guard, "llama_guard_3"),
    "md_judge": partial(_guard, "md_judge"),
    "shieldgemma": partial(_guard, "shieldgemma"),
    "wildguard": partial(_guard, "wildguard"),
    "classifier": _classifier,
    "api": _api,
}
