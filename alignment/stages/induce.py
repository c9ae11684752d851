"""Stage induce: the contrastive set (x, y+, y-) that gives the direction its meaning.

For Legend's safety direction the questions x are harmful, every y+ is the same refusal, and y- is what the annotating
model itself answers greedily. Other questions, other sides (refusals of many wordings, answers under a system prompt of
safety), labelled answers or a file make any other contrast.
"""

import json

from omegaconf import DictConfig

from alignment.data import contrast as contrast_data
from alignment.data.cells import BadRow
from alignment.data.columns import CONTRAST_COLUMNS, LABELLED_COLUMNS, Loaded, text_message
from alignment.data.labelled_contrast import labelled_pairs
from alignment.data.same_prompts import turn_hashes
from alignment.inputs.job import Job
from alignment.inputs.pairs import ENOUGH, evaluated_on, given_pairs
from alignment.inputs.transfer import transfer_prompts
from alignment.models.devices import device
from alignment.models.load import Loaded as LoadedModel
from alignment.models.load import load_language_model
from alignment.models.source import model_source
from alignment.runs import artifacts
from alignment.runs.batches import Pending, compute_in_batches
from alignment.runs.manifest import Rows
from alignment.runs.ranks import Ranks
from alignment.sampling.generate import generate_greedily
from alignment.types import Message, UserError

SIDES = ("positive", "negative")
GENERATED = ("generated", "safe_prompt")  # sides that the model answers itself


def run(job: Job) -> Rows:
    contrast = job.cfg.annotator.contrast
    if contrast.file is not None:
        pairs = contrast_data.ready_made(contrast.file)
    elif contrast.labelled is not None:
        folder = job.cfg.data.get("folder")
        pairs = labelled_pairs(contrast.labelled, contrast.count, job.cfg.data.seed, folder, _asked(job))
    else:
        pairs = _induced(job)
    _drop_empty(pairs)
    if len(pairs.rows) < 10:
        reason = pairs.quarantined[0]["reason"] if pairs.quarantined else "none"
        few = f"{len(pairs.rows)} usable answers"
        raise UserError("annotator.contrast", few, f"give 10 questions or more; set aside: {reason}")
    _say_what_was_induced(pairs.rows, {contrast.refusal, *_refusals(contrast)}, job.ranks)
    if job.ranks.main:
        columns = CONTRAST_COLUMNS if contrast.labelled is None else LABELLED_COLUMNS
        artifacts.write_rows(job.out / job.run.induced.name, pairs.rows, columns)
    return job.set_aside(pairs.quarantined, pairs.read)


def _asked(job: Job) -> dict[str, set[int]]:
    """The prompts that labelled answers must not be to: the run's own, transferred and evaluated ones."""
    pairs = [row["prompt"] for part in given_pairs(job.cfg, job.run, job.ranks) for row in part.rows]
    own = set().union(*(turn_hashes(prompt) for prompt in pairs))
    return {"the pairs that are annotated": own, **transfer_prompts(job.cfg), **evaluated_on(job.cfg)}


def _induced(job: Job) -> Loaded:
    """The questions with both sides: answers of the model, a constant refusal, or refusal i mod n to question i."""
    contrast, data = job.cfg.annotator.contrast, job.cfg.data
    refusals = _refusals(contrast)
    pairs = contrast_data.questions(contrast.questions, contrast.count, seed=data.seed, folder=data.get("folder"))
    _drop_evaluated(job.cfg, pairs)
    answers = _generate(job, pairs)
    for number, row in enumerate(pairs.rows):
        for side in SIDES:
            kind = contrast[side]
            if kind in GENERATED:
                text, finished = answers[kind][number]["text"], answers[kind][number]["finished"]
            else:
                text = contrast.refusal if kind == "refusal" else refusals[number % len(refusals)]
                finished = True
            row[side], row[f"{side}_finished"] = text_message("assistant", text), finished
    return pairs


def _refusals(contrast: DictConfig) -> list[str]:
    return contrast_data.refusals(contrast.refusals) if "refusals" in (contrast.positive, contrast.negative) else []


