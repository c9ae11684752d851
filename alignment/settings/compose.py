"""From the command line to a checked configuration; mistakes are answered in one line, before torch is imported.

Hydra composes the configuration twice: here, to check it and to put its errors into plain words, and again in
hydra.main, which keeps --help, --cfg and -m (sweeps) what Hydra users know.
"""

import difflib
import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, InterpolationKeyError, OmegaConfBaseException, ValidationError

from alignment.settings.rules import check, check_idle, key_of
from alignment.settings.schema import CONF_DIR, Config, register
from alignment.stages import STAGES
from alignment.types import UserError

FOR_EVERY_RECIPE = ("recipe", "stages", "seed", "run", "launch")  # settings that runner and reports read


def check_arguments(arguments: list[str]) -> None:
    """Raises a UserError for the first mistake in a command line; with -m, in any of its jobs."""
    overrides, flags = split_arguments(arguments)
    shows_only = flags & {"help", "hydra_help", "cfg", "info"}
    jobs = _sweep(overrides) if "multirun" in flags else [overrides]
    for job in jobs:
        if not shows_only or any(override.startswith("+recipe=") for override in job):
            compose_config(job)


def as_hydra_reads(arguments: list[str]) -> list[str]:
    """The same command line, with quotes around words such as José, whose letters Hydra reads only in quotes, and with
    brackets around one value where a list is wanted; in a sweep, around each."""
    sweep = any(argument in ("-m", "--multirun") for argument in arguments)
    return [
        argument
        if argument.startswith("-")
        else _listed(argument if argument.isascii() else _accented(argument), sweep)
        for argument in arguments
    ]


def _listed(override: str, sweep: bool) -> str:
    key, _, value = override.partition("=")
    if key not in _LIST_KEYS or not value or value == "null" or value.startswith(("[", "$")):
        return override
    values = re.findall(_CHOICE, value)
    return f"{key}={','.join(f'[{one}]' for one in values)}" if sweep or len(values) == 1 else override


def _list_keys(schema: type, prefix: str = "") -> set[str]:
    """The keys that hold a list, in the groups whose schema is always the same one."""
    keys: set[str] = set()
    for name, kind in get_type_hints(schema).items():
        if is_dataclass(kind):
            keys |= _list_keys(kind, f"{prefix}{name}.")
        elif list in {get_origin(part) for part in (kind, *get_args(kind))}:
            keys.add(prefix + name)
    return keys


_LIST_KEYS = _list_keys(Config)


def _accented(override: str) -> str:
    key, equals, value = override.partition("=")
    if value.startswith(("[", "{")):
        return key + equals + re.sub(_WORD, lambda word: _word(word[0]), value)
    return key + equals + ",".join(map(_word, re.findall(_CHOICE, value)))


# A word of a value is in quotes, or has none of the characters that mean something in a list (a choice: in a sweep).
_IN_QUOTES = r"""'(?:[^'\\]|\\.)*'(?=\s*(?:[\]},:]|$))|"(?:[^"\\]|\\.)*"(?=\s*(?:[\]},:]|$))"""
_WORD = rf"{_IN_QUOTES}|[^\[\]{{}}(),:\s](?:[^\[\]{{}}(),:]*[^\[\]{{}}(),:\s])?"
_CHOICE = rf"(?:{_IN_QUOTES})(?=,|$)|[^,]+"


def _word(text: str) -> str:
    in_quotes = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return text if text.isascii() or in_quotes else quoted(text)


def quoted(text: str) -> str:
    """The text as it must be written for Hydra to read it unchanged."""
    if re.fullmatch(r"[A-Za-z0-9_/.+-]+", text):
        return text
    return "'" + re.sub(r"(\\*)('|$)", lambda end: end[1] * 2 + (end[2] and "\\'"), text) + "'"


def split_arguments(arguments: list[str]) -> tuple[list[str], set[str]]:
    """The overrides, and the names of Hydra's flags that are set. --config-dir becomes a search path, as in Hydra."""
    parser = get_args_parser()
    parser.error = _unreadable
    parsed = vars(parser.parse_args(arguments))
    overrides, folder = parsed.pop("overrides"), parsed["config_dir"]
    search = [] if folder is None else [f"hydra.searchpath=[file://{Path(folder).resolve()}]"]
    return [*overrides, *search], {flag for flag, value in parsed.items() if value}


def _unreadable(message: str) -> NoReturn:
    raise UserError("command line", message, "put flags before all settings; --hydra-help lists them")


def compose_config(overrides: list[str]) -> DictConfig:
    """The configuration these overrides give, complete and within its rules."""
    register()
    overrides = as_hydra_reads(overrides)
    try:
        with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            cfg = compose("config", overrides)
        _refuse_unknown_keys(cfg, Config, "")
        _refuse_missing_keys(cfg)
        OmegaConf.resolve(cfg)
    except (HydraException, OmegaConfBaseException) as error:
        raise _in_plain_words(error) from error
    check(cfg)
    check_idle(cfg, overrides)
    _refuse_unread_keys(cfg, overrides)
    return cfg


def _sweep(overrides: list[str]) -> list[list[str]]:
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
    except HydraException as error:
        raise _in_plain_words(error) from error
    return [list(job) for batch in BasicSweeper.split_arguments(parsed, max_batch_size=None) for job in batch]


