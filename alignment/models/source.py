"""Which model a run uses, before anything is loaded: a folder, or a name and commit on the hub, and its fingerprint.

A GGUF file, and the model of a package, become a folder of the cache here, once.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from alignment.data.hub import unreachable
from alignment.models.gguf_conversion import converted
from alignment.models.model_card import CARD
from alignment.models.smollm2 import GGUF, GGUF_HASH, smollm2_folder
from alignment.runs.manifest import hash_file
from alignment.types import Dtype, UserError
from alignment.world.identity import LANGUAGE_MODEL, model_hash

WEIGHTS = (".safetensors", ".bin")
NAMED = ("world", "smollm2")  # the models that are always the same one; any other has a path
HASHED_WHOLE = 64 * 2**20  # bytes; larger files, shards of weights, are known by size and time of change


@dataclass(frozen=True)
class ModelSource:
    """What from_pretrained takes, and how conversations are written; `fingerprint` changes when the weights do.

    gguf: the name of the file that the folder was converted from.
    """

    path: str
    revision: str | None = None
    fingerprint: str = ""
    gguf: str | None = None
    dtype: Dtype = "auto"
    chat_template: str | None = None
    thinking: bool = False


def model_source(model: Any) -> ModelSource:
    """The model of a run. model: the keys of a file in conf/model/."""
    source = source_at(model.name) if model.name in NAMED else source_at(model.path, gguf_file=model.gguf_file)
    return replace(source, dtype=model.dtype, chat_template=model.chat_template, thinking=model.thinking)


@cache
def source_at(path: str, key: str = "model.path", gguf_file: str | None = None) -> ModelSource:
    """A folder, a GGUF file or a name on the hub; "world" names the world's own model, which is shipped: see
    `ready_path`, and "smollm2" that of a package.

    key: the setting that gave the path, which errors name. gguf_file: which of a folder's GGUF files it is.
    """
    if path == "world":
        return ModelSource("world", fingerprint=f"world {model_hash()}")
    if path == "smollm2":
        return ModelSource(str(smollm2_folder()), fingerprint=f"{path} {GGUF_HASH}", gguf=GGUF)
    folder = Path(path).expanduser()
    if gguf := _gguf(folder, key, gguf_file):
        file_hash = hash_file(gguf)
        return ModelSource(str(converted(gguf, file_hash, key)), fingerprint=f"gguf {file_hash}", gguf=gguf.name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(key, f"{path} holds no config.json", "give a folder that save_pretrained wrote")
        return ModelSource(str(folder), fingerprint=folder_fingerprint(folder))
    if folder.exists() or path.startswith(("/", ".", "~")) or path.count("/") > 1:
        raise UserError(key, f"{path} is not a folder", "give a folder that save_pretrained wrote, or a hub name")
    commit = _hub_commit(path, key)
    return ModelSource(path, commit, f"{path}@{commit}")


def known_as(source: ModelSource) -> tuple[str, str]:
    """A model's name for those who don't have this machine's folders, and what tells its version."""
    if source.path == "world":
        return "repalign-world", f"the embedded world's language model, `{model_hash()}`"
    if source.revision is not None:
        return source.path, f"commit `{source.revision[:12]}`"
    if source.gguf is not None:
        file_hash = source.fingerprint.split()[-1]
        return Path(source.gguf).stem, f"dequantised from the GGUF file with the hash `{file_hash[:16]}`"
    folder = Path(source.path).resolve()
    cached = next((part for part in folder.parts if part.startswith("models--")), None)  # the hub's cache
    name = cached.removeprefix("models--").replace("--", "/") if cached else folder.name
    return name, f"a folder whose files have the hash `{source.fingerprint[:16]}`"


def loaded_as(source: ModelSource) -> str | None:
    """What source_at takes on any machine; None for a folder or a file of this one."""
    if source.path in NAMED or source.revision is not None:
        return source.path
    return source.fingerprint.split()[0] if source.fingerprint.startswith("smollm2 ") else None


def named(source: ModelSource) -> str:
    """Its name and version in a line without a path of this machine."""
    name, version = known_as(source)
    return f"{name} ({version.replace('`', '')})"


def ready_path(source: ModelSource) -> str:
    """The path to load from."""
    return str(LANGUAGE_MODEL) if source.path == "world" else source.path


