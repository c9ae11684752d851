"""Where a data set's files are: a local copy first, then the hub or its cache.

A local copy lies below one folder (`data.folder`): laid out as on the hub, in a folder with the set's or the
repository's name (alpaca_eval/, tatsu-lab/alpaca_eval/), or laid out as `local` says, as the sets' authors publish
them.
"""

from dataclasses import dataclass
from pathlib import Path

from alignment.data.hub import unreachable
from alignment.types import UserError


@dataclass(frozen=True)
class Place:
    """File patterns of a set. "{split}" stands for the name of a split; every pattern must match a file."""

    repository: str | None  # on the hub; None: the set isn't there
    hub: tuple[str, ...] = ()
    local: tuple[tuple[str, ...], ...] = ()  # other layouts of a local copy; the first that is there is taken
    splits: tuple[str, ...] = ()
    revision: str | None = None  # a branch, tag or commit; None: the default branch


# Layouts on the hub as of their data cards. `walledai`'s sets are gated: the hub wants an account that accepted terms.
PLACES: dict[str, Place] = {
    # Preferences.
    "pku_saferlhf": Place(
        "PKU-Alignment/PKU-SafeRLHF",
        ("data/Alpaca-7B/{split}.jsonl", "data/Alpaca2-7B/{split}.jsonl", "data/Alpaca3-8B/{split}.jsonl"),
        (("pku_saferlhf/safe_unsafe_pairs.json", "pku_saferlhf/Alpaca-7B_test_3rows.jsonl"),),
        ("train", "test"),
    ),
    "pku_saferlhf_10k": Place("PKU-Alignment/PKU-SafeRLHF-10K", ("*{split}*.jsonl*",), splits=("train", "test")),
    "pku_saferlhf_30k": Place(
        "PKU-Alignment/PKU-SafeRLHF-30K",
        ("*{split}*.jsonl*",),
        (("pku_saferlhf/safe_unsafe_pairs.json",),),
        ("train", "test"),
    ),
    "beavertails": Place(
        "PKU-Alignment/BeaverTails",
        ("round0/330k/{split}.jsonl.xz",),
        (("beavertails/Safe-RLHFmini.csv",),),
        ("train", "test"),
    ),
    "hh_harmless": Place(
        "Anthropic/hh-rlhf",
        ("harmless-base/{split}.jsonl.gz",),
        (("hh_rlhf/harmless-base/{split}.jsonl.gz",),),
        ("train", "test"),
    ),
    "hh_helpful": Place(
        "Anthropic/hh-rlhf",
        ("helpful-base/{split}.jsonl.gz",),
        (("hh_rlhf/helpful-base/{split}.jsonl.gz",),),
        ("train", "test"),
    ),
    "helm_graded": Place(None, local=(("helm_safety_graded/graded.jsonl",),)),
    # Prompts, some with labelled answers.
    "red_team": Place(
        "Anthropic/hh-rlhf",
        ("red-team-attempts/red_team_attempts.jsonl.gz",),
        (("hh_rlhf/red-team-attempts/red_team_attempts.jsonl.gz",),),
    ),
    "do_not_answer": Place("LibrAI/do-not-answer", ("data/train-*.parquet",), (("do_not_answer/data_en.csv",),)),
    "salad": Place("OpenSafetyLab/Salad-Data", ("base_set.json",), (("salad/mcq_set.json",),)),
    "xstest": Place("walledai/XSTest", ("data/*.parquet",), (("xstest/xstest_prompts.csv",),)),
    "xstest_completions": Place(
        "natolambert/xstest-v2-copy",
        tuple(f"data/{name}-*.parquet" for name in "gpt4 llama2new llama2orig mistralguard mistralinstruct".split()),
        (("xstest/model_completions/*.csv",),),
    ),
    "advbench": Place("walledai/AdvBench", ("data/*.parquet",), (("advbench/harmful_behaviors.csv",),)),
    "harmbench": Place(
        "walledai/HarmBench",
        ("standard/*.parquet", "contextual/*.parquet", "copyright/*.parquet"),
        (("harmbench/harmbench_behaviors_text_all.csv",),),
    ),
    "simple_safety_tests": Place(
        "Bertievidgen/SimpleSafetyTests",
        ("sst_test_cases.csv",),
        (("simple_safety_tests/SimpleSafetyTests.csv",),),
    ),
    "alpaca_eval": Place(
        "tatsu-lab/alpaca_eval", ("alpaca_eval.json",), (("alpaca_eval/alpaca-7b.model_outputs.json",),)
    ),
    "beavertails_evaluation": Place(
        "PKU-Alignment/BeaverTails-Evaluation", ("*test*.json*",), (("beavertails/BeaverTails-Evaluation.json",),)
    ),
    "mmlu": Place("cais/mmlu", ("all/{split}-*.parquet",), (("mmlu/{split}/*_{split}.csv",),), ("dev", "test")),
    "rewardbench": Place(
        "allenai/reward-bench", ("data/filtered-*.parquet",), (("rewardbench/*.jsonl",), ("rewardbench/*.parquet",))
    ),
}


