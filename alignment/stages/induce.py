"""Stage induce: the contrastive set (x, y+, y-) that gives the direction its meaning.

For Legend's safety direction the questions x are harmful, every y+ is the same refusal, and y- is what the annotating
model itself answers greedily. Other questions, other sides or a file make any other contrast.
"""

import json

from omegaconf import DictConfig

from alignment.data import contrast as contrast_data
from alignment.data.cells import BadRow
from alignment.data.columns import CONTRAST_COLUMNS, Loaded, text_message
from alignment.data.same_prompts import turn_hashes
from alignment.inputs.job import Job
from alignment.inputs.pairs import ENOUGH, evaluated_on
from alignment.models.devices import device
from alignment.models.load import Loaded as LoadedModel
from alignment.models.load import load_language_model
from alignment.models.source import model_source
from alignment.runs import artifacts
from alignment.runs.batches import Pending, compute_in_batches
from alignment.runs.manifest import Rows
from alignment.runs.ranks import Ranks
from alignment.sampling.generate import generate_greedily
from alignment.types import UserError

SIDES = ("positive", "negative")


def run(job: Job) -> Rows:
    contrast = job.cfg.annotator.contrast
    if contrast.file is not None:
        pairs = contrast_data.ready_made(contrast.file)
    else:
        data = job.cfg.data
        pairs = contrast_data.questions(contrast.questions, contrast.count, seed=data.seed, folder=data.get("folder"))
        _drop_evaluated(job.cfg, pairs)
        answers = _generate(job, pairs)
        for row, answer in zip(pairs.rows, answers, strict=True):
            for side in SIDES:
                generated = contrast[side] == "generated"
                row[side] = text_message("assistant", answer["text"] if generated else contrast.refusal)
                row[f"{side}_finished"] = answer["finished"] or not generated
    _drop_empty(pairs)
    if len(pairs.rows) < 10:
        reason = pairs.quarantined[0]["reason"] if pairs.quarantined else "none"
        few = f"{len(pairs.rows)} usable answers"
        raise UserError("annotator.contrast", few, f"give 10 questions or more; set aside: {reason}")
    _say_what_was_induced(pairs.rows, contrast.refusal, job.ranks)
    if job.ranks.main:
        artifacts.write_rows(job.out / job.run.induced.name, pairs.rows, CONTRAST_COLUMNS)
    return job.set_aside(pairs.quarantined, pairs.read)


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


def _generate(job: Job, questions: Loaded) -> list[dict]:
    """One greedy answer to each question, in planned batches."""
    settings = job.cfg.annotator
    limit = settings.contrast.max_new_tokens
    model = load_language_model(model_source(job.cfg.model), device())
    prompts = _prompt_ids(questions, model, settings.prompt, limit)

    def compute(batch: list[int]) -> Pending:
        answers = [vars(sample) for sample in generate_greedily(model, [prompts[i] for i in batch], limit)]
        return json.dumps(answers).encode

    sizes = [len(ids) + limit for ids in prompts]
    work = job.work / "batches"
    batches = compute_in_batches(work, "inducing answers", sizes, settings.batch_tokens, compute, job.ranks)
    answers: list[dict] = [{}] * len(prompts)
    for batch, content in batches:
        for i, answer in zip(batch, json.loads(content), strict=True):
            answers[i] = answer
    return answers


def _prompt_ids(questions: Loaded, model: LoadedModel, prompt: str, limit: int) -> list[list[int]]:
    """The tokens of the questions that the model can read and answer; the others are set aside."""

    def read(row: dict) -> list[int]:
        if prompt == "alpaca":
            ids = model.tokenizer(model.format.alpaca_prompt(row["prompt"])).input_ids
        else:
            ids = model.format.prompt_ids(row["prompt"])
        if model.context is not None and len(ids) > max(model.context // 2, model.context - limit):
            raise BadRow(f"its {len(ids)} tokens leave no room for an answer in a context of {model.context}")
        return ids

    return questions.readable(read, "questions")


def _say_what_was_induced(rows: list[dict], refusal: str, ranks: Ranks) -> None:
    """Shows one pair, since a direction means what its two sides differ in, and how many answers were cut off."""
    cut = sum(not (row["positive_finished"] and row["negative_finished"]) for row in rows)
    positive, negative = (" ".join(rows[0][side][0]["content"].split())[:70] for side in SIDES)
    ranks.say(f"  {len(rows)} pairs, {cut} with an answer cut off; the first: y+ {positive!r}, y- {negative!r}")
    distinct = {row[side][0]["content"] for row in rows for side in SIDES} - {refusal}
    if len(distinct) < len(rows) / 4:
        ranks.say(f"  only {len(distinct)} different generated answers: does this model answer such questions at all?")


def _drop_empty(pairs: Loaded) -> None:
    """Sets pairs aside whose generated answer has no text, and so no state to read."""

    def require_text(row: dict) -> None:
        if not all(row[side][0]["content"].strip() for side in SIDES):
            raise BadRow("the generated answer is empty")

    pairs.readable(require_text, "questions")