def shape_of(source: ModelSource) -> tuple[int, int]:
    """How many layers a model has, and how wide its states are, by its configuration alone."""
    config = configuration(source).get_text_config()
    return config.num_hidden_layers, config.hidden_size


def kind_of(source: ModelSource) -> str:
    """The architecture of a model, as its configuration names it."""
    return configuration(source).model_type


def configuration(source: ModelSource) -> Any:
    from transformers import AutoConfig  # here, since this module is imported before anything is loaded

    return AutoConfig.from_pretrained(ready_path(source), revision=source.revision)


def require_weights(source: ModelSource, key: str) -> None:
    """UserError if the weights are neither here nor on the hub. It looks at names of files and loads nothing."""
    if source.path == "world":
        return
    if source.revision is None:
        if missing := _missing_weights(Path(source.path)):
            raise UserError(key, f"{source.path} holds {missing}", "give a folder that save_pretrained wrote, whole")
        return
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HTTPError  # of the HTTP library that the hub's client uses

    cached = try_to_load_from_cache(source.path, "config.json", revision=source.revision)
    if isinstance(cached, str) and not _missing_weights(Path(cached).parent):
        return
    why = unreachable() or "the hub can't be reached"
    try:
        names = HfApi().list_repo_files(source.path, revision=source.revision)
    except (OSError, HTTPError) as error:
        problem = f"the weights of {source.path} are not in the cache, and {why}"
        raise UserError(key, problem, "give a folder, or download it first") from error
    if not any(name.endswith(WEIGHTS) for name in names):
        raise UserError(key, f"{source.path} holds no weights", "name a model in transformers' format")


def _gguf(path: Path, key: str, name: str | None) -> Path | None:
    """The GGUF file that a path means: itself, the one of a folder without another model, or the one named."""
    if path.is_file() and path.suffix.lower() == ".gguf":
        if name is not None:
            raise UserError("model.gguf_file", f"{path} is a file already", "leave it out")
        return path
    if name is not None:
        if not (path / name).is_file():
            raise UserError("model.gguf_file", f"{path} holds no {name}", "give the name of a file in this folder")
        return path / name
    if not path.is_dir() or (path / "config.json").is_file():
        return None
    files = sorted(file.name for file in path.glob("*.gguf"))
    if len(files) > 1:
        problem = f"{path} holds several GGUF files: {', '.join(files)}"
        raise UserError(key, problem, f"choose one: model.gguf_file={files[0]}")
    return path / files[0] if files else None


def _missing_weights(folder: Path) -> str | None:
    """What a model's folder lacks, in words; None if nothing."""
    names = {file.name for file in folder.iterdir() if file.name.endswith(WEIGHTS) and file.stat().st_size}
    for index in folder.glob("*.index.json"):
        try:
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError):
            return f"an {index.name} that can't be read"
        if lost := sorted(shards - names):
            return f"no {lost[0]}"
    return None if names else "no weights"


def folder_fingerprint(folder: Path) -> str:
    """Of all that a model may be read from: its card is written anew by evaluations, and hidden files are a tool's."""
    digest = hashlib.sha256()
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        if hidden or file.name == CARD:
            continue
        facts = file.stat()
        content = hash_file(file) if facts.st_size <= HASHED_WHOLE else f"{facts.st_size} {facts.st_mtime_ns}"
        digest.update(f"{file.relative_to(folder)} {content}\n".encode())
    return digest.hexdigest()


def _hub_commit(name: str, key: str) -> str:
    """The commit that `main` names now; offline, the one in the local cache."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    why = unreachable() or "the hub can't be reached"
    try:
        return Path(hf_hub_download(name, "config.json")).parent.name
    except GatedRepoError as error:
        raise UserError(key, f"{name} asks for permission", "accept its terms and set HF_TOKEN") from error
    except LocalEntryNotFoundError as error:
        problem = f"{name} is not a folder, and {why}"
        raise UserError(key, problem, "give a folder, or download it first") from error
    except EntryNotFoundError as error:
        raise UserError(key, f"{name} holds no config.json", "name a model in transformers' format") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UserError(key, f"{name} is neither a folder nor a model on the hub", "check the name") from error