def files_of(name: str, folder: str, split: str | None = None, download: bool = True, instead: str = "") -> list[Path]:
    """The files of a set, or of one of its splits; without `split`, the files of every split that is there.

    A local copy that isn't split serves only sets asked for as a whole: it can't be both train and test.
    download=False: no files, if they are neither here nor in the hub's cache. instead: what else would do, as an error
    says it.
    """
    place = _place(name, split)
    splits = (split,) if split is not None else place.splits or (None,)
    roots = [] if place.repository is None else [Path(folder, name), Path(folder, place.repository)]
    local = [patterns for patterns in place.local if split is None or any("{split}" in p for p in patterns)]
    for root, patterns in [(root, place.hub) for root in roots] + [(Path(folder), patterns) for patterns in local]:
        if files := _matching(root, patterns, splits):
            return files
    looked_for = [f"{' + '.join(_named(patterns, splits))} below {folder}" for patterns in local]
    if place.repository is None:
        if not download:
            return []
        raise UserError(name, f"looked for {', '.join(looked_for)}", "put it there, or set data.folder")
    names = _named(place.hub, splits)
    snapshot = _download(place, names, download)
    if isinstance(snapshot, Path) and (files := _matching(snapshot, place.hub, splits)):
        return files
    if not download:
        return []
    why_not = snapshot if isinstance(snapshot, str) else _why_not_in_snapshot()
    looked_for.append(f"{' + '.join(names)} below {' or '.join(map(str, roots))} or on the hub in {place.repository}")
    raise UserError(
        name,
        f"looked for {', and for '.join(looked_for)} ({why_not})",
        "put them in one of these folders, set data.folder or REPALIGN_DATA to theirs, or run once with a network"
        + instead,
    )


def hub_file(key: str, path: str) -> Path:
    """One file of a data set on the hub, or in its cache: hf://datasets/owner/name/file, or name@revision."""
    parts = path.removeprefix("hf://datasets/").split("/", 2)
    if not path.startswith("hf://datasets/") or len(parts) < 3:
        raise UserError(key, f"{path} names no file of a data set", "write hf://datasets/owner/name/file")
    name, _, revision = parts[1].partition("@")
    repository = f"{parts[0]}/{name}"
    snapshot = _download(Place(repository, revision=revision or None), [parts[2]], allowed=True)
    if isinstance(snapshot, Path) and (snapshot / parts[2]).is_file():
        return snapshot / parts[2]
    why_not = snapshot if isinstance(snapshot, str) else "it holds no such file"
    raise UserError(key, f"{parts[2]} of {repository} on the hub: {why_not}", "check the name, or give a local file")


def _place(name: str, split: str | None) -> Place:
    if name not in PLACES:
        raise UserError(name, "there is no data set of that name", f"give one of {', '.join(PLACES)}")
    place = PLACES[name]
    if split is not None and split not in place.splits:
        remedy = f"give one of {', '.join(place.splits)}" if place.splits else "leave it null"
        raise UserError(name, f"has no split {split!r}", remedy)
    return place


def _named(patterns: tuple[str, ...], splits: tuple[str | None, ...]) -> list[str]:
    return list(dict.fromkeys(pattern.replace("{split}", split or "") for split in splits for pattern in patterns))


def _matching(root: Path, patterns: tuple[str, ...], splits: tuple[str | None, ...]) -> list[Path]:
    """The files of every split that is whole: each of its patterns matches something."""
    files: list[Path] = []
    for split in splits:
        matches = [_glob(root, pattern) for pattern in _named(patterns, (split,))]
        if all(matches):
            files += [file for match in matches for file in match]
    return list(dict.fromkeys(files))


def _glob(root: Path, pattern: str) -> list[Path]:
    """The files of a pattern, read as the hub reads it: a star at the beginning goes down into folders."""
    folder, _, last = pattern.rpartition("/")
    if last.startswith("*"):
        last = f"**/{last}"
    return sorted(file for file in root.glob(f"{folder}/{last}".lstrip("/")) if file.is_file())


def _why_not_in_snapshot() -> str:
    from huggingface_hub.constants import HF_HUB_OFFLINE

    return "offline, and not in the cache" if HF_HUB_OFFLINE else "which doesn't hold them"


def _download(place: Place, patterns: list[str], allowed: bool) -> Path | str:
    """The folder of the repository's snapshot, or why there is none. The hub's library is imported here, since local
    files don't need it."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_OFFLINE
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    why = unreachable() if allowed else None
    try:
        return Path(
            snapshot_download(
                place.repository,
                repo_type="dataset",
                revision=place.revision,
                allow_patterns=patterns,
                max_workers=2,
                local_files_only=not allowed,
            )
        )
    except GatedRepoError:
        return "gated: accept its terms on its page, then log in with `hf auth login`"
    except RepositoryNotFoundError:
        return "the hub has no such data set, or wants you logged in"
    except HfHubHTTPError as error:
        return f"the hub answered {error.response.status_code}"
    except LocalEntryNotFoundError as error:
        if why is not None:
            return why
        if HF_HUB_OFFLINE or isinstance(error.__cause__, OfflineModeIsEnabled):
            return "offline, and not all of it in the cache"
        if isinstance(error.__cause__, HfHubHTTPError):
            return f"the hub answered {error.__cause__.response.status_code}"
        return "the hub can't be reached"
    except OSError as error:  # a full disk, a cache that can't be written
        return f"downloading failed: {' '.join(str(error).split())}"
