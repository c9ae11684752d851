"""The preference pairs a run is given: the world's, or those of data sets and files, read once and kept in its folder.

Evaluation prompts never reach a training: the prompts of every evaluation set at hand are kept out of the pairs.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from alignment.data import mmlu, rewardbench
from alignment.data.columns import Loaded, text_message
from alignment.data.pair_corrections import Correction, corrected, in_words, read_corrections
from alignment.data.places import files_of
from alignment.data.preference_pairs import Source, Wanted, check_sources, prepare
from alignment.data.prompt_sets import PROMPT_SETS, is_own_file, prompt_files, prompts_in
from alignment.data.row_table import RowTable
from alignment.data.same_prompts import KeptOut, kept_out_of
from alignment.data.world_pairs import drawing, world_evaluation_pairs, world_pairs
from alignment.runs import artifacts
from alignment.runs.manifest import Manifest, hash_file, versions, why_made
from alignment.runs.once import once
from alignment.runs.ranks import Ranks
from alignment.runs.run_files import QUARANTINE, RunDir
from alignment.types import Message, UserError

ENOUGH = 10  # training pairs at least
HELDOUT_PATH = "data.heldout_path"
KEPT_OUT = (*PROMPT_SETS, "mmlu", "rewardbench")


def given_pairs(cfg: DictConfig, run: RunDir, ranks: Ranks) -> tuple[Loaded, Loaded]:
    """Training pairs and held-out ones, corrected. Lines that made no pair are listed in the run's data folder."""
    data, corrections = cfg.data, corrections_of(cfg)
    if corrections and once.first(line := f"  corrections of {data.corrections}: {in_words(corrections)}"):
        ranks.say(line)
    if data.name == "world":
        return corrected(*world_pairs(data.pairs, data.heldout, drawing(data)), corrections)
    folder = ranks.from_main(lambda: _prepared(cfg, run, ranks))
    parts = (Loaded(RowTable.open(folder / f"{name}.arrow")) for name in ("train", "heldout"))
    return corrected(*parts, corrections)


def corrections_of(cfg: DictConfig) -> list[Correction]:
    """The corrections that the settings name; none where they name no file."""
    return [] if cfg.data.corrections is None else read_corrections(cfg.data.corrections)


def set_aside(cfg: DictConfig, run: RunDir) -> list[dict]:
    """The lines of the data that made no pair, with file, line and reason."""
    if cfg.data.name == "world":
        return []
    return [json.loads(line) for line in (run.data / QUARANTINE).read_bytes().splitlines()]


def evaluated_on(cfg: DictConfig) -> dict[str, set[int]]:
    """The prompts of each set that this run evaluates on, as hashes; none of the world, whose sets share no prompt."""
    if cfg.data.name == "world":
        return {}
    kept = _kept_out({name: _files(name, cfg.evaluation.folder) for name in _prompt_sets(cfg)})
    return {name: of_set.hashes for name, of_set in kept.items()}


def _prompt_sets(cfg: DictConfig) -> list[str]:
    """The sets that the run evaluates on, or that choose between its policies."""
    named = [*(cfg.evaluation.sets or []), *(cfg.evaluation.validation_sets or [])]
    return [name for name in dict.fromkeys(named) if name in PROMPT_SETS or is_own_file(name)]


def require_enough(cfg: DictConfig, run: RunDir, train: Loaded, heldout: Loaded) -> None:
    """Refuses too few training pairs to learn from, and no held-out pair to see how well."""
    if len(train.rows) < ENOUGH or not len(heldout.rows):
        data = cfg.data
        reasons = "; ".join(f"line {row['line']}: {row['reason']}" for row in set_aside(cfg, run)[:3])
        usable = f"{len(train.rows)} usable training pairs and {len(heldout.rows)} held-out ones"
        raise UserError(
            "data.path" if data.name == "file" else "data",
            f"{data.get('path') or data.name} has {usable}",
            f"give at least {ENOUGH} and 1 ({reasons or 'no row is bad'})",
        )


