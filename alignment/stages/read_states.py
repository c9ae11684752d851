"""Stage read_states: the states of all answers of the given pairs, read once for every stage that needs them.

Pairs share answers, and prompts even more: each distinct prompt with an answer is read once, and a prompt once for up
to six answers. Answers that don't fit whole aren't kept, and are read where a stage cuts them. Of more than
states.keep=auto keeps, the answers to some prompts are, all of a prompt's, so that stages find both of a pair.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict

from safetensors.torch import load, save

from alignment.data.cells import BadRow
from alignment.data.chat import Rendered
from alignment.data.columns import Loaded as LoadedRows
from alignment.data.same_prompts import text_hash
from alignment.inputs.job import Job
from alignment.inputs.pairs import evaluation_pairs, given_pairs
from alignment.models.activations import check_layers, response_states, states_layout
from alignment.models.architecture import layer_count
from alignment.models.devices import device, to_host
from alignment.models.kept_states import (
    Part,
    StatesMeaning,
    bytes_kept,
    in_half,
    item_keys,
    states_bytes,
    why_none,
    write_states,
)
from alignment.models.load import Loaded, load_backbone
from alignment.models.packing import Item, Packing, answer_order
from alignment.models.source import model_source, shape_of
from alignment.runs import artifacts
from alignment.runs.batches import Pending, compute_in_batches
from alignment.runs.manifest import Rows
from alignment.stages import too_few_take_states
from alignment.types import UserError

ANSWERS = 6  # of a prompt that are read together at most: attention in a row grows with its square


def run(job: Job) -> Rows:
    cfg, ranks = job.cfg, job.ranks
    source = model_source(cfg.model)
    train, heldout = given_pairs(cfg, job.run, ranks)
    parts = [train, heldout, *evaluation_pairs(cfg).values()]
    counts = _answers_by_prompt(parts)
    count, one = sum(counts.values()), states_bytes(1, *shape_of(source))
    most = bytes_kept(cfg.states.keep, count * one)
    drawn = drawn_prompts(counts, most // one, cfg.data.seed)
    why = ranks.from_main(lambda: _why_none(job, most))
    if why is None and not drawn:
        why = f"those to one prompt take more than {most / 1e9:.2f} GB"
    if why is not None:
        ranks.say(f"  of {count:,} distinct answers no states are kept: {why}")
        if ranks.main:
            artifacts.write_json(job.out / job.run.states_record.name, {"why_none": why, "distinct": count, "kept": 0})
        return Rows(count, count, 0)
    loaded = load_backbone(source, device())
    check_layers(loaded.model, loaded.tokenizer.eos_token_id)
    max_length = min(cfg.reward.max_length, loaded.context or cfg.reward.max_length)
    items = distinct_items(parts, loaded, max_length, cfg.reward.batch_tokens, drawn)
    if not items:
        raise UserError("read_states", f"no answer fits whole into {max_length} tokens", "leave the stage out")
    answers = sum(len(item.answers) for item in items)
    pairs = sum(len(part.rows) for part in parts)
    ranks.say(
        f"  {2 * pairs:,} answers of {pairs:,} pairs are {count:,} distinct ones{_sampled(drawn, counts, one, most)}, "
        f"of which {answers:,} fit whole into {max_length} tokens: {answers * one / 1e6:,.1f} MB"
    )
    meaning = StatesMeaning(
        source.fingerprint, str(loaded.model.dtype).removeprefix("torch."), cfg.reward.pooling, *shape_of(source),
        hashlib.sha256(str(loaded.tokenizer.get_chat_template()).encode()).hexdigest()[:16], max_length,
    )  # fmt: skip
    batches = _read(job, items, loaded)
    if ranks.main:
        kept = write_states(job.out / job.run.states.name, batches, meaning)
        record = {**asdict(meaning), "why_none": None, "distinct": count, "kept": kept, "prompts_read": len(items)}
        record["prompts"], record["prompts_drawn"] = len(counts), len(drawn)
        artifacts.write_json(job.out / job.run.states_record.name, record)
    return Rows(count, count, 0)


def _why_none(job: Job, size: int) -> str | None:
    there = sum(file.stat().st_size for file in job.work.rglob("*") if file.is_file())  # of an attempt before this one
    free = shutil.disk_usage(job.out).free + there
    return why_none(job.cfg.states.keep, too_few_take_states(job.cfg), size, free)


def _answers(row: dict) -> Iterator[tuple[int, list[dict]]]:
    """Both answers of a pair, each with a hash of its prompt and itself."""
    for side in ("chosen", "rejected"):
        yield text_hash(json.dumps([row["prompt"], row[side]])), row[side]


def _prompt(row: dict) -> int:
    """A hash of a pair's prompt, word for word: others have states of their own."""
    return text_hash(json.dumps(row["prompt"]))