def sweep_folder(arguments: list[str], job: list[str]) -> str:
    """A name for one job of a sweep, made of the overrides that differ between its jobs, such as seed=1."""
    parsed = OverridesParser.create().parse_overrides(split_arguments(arguments)[0])
    swept = {override.get_key_element() for override in parsed if override.is_sweep_override()}
    return ",".join(override.replace("/", "_") for override in job if override.partition("=")[0] in swept)


def _refuse_unknown_keys(cfg: Any, schema: type, prefix: str) -> None:
    """Refuses keys that are added with +key=value: Hydra's schema lets them pass, but nothing would read them."""
    known = {field.name: field.type for field in fields(schema)}
    for key in cfg:
        if key not in known:
            raise UserError(f"{prefix}{key}", "there is no such key", _nearest(str(key), list(known), prefix))
        node = cfg._get_node(key)
        if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
            node_type = OmegaConf.get_type(node)
            if node_type is not None and is_dataclass(node_type):
                _refuse_unknown_keys(node, node_type, f"{prefix}{key}.")


def _refuse_unread_keys(cfg: DictConfig, overrides: list[str]) -> None:
    """Refuses settings that no stage of the recipe reads; its stages are all of them, whichever are run now."""
    stages = {*OmegaConf.load(CONF_DIR / "recipe" / f"{cfg.recipe}.yaml").stages, *cfg.stages}
    read = {
        key for stage in stages for key in (*STAGES[stage].config, *STAGES[stage].world, *STAGES[stage].judged)
    } | set(FOR_EVERY_RECIPE)
    read |= {"model.answer_tokens"} if "sampling" in read else set()  # sampling.max_new_tokens is read from it
    for override in overrides:
        key = key_of(override)
        related = any(f"{key}.".startswith(f"{known}.") or f"{known}.".startswith(f"{key}.") for known in read)
        if not related and OmegaConf.select(cfg, key) is not None:
            raise UserError(key, f"it would have no effect: no stage of {cfg.recipe} reads it", "leave it out")


def _refuse_missing_keys(cfg: DictConfig) -> None:
    if OmegaConf.is_missing(cfg, "recipe"):
        recipes = ", ".join(f"+recipe={path.stem}" for path in sorted((CONF_DIR / "recipe").glob("*.yaml")))
        raise UserError("recipe", "no recipe is chosen", f"add one of {recipes}")
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise UserError(missing[0], "a value is required", f"set {missing[0]}=...")


def _in_plain_words(error: Exception) -> UserError:
    """An error of Hydra or OmegaConf as a line: the key, what is wrong, what would be right."""
    cause = error.__cause__ or error
    if isinstance(error, MissingConfigException):
        group, _, option = (error.missing_cfg_file or "").rpartition("/")
        options = [name for name in error.options or [] if not name.endswith("schema")]
        return UserError(group or "config", f"there is no {option!r}", f"choose one of {', '.join(options)}")
    if isinstance(error, OverrideParseException):
        return UserError(error.override or "command line", "cannot be read", "write key=value, lists as key=[a,b]")
    if isinstance(cause, ConfigKeyError | AttributeError) and getattr(cause, "full_key", None):
        key = str(cause.full_key)
        prefix, _, last = key.rpartition(".")
        known = [field.name for field in fields(cause.object_type)] if is_dataclass(cause.object_type) else []
        if options := _options_with(prefix, last):
            return UserError(key, f"the chosen {prefix} has none", f"add {' or '.join(options)}, which has")
        return UserError(key, "there is no such key", _nearest(last, known, f"{prefix}." if prefix else ""))
    if isinstance(cause, ValidationError):
        return UserError(str(cause.full_key), _first_line(cause), "conf/ explains what it takes")
    if isinstance(cause, InterpolationKeyError):
        return UserError(str(cause.full_key), _first_line(cause), "set the key it refers to")
    if isinstance(error, ConfigCompositionException):
        return _composition_error(str(error))
    return UserError("command line", _first_line(error), "see --help")


def _composition_error(message: str) -> UserError:
    if match := re.match(r"Could not override '(.+?)'\. No match in the defaults list", message):
        return UserError(match[1], "recipes are added, not overridden", f"write +{match[1]}=...")
    if match := re.match(r"Ambiguous value for argument '(.+?)=(.*)'", message):
        key, values = match.groups()
        return UserError(key, f"{values} is ambiguous", f"write {key}=[{values}], or -m to run each in turn")
    return UserError("command line", message.splitlines()[0].rstrip("."), "see --help")


def _options_with(group: str, key: str) -> list[str]:
    """Options of a group that have a key which the chosen one lacks: those alone that need it to be set, if there are
    such, as data=file needs a path."""
    found: dict[bool, list[str]] = {True: [], False: []}
    for file in sorted((CONF_DIR / group).glob("*.yaml")) if group else []:
        keys = OmegaConf.load(file)
        if key in keys.keys():  # noqa: SIM118 (without it, one that must be set isn't there)
            found[OmegaConf.is_missing(keys, key)].append(f"{group}={file.stem}")
    return found[True] or found[False]


def _nearest(key: str, known: list[str], prefix: str) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    if close:
        return f"did you mean {prefix}{close[0]}?"
    return f"the keys here are {', '.join(known)}" if known else "see --cfg job for all keys"


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".")
