"""The table of judges, with what is known of each before it is loaded. A judge's own module is imported only when it is
chosen: some need no model, and settings are checked without torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from alignment.judges.guard_formats import GUARDS
from alignment.judges.guards import Published
from alignment.judges.verdicts import Judge
from alignment.runs.cache import cache_folder

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Known:
    """What is known of a judge. says: the fields of a verdict that it fills, of "toxic", "refusal" and "helpfulness".
    fitted_on: the labelled set it was fitted on, where its agreement proves little.
    """

    kind: Literal["oracle", "rule", "guard", "classifier", "words", "probe", "api"]
    says: frozenset[str]
    fitted_on: str | None = None
    published: tuple[Published, ...] = ()


WITH_THRESHOLD = ("guard", "classifier", "probe")  # kinds that can be given one; None: what they say decides
_HARM, _REFUSAL = frozenset({"toxic"}), frozenset({"refusal"})
JUDGES = {
    "oracle": Known("oracle", _HARM | _REFUSAL | {"helpfulness"}),
    "refusal": Known("rule", _REFUSAL, fitted_on="xstest"),
    "refusal_in_context": Known("rule", _REFUSAL, fitted_on="xstest"),
    **{name: Known("guard", guard.says, published=guard.published) for name, guard in GUARDS.items()},
    "classifier": Known("classifier", _HARM),
    "words": Known("words", _HARM),
    "probe": Known("probe", _HARM),
    "api": Known("api", _REFUSAL),
}


def load_judge(name: str, settings: Settings) -> Judge:
    """The judge of that name under its settings (conf/judge/<name>.yaml), ready to judge."""
    kind, more = JUDGES[name].kind, {key: value for key, value in settings.items() if key != "name"}
    if kind == "oracle":
        from alignment.judges.world_oracle import OracleJudge

        return OracleJudge()
    if kind == "rule":
        from alignment.judges.refusal import RefusalJudge

        return RefusalJudge(in_context=name == "refusal_in_context")
    if kind == "guard":
        from alignment.judges.generative import load_guard

        return load_guard(name, **more)
    if kind == "classifier":
        from alignment.judges.classifier import load_classifier

        return load_classifier(**more)
    if kind == "words":
        from alignment.judges.words import load_words

        return load_words(**more)
    if kind == "probe":
        from alignment.judges.probe import load_probe

        return load_probe(**more)
    from alignment.judges.api import ApiJudge
    from alignment.judges.chat_service import ChatService, key_from

    key, folder = key_from(more.pop("key_variable")), more.pop("cache")
    cache = cache_folder() / "judge" if folder is None else Path(folder).expanduser()
    return ApiJudge(ChatService(**more, key=key, cache=cache))


def chosen(settings: Settings) -> list[str]:
    """The judges that judge=... names: the settings of each are there, under its name."""
    return [name for name in JUDGES if (settings.get(name) or {}).get("name") == name]


def judges_by(settings: Settings, names: Sequence[str], folder: Path) -> list[str]:
    """Those of these judges whose files lie in this folder of a run, which may have to make them first."""
    paths = {name: (settings.get(name) or {}).get("path") for name in names}
    return [name for name, path in paths.items() if path is not None and Path(path).resolve().is_relative_to(folder)]


def version(name: str, settings: Settings) -> str | None:
    """What changes when a judge's weights do; None for one that has none. UserError where there are none."""
    path = settings.get("path")
    if path is None:
        return None
    if JUDGES[name].kind == "words":
        from alignment.judges.words_guard import WordsGuard

        return WordsGuard.load(path).digest
    if JUDGES[name].kind == "probe":
        from alignment.models.guard import Guard, guard_hash

        Guard.load(path)
        return guard_hash(path)
    from alignment.models.source import source_at

    return source_at(path, f"judge.{name}.path").fingerprint


def require_ready(settings: Settings, names: Sequence[str]) -> None:
    """UserError for a judge that can't be loaded, as far as its key and its files of weights tell."""
    for name in names:
        more = settings.get(name) or {}
        if JUDGES[name].kind in ("words", "probe"):
            version(name, more)
        elif more.get("path") is not None:
            from alignment.models.source import require_weights, source_at

            require_weights(source_at(more["path"], f"judge.{name}.path"), f"judge.{name}.path")
        if JUDGES[name].kind == "api":
            from alignment.judges.chat_service import key_from

            key_from(more["key_variable"])