def evaluation_pairs(cfg: DictConfig) -> dict[str, Loaded]:
    """The world's clean sets; real data has none."""
    return world_evaluation_pairs(cfg.data.evaluation, drawing(cfg.data)) if cfg.data.name == "world" else {}


def sources(data: DictConfig) -> list[Source]:
    """The sources that the settings name: one set or file, or the parts of a mixture."""
    parts = data.parts if data.name == "mixture" else [data]
    named = [Source(name=part.set if data.name == "mixture" else data.name, **_fields(part)) for part in parts]
    check_sources(named)
    return named


def heldout_source(data: DictConfig) -> Source | None:
    """The user's own held-out pairs, in the columns of the training pairs."""
    if data.get("heldout_path") is None:
        return None
    return Source("file", data.heldout_path, dict(data.columns or {}), key=HELDOUT_PATH)


def _fields(part: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(part, resolve=True)
    names = ("path", "columns", "split", "preference", "weight")
    return {name: plain[name] for name in names if plain.get(name) is not None}


def fingerprint(cfg: DictConfig) -> str:
    """A hash of the files outside the run folder that shape the pairs: their own, and those of sets kept out."""
    own = heldout_source(cfg.data)
    read = [*sources(cfg.data), *([own] if own else [])]
    named = [(file.name, file) for source in read for file in source.files(cfg.data.folder)]
    named += [(name, file) for name, files in _evaluation_files(cfg).items() for file in files]
    lines = [f"{name} {_hash(file, file.stat().st_mtime_ns)}\n" for name, file in named]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@cache
def _hash(file: Path, changed: int) -> str:
    return hash_file(file)


def _evaluation_files(cfg: DictConfig) -> dict[str, list[Path]]:
    """The files of every evaluation set that is kept out of the pairs.

    Those are all sets at hand without a download, or the sets that are named; and all sets the run evaluates on.
    """
    data = cfg.data
    named = [] if data.keep_out == "all" else data.keep_out
    unknown = [named] if isinstance(named, str) else [name for name in named if name not in KEPT_OUT]
    if unknown or (data.keep_out != "all" and not named):
        problem = f"{unknown[0]} names no evaluation set" if unknown else "it is empty"
        raise UserError("data.keep_out", problem, f"give all, or some of {', '.join(KEPT_OUT)}")
    rankings = list(cfg.scorecard.rankings or [])
    evaluated = _prompt_sets(cfg)
    evaluated += ["rewardbench"] * ("rewardbench" in rankings) + ["mmlu"] * (cfg.scorecard.mmlu.questions > 0)
    files = {name: _files(name, cfg.evaluation.folder) for name in evaluated}
    files |= {path: [Path(path)] for path in rankings if path != "rewardbench"}
    for name in named or KEPT_OUT:
        if name not in files:
            files[name] = _files(name, data.folder, download=data.keep_out != "all")
    return {name: files[name] for name in sorted(files) if files[name]}


def _files(name: str, folder: str, download: bool = True) -> list[Path]:
    if name in ("mmlu", "rewardbench"):
        return files_of(name, folder, "test" if name == "mmlu" else None, download)
    return prompt_files(name, folder, download)


def why_read(cfg: DictConfig, run: RunDir) -> str | None:
    """Why the given pairs have to be read; None if they are there, made from these settings and files."""
    return why_made(run.data, _manifest(cfg))


def _manifest(cfg: DictConfig) -> Manifest:
    settings = {**OmegaConf.to_container(cfg.data, resolve=True), "folder": None, "corrections": None}
    own_version = {name: version for name, version in versions().items() if name == "repalign"}
    return Manifest("data", settings, {"files": fingerprint(cfg)}, own_version)


def _prepared(cfg: DictConfig, run: RunDir, ranks: Ranks) -> Path:
    """The folder with the pairs; it is made anew if anything it was made from differs, or a file in it is damaged."""
    data, manifest = cfg.data, _manifest(cfg)
    if why_made(run.data, manifest) is None:
        return run.data
    work = run.work("data")
    shutil.rmtree(work, ignore_errors=True)
    kept_out = _kept_out(_evaluation_files(cfg), list(cfg.scorecard.rankings or []))
    wanted = Wanted(heldout_source(data) or data.heldout, data.seed, data.rows)
    watch = partial(ranks.progress, total=None, unit="line")
    counts = prepare(sources(data), data.folder, wanted, kept_out, work, watch)
    _require_pairs(data, counts, work)
    artifacts.publish(work, run.data, manifest)
    _say(counts, ranks)
    return run.data


def _require_pairs(data: DictConfig, counts: Mapping[str, Any], folder: Path) -> None:
    """Refuses data without a usable row, with the reason of the first; and held-out pairs of one's own likewise."""
    if heldout_source(data) is None:
        _require_some("data.path", data, counts["train"] + counts["heldout"], counts["sources"], folder)
    else:
        _require_some("data.path", data, counts["train"], counts["sources"][:-1], folder)
        _require_some(HELDOUT_PATH, data, counts["heldout"], counts["sources"][-1:], folder)


def _require_some(key: str, data: DictConfig, pairs: int, sources: list[dict], folder: Path) -> None:
    if pairs:
        return
    files = {file for source in sources for file in source["files"]}
    with open(folder / QUARANTINE, encoding="utf-8") as lines:
        bad = (row for row in map(json.loads, lines) if Path(row["source"]).name in files)
        first = next(bad, None)
    read = sum(source["read"] for source in sources)
    problem = f"no pair can be made of its {read} lines" if read else "it has no rows"
    why = "" if first is None else "; line {line}: {reason}".format(**first)
    name = data.get(key.removeprefix("data.")) or data.name
    needs = "it needs prompt, chosen and rejected (or two conversations without prompt); or map data.columns"
    raise UserError(key, f"{name}: {problem}{why}", needs)


def _kept_out(files: Mapping[str, list[Path]], ranked: Sequence[str] = ()) -> dict[str, KeptOut]:
    """What the files of evaluation sets ask. ranked: those of them that are files of pairs."""
    read = {name: _prompts_in(name, paths, ranked) for name, paths in files.items()}
    return kept_out_of(
        {name: asked for name, (asked, _) in read.items()}, {name: also for name, (_, also) in read.items()}
    )


def _prompts_in(name: str, files: list[Path], ranked: Sequence[str]) -> tuple[list[list[Message]], list[list[Message]]]:
    """The prompts of a set of prompts, of MMLU, or of pairs as RewardBench has them; and texts that ask the same."""
    if name == "mmlu":
        return [text_message("user", row["question"]) for row in mmlu.questions_in(files, "test").rows], []
    if name in PROMPT_SETS or (is_own_file(name) and name not in ranked):
        rows = prompts_in(name, files).rows
        return [row["prompt"] for row in rows], [text_message("user", t) for row in rows for t in row.get("also", ())]
    return [row["prompt"] for row in rewardbench.pairs_in(files).rows], []


def _say(counts: Mapping[str, Any], ranks: Ranks) -> None:
    for source in counts["sources"]:
        files = ", ".join(source["files"])
        ranks.say(
            f"  {source['name']} ({files}): {source['read']:,} lines read, {source['used']:,} used, "
            f"{source['quarantined']:,} quarantined (data/{QUARANTINE} says why)"
        )
        if source["releases"]:
            ranks.say("  of its releases: " + "; ".join(f"{n:,} {name}" for name, n in source["releases"].items()))
        leaked = ", ".join(f"{name} {count}" for name, count in sorted(source["leaked"].items()))
        if leaked:
            ranks.say(f"  pairs whose prompt an evaluation set asks, kept out: {leaked}")
    ranks.say(f"  {counts['train']:,} training pairs, {counts['heldout']:,} held out")
    for key, words in (("not_drawn", "not drawn (data.rows, weights)"), ("repeated_across_sources", "there twice")):
        if any(counts[key].values()):
            ranks.say(f"  pairs {words}: {counts[key]['train']:,} and {counts[key]['heldout']:,}")
    none = "none: data.folder has none of them, so their prompts may be among the pairs (docs/data.md)"
    ranks.say(f"  evaluation sets looked at: {', '.join(counts['kept_out']) or none}")