def _answers_by_prompt(parts: Iterable[LoadedRows]) -> dict[int, int]:
    """How many distinct answers each prompt has."""
    found: dict[int, set[int]] = {}
    for part in parts:
        for row in part.rows:
            found.setdefault(_prompt(row), set()).update(key for key, _ in _answers(row))
    return {prompt: len(answers) for prompt, answers in found.items()}


def drawn_prompts(counts: Mapping[int, int], most: int, seed: int) -> set[int]:
    """As many prompts as have at most so many answers together, in an order that the seed draws; all if all do."""
    if sum(counts.values()) <= most:
        return set(counts)
    drawn, left = set(), most
    for prompt in sorted(counts, key=lambda prompt: text_hash(str(prompt), seed)):
        if counts[prompt] <= left:
            drawn.add(prompt)
            left -= counts[prompt]
    return drawn


def _sampled(drawn: set[int], counts: Mapping[int, int], one: int, most: int) -> str:
    """What a line says where answers to some prompts only are kept. one: bytes of an answer's states; most: of all."""
    if len(drawn) == len(counts):
        return ""
    size = f" ({one * sum(counts.values()) / 1e9:.2f} GB; states.keep=auto keeps {most / 1e9:.2f} at most)"
    answers = sum(counts[prompt] for prompt in drawn)
    return f"{size}; kept are {answers:,} to {len(drawn):,} of {len(counts):,} prompts, drawn by data.seed"


def distinct_items(
    parts: Iterable[LoadedRows], loaded: Loaded, max_length: int, batch_tokens: int, drawn: set[int] | None = None
) -> list[Item]:
    """Every distinct answer that fits whole, once: behind its prompt, with others to it. drawn: of these prompts."""
    seen: set[int] = set()
    texts: dict[int, list[Rendered]] = {}
    for part in parts:
        for row in part.rows:
            if drawn is not None and _prompt(row) not in drawn:
                continue
            new = {key: answer for key, answer in _answers(row) if key not in seen}
            seen |= new.keys()
            try:
                rendered = loaded.format.render(row["prompt"], list(new.values()), max_length) if new else []
            except BadRow:  # stages that need it set it aside
                continue
            whole = [text for text in rendered if not text.truncated and len(text.ids) > text.prompt_length]
            if whole:
                texts.setdefault(_prompt(row), []).extend(whole)
    return [Item.of(some) for answers in texts.values() for some in _together(answers, batch_tokens)]


def _together(answers: list[Rendered], batch_tokens: int) -> Iterator[list[Rendered]]:
    """Answers to one prompt, as many as are read together."""
    some: list[Rendered] = []
    tokens = 0
    for answer in answers:
        own = len(answer.ids) - answer.prompt_length + 1
        if some and (len(some) == ANSWERS or tokens + own > batch_tokens):
            yield some
            some = []
        tokens = tokens + own if some else len(answer.ids)
        some.append(answer)
    yield some


def _read(job: Job, items: list[Item], loaded: Loaded) -> Callable[[], Iterator[Part]]:
    """Reads all items in planned batches; gives, as often as it is asked, each batch's keys and states."""
    model, layers = loaded.model, range(1, layer_count(loaded.model) + 1)
    packing, pooling = Packing(**job.cfg.packing), job.cfg.reward.pooling
    layout = states_layout(model, packing, loaded.tokenizer.pad_token_id, items, job.ranks)

    def compute(batch: list[int]) -> Pending:
        some = [items[i] for i in batch]
        states = to_host(response_states(model, layout, some, layers, pooling, loaded.end_ids)[0])
        return lambda: save({"states": in_half(states(), model.dtype)})

    sizes = [layout.size(item) for item in items]
    tokens = job.cfg.reward.batch_tokens
    batches = compute_in_batches(job.work / "states", "reading states", sizes, tokens, compute, job.ranks)

    def parts() -> Iterator[Part]:
        for batch, content in batches:
            some = [items[i] for i in batch]
            keys = [item_keys(item) for item in some]
            yield [keys[number][which] for number, which in answer_order(some)], load(content)["states"]

    return parts
