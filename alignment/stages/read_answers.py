"""Stage read_answers: the states of all labelled answers that a guard is fitted on or tried on, read once.

Of each distinct answer the states of all layers are kept, at both places that a guard reads (models/answer_states.py),
and those of the prompts alone that it learns from.
Answers that are too long are cut, and counted. Under guard.fit=judge no answer is kept to a prompt that a policy of
this run learns from, is validated on or is evaluated on, or to nearly one, in any turn of the user.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
from omegaconf import DictConfig
from safetensors.torch import load, save

from alignment.data.columns import MESSAGES, Loaded
from alignment.data.guard_answers import guard_answers, require_both
from alignment.data.near_duplicates import any_turn_near, near_duplicate_groups, signatures
from alignment.data.prompt_folds import dealt_folds
from alignment.data.same_prompts import opening
from alignment.inputs.job import Job
from alignment.models.answer_states import PLACES, StateReader, Text, answer_text, as_item, prompt_alone, together
from alignment.models.architecture import layer_count
from alignment.models.devices import device, to_host
from alignment.models.guard import KNOWN
from alignment.models.guard_fit import require_both as require_enough
from alignment.models.guard_fit import wanted_layers
from alignment.models.kept_states import KeptStates, Part, StatesMeaning, in_half, text_key, write_states
from alignment.models.load import load_backbone
from alignment.models.packing import Packing, answer_order
from alignment.models.source import loaded_as, model_source, named, shape_of
from alignment.policies.run_prompts import run_prompts
from alignment.runs import artifacts
from alignment.runs.batches import Pending, compute_in_batches
from alignment.runs.manifest import Rows
from alignment.types import UserError

AT_ONCE = 256  # texts whose kept states are copied at once
FITTED = "fitted"  # the part of the answers that the guard learns from; other parts are named after their sets
ANSWER_COLUMNS = pa.schema(
    [
        ("part", pa.string()), ("id", pa.string()), ("source", pa.string()), ("prompt", MESSAGES),
        ("response", pa.string()), ("toxic", pa.bool_()), ("category", pa.string()), ("harmless", pa.string()),
        ("group", pa.int64()),
        ("tokens", pa.int32()), ("cut", pa.bool_()), ("key", pa.string()),
        ("prompt_key", pa.string()),
    ]
)  # fmt: skip


def run(job: Job) -> Rows:
    cfg, settings, ranks = job.cfg, job.cfg.guard, job.ranks
    source = model_source(cfg.model)
    parts = {FITTED: guard_answers([*settings.answers, *settings.harmless], cfg.judge.folder)}
    parts |= {name: guard_answers([name], cfg.judge.folder, both=False) for name in settings.transfer}
    if settings.fit == "judge":
        left_out = _leave_out(
            parts[FITTED],
            run_prompts(cfg, job.run, ranks),
            "a policy of this run learns from its prompt, or is asked it",
        )
        if not parts[FITTED].rows:
            problem = f"all {left_out:,} answers are to prompts that this run's policies learn from, or are asked"
            raise UserError(
                "guard.answers", problem, "give others, or guard.fit=benchmark for a guard that judges none"
            )
        ranks.say(
            f"  {left_out:,} answers are left out: a policy of this run learns from their prompts, or is asked them"
        )
    _draw(parts[FITTED], settings.count, cfg.seed)
    require_both(parts[FITTED].rows, [*settings.answers, *settings.harmless])
    _require_fit(parts[FITTED], settings, cfg.seed)
    wanted_layers(settings.layers, shape_of(source)[0])
    loaded = load_backbone(source, device())
    layers = layer_count(loaded.model)
    reader = StateReader(loaded, range(1, layers + 1), Packing(**cfg.packing))
    limit = min(settings.max_length, reader.limit)
    rows, texts = [], []
    for part, answers in parts.items():
        read = answers.readable(lambda row: answer_text(loaded, row["prompt"], row["response"], limit), part)
        groups = near_duplicate_groups(_openings(answers))
        alone = [prompt_alone(text) if part == FITTED else None for text in read]
        texts += [*read, *(text for text in alone if text is not None)]
        rows += [
            {
                "part": part,
                **row,
                "harmless": _harmless(row, settings.harmless),
                "group": group,
                "tokens": len(text.answer),
                "cut": text.cut,
                "key": _key(text).hex(),
                "prompt_key": None if prompt is None else _key(prompt).hex(),
            }
            for row, text, prompt, group in zip(answers.rows, read, alone, groups.tolist(), strict=True)
        ]
    cut, prompts = sum(row["cut"] for row in rows), len({(row["part"], row["group"]) for row in rows})
    ranks.say(f"  {len(rows):,} answers to {prompts:,} prompts, {cut:,} of them cut at {limit} tokens")
    known = reader.known_text(KNOWN)
    distinct = list({_key(text): text for text in [*texts, known]}.values())
    meaning = StatesMeaning(
        source.fingerprint, str(loaded.model.dtype).removeprefix("torch."), "+".join(PLACES),
        len(PLACES) * layers, shape_of(source)[1],
        hashlib.sha256(str(loaded.tokenizer.get_chat_template()).encode()).hexdigest()[:16], limit,
    )  # fmt: skip
    there = _there(job, meaning)
    unread = [text for text in distinct if there is None or not there.has([_key(text)])]
    if there is not None:
        ranks.say(f"  the states of {len(distinct) - len(unread):,} texts are there, {len(unread):,} are read")
    batches = _read(job, unread, reader)
    needed = {_key(text) for text in distinct} - {_key(text) for text in unread}

    def both() -> Iterator[Part]:
        for start in range(0, len(needed), AT_ONCE):
            keys = sorted(needed)[start : start + AT_ONCE]
            yield keys, in_half(there.states(keys), loaded.model.dtype)
        yield from batches()

    if ranks.main:
        write_states(job.out / job.run.answer_states.name, both, meaning)
        artifacts.write_rows(job.out / job.run.guard_answers.name, rows, ANSWER_COLUMNS)
        record = {"model": named(source), "loaded_as": loaded_as(source), "known": _key(known).hex()}
        artifacts.write_json(job.out / job.run.answers_record.name, {**record, **asdict(meaning)})
    quarantined = [row for answers in parts.values() for row in answers.quarantined]
    return job.set_aside(quarantined, len(rows) + len(quarantined))


def _require_fit(answers: Loaded, settings: DictConfig, seed: int) -> None:
    """UserError for answers that no guard can be fitted on, before a model is loaded."""
    folds = dealt_folds(near_duplicate_groups(_openings(answers)), settings.folds, seed, "guard.folds")
    require_enough(np.array([row["toxic"] for row in answers.rows]), folds)


def _openings(answers: Loaded) -> list[str]:
    return [opening(row["prompt"])["content"] for row in answers.rows]


def _leave_out(answers: Loaded, asked: Sequence[str], why: str) -> int:
    """Sets aside the answers to prompts that are nearly one of those that are asked; says how many."""
    prompts = [row["prompt"] for row in answers.rows]
    near_one = any_turn_near(prompts, signatures(list(dict.fromkeys(asked))))
    for row in (answers.rows[i] for i in np.flatnonzero(near_one)):
        answers.quarantine(row["source"], None, f"{row['id']}: {why}")
    answers.keep(np.flatnonzero(~near_one).tolist())
    return int(near_one.sum())


def _draw(answers: Loaded, count: int, seed: int) -> None:
    """At most `count` answers, drawn by the seed, in their own order."""
    if len(answers.rows) > count:
        drawn = np.random.default_rng(seed).permutation(len(answers.rows))[:count]
        answers.keep(sorted(drawn.tolist()))


def _there(job: Job, meaning: StatesMeaning) -> KeptStates | None:
    """States that an earlier call kept under other settings, read by the same model in the same way."""
    if not job.run.answer_states.exists():
        return None
    there = KeptStates.open(job.run.answer_states)
    return there if there.meaning == meaning else None


def _harmless(row: dict, sources: Sequence[str]) -> str | None:
    """Which of the sources of harmless prompts the answer is from, if from any."""
    names = {Path(source).name: source for source in sources}  # of a file its name, of a set that before its model
    return None if row["toxic"] else names.get(row["source"].partition("/")[0])


def _key(text: Text) -> bytes:
    return text_key([*text.prompt, *text.answer])


def _read(job: Job, texts: list[Text], reader: StateReader) -> Callable[[], Iterator[Part]]:
    """Reads all texts in planned batches; gives, as often as it is asked, each batch's keys and states."""
    if not texts:
        return lambda: iter(())
    tokens, dtype = job.cfg.guard.batch_tokens, reader.loaded.model.dtype
    numbers = together(texts, tokens)
    items = [as_item([texts[i] for i in some]) for some in numbers]
    layout = reader.layout(items)

    def compute(batch: list[int]) -> Pending:
        states = to_host(reader.states_of([items[i] for i in batch], layout))
        return lambda: save({"states": in_half(states(), dtype)})

    sizes = [layout.size(item) for item in items]
    batches = compute_in_batches(job.work / "states", "reading answers", sizes, tokens, compute, job.ranks)

    def parts() -> Iterator[Part]:
        for batch, content in batches:
            order = answer_order([items[i] for i in batch])
            yield [_key(texts[numbers[batch[place]][which]]) for place, which in order], load(content)["states"]

    return parts