def _drop_evaluated(cfg: DictConfig, questions: Loaded) -> None:
    """Sets questions aside that the run evaluates on: a direction must not come from what its policies are tried on."""
    evaluated = evaluated_on(cfg)

    def require_unused(row: dict) -> None:
        if sets := [name for name, turns in evaluated.items() if turn_hashes(row["prompt"]) & turns]:
            raise BadRow(f"it is asked in {', '.join(sets)}, kept for evaluation")

    questions.readable(require_unused, "questions")
    if len(questions.rows) < ENOUGH and questions.quarantined:
        problem = f"only {len(questions.rows)} questions are left: {questions.quarantined[-1]['reason']}"
        raise UserError("annotator.contrast.questions", problem, "give others, or evaluate on another set")


def _generate(job: Job, questions: Loaded) -> dict[str, list[dict]]:
    """Of each kind of generated side, one greedy answer to each question, in planned batches."""
    settings = job.cfg.annotator
    limit = settings.contrast.max_new_tokens
    model = load_language_model(model_source(job.cfg.model), device())
    kinds = [kind for side in SIDES if (kind := settings.contrast[side]) in GENERATED]
    asked = _prompt_ids(questions, model, settings, kinds)
    found: dict[str, list[dict]] = {}
    for kind in kinds:
        prompts = [ids[kind] for ids in asked]

        def compute(batch: list[int], prompts: list[list[int]] = prompts) -> Pending:
            answers = [vars(sample) for sample in generate_greedily(model, [prompts[i] for i in batch], limit)]
            return json.dumps(answers).encode

        sizes = [len(ids) + limit for ids in prompts]
        what = "inducing answers" if kind == "generated" else "inducing safe answers"
        batches = compute_in_batches(job.work / kind, what, sizes, settings.batch_tokens, compute, job.ranks)
        found[kind] = [{}] * len(prompts)
        for batch, content in batches:
            for i, answer in zip(batch, json.loads(content), strict=True):
                found[kind][i] = answer
    return found


def _prompt_ids(
    questions: Loaded, model: LoadedModel, settings: DictConfig, kinds: list[str]
) -> list[dict[str, list[int]]]:
    """The tokens of the questions that the model can read and answer, as each kind asks them; others are set aside."""
    limit = settings.contrast.max_new_tokens

    def read(row: dict) -> dict[str, list[int]]:
        return {kind: ids(_under(settings.contrast.system_prompt, row) if kind == "safe_prompt" else row["prompt"])
                for kind in kinds}  # fmt: skip

    def ids(prompt: list[Message]) -> list[int]:
        if settings.prompt == "alpaca":
            found = model.tokenizer(model.format.alpaca_prompt(prompt)).input_ids
        else:
            found = model.format.prompt_ids(prompt)
        if model.context is not None and len(found) > max(model.context // 2, model.context - limit):
            raise BadRow(f"its {len(found)} tokens leave no room for an answer in a context of {model.context}")
        return found

    return questions.readable(read, "questions")


def _under(system_prompt: str, row: dict) -> list[Message]:
    """The question under a system prompt, before what its own says, if it has one. The answer is read without it."""
    first, *others = row["prompt"]
    if first["role"] == "system":
        return [{"role": "system", "content": f"{system_prompt}\n\n{first['content']}"}, *others]
    return [*text_message("system", system_prompt), first, *others]


def _say_what_was_induced(rows: list[dict], fixed: set[str], ranks: Ranks) -> None:
    """Shows one pair, since a direction means what its two sides differ in, and how many answers were cut off."""
    cut = sum(not (row["positive_finished"] and row["negative_finished"]) for row in rows)
    positive, negative = (" ".join(rows[0][side][0]["content"].split())[:70] for side in SIDES)
    ranks.say(f"  {len(rows)} pairs, {cut} with an answer cut off; the first: y+ {positive!r}, y- {negative!r}")
    distinct = {row[side][0]["content"] for row in rows for side in SIDES} - fixed
    if len(distinct) < len(rows) / 4:
        ranks.say(f"  only {len(distinct)} different generated answers: does this model answer such questions at all?")


def _drop_empty(pairs: Loaded) -> None:
    """Sets pairs aside whose generated answer has no text, and so no state to read."""

    def require_text(row: dict) -> None:
        if not all(row[side][0]["content"].strip() for side in SIDES):
            raise BadRow("the generated answer is empty")

    pairs.readable(require_text, "questions")
