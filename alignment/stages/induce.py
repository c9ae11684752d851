"""Stage induce: the contrastive set (x, y+, y-) that gives the direction its meaning.

Legend's safety direction: harmful questions, a constant refusal as y+, and as y- what the annotating model itself
answers greedily. Any other contrast is made by other questions, other sides, or a file.
"""

import json
from pathlib import Path

from omegaconf import DictConfig

from alignment.data import contrast as contrast_data
from alignment.data.columns import CONTRAST_COLUMNS, BadRow, Loaded, text_message
from alignment.data.same_prompts import turn_hashes
from alignment.inputs.pairs import ENOUGH, evaluated_on
from alignment.models.devices import device
from alignment.models.load import Loaded as LoadedModel
from alignment.models.load import load_language_model
from alignment.models.source import model_source
from alignment.runs import artifacts
from alignment.runs.batches import Pending, compute_in_batches
from alignment.runs.manifest import Rows
from alignment.runs.ranks import Ranks
from alignment.runs.run_files import QUARANTINE, RunDir
from alignment.sampling.generate import generate_greedily
from alignment.types import UserError


def run(cfg: DictConfig, run: RunDir, out: Path, ranks: Ranks) -> Rows:
    contrast = cfg.annotator.contrast
    if contrast.file is not None:
        loaded = contrast_data.ready_made(contrast.file)
    else:
        loaded = contrast_data.questions(
            contrast.questions, contrast.count, seed=cfg.data.seed, folder=cfg.data.get("folder")
        )
        _drop_evaluated(cfg, loaded)
        answers = _generate(cfg, loaded, out.parent / "batches", ranks)
        for row, answer in zip(loaded.rows, answers, strict=True):
            for side in ("positive", "negative"):
                generated = contrast[side] == "generated"
                row[side] = text_message("assistant", answer["text"] if generated else contrast.refusal)
                row[f"{side}_finished"] = answer["finished"] or not generated
    _drop_empty(loaded)
    if len(loaded.rows) < 10:
        reason = loaded.quarantined[0]["reason"] if loaded.quarantined else "none"
        raise UserError(
            "annotator.contrast",
            f"{len(loaded.rows)} usable answers",
            f"give 10 questions or more; set aside: {reason}",
        )
    _say_what_was_induced(loaded.rows, contrast.refusal, ranks)
    if ranks.main:
        artifacts.write_rows(out / run.induced.name, loaded.rows, CONTRAST_COLUMNS)
        artifacts.write_lines(out / QUARANTINE, loaded.quarantined)
    return Rows(loaded.read, len(loaded.rows), len(loaded.quarantined))


def _drop_evaluated(cfg: DictConfig, loaded: Loaded) -> None:
    """A direction must not come from what its policies are tried on."""
    evaluated = evaluated_on(cfg)
    kept = []
    for number, row in enumerate(loaded.rows):
        found = [name for name, keys in evaluated.items() if turn_hashes(row["prompt"]) & keys]
        if found:
            loaded.quarantine("questions", None, f"{row['id']}: it is asked in {', '.join(found)}, kept for evaluation")
        else:
            kept.append(number)
    loaded.keep(kept)
    if len(loaded.rows) < ENOUGH and loaded.quarantined:
        problem = f"only {len(loaded.rows)} questions are left: {loaded.quarantined[-1]['reason']}"
        raise UserError("annotator.contrast.questions", problem, "give others, or evaluate on another set")


def _generate(cfg: DictConfig, loaded: Loaded, folder: Path, ranks: Ranks) -> list[dict]:
    """One greedy answer to each question, in planned batches."""
    model = load_language_model(model_source(cfg.model), device())
    limit = cfg.annotator.contrast.max_new_tokens
    prompts = _prompt_ids(loaded, model, cfg.annotator.prompt, limit)

    def compute(batch: list[int]) -> Pending:
        answers = [vars(sample) for sample in generate_greedily(model, [prompts[i] for i in batch], limit)]
        return json.dumps(answers).encode

    sizes = [len(ids) + limit for ids in prompts]
    done = compute_in_batches(folder, "inducing answers", sizes, cfg.annotator.batch_tokens, compute, ranks)
    answers: list[dict] = [{}] * len(prompts)
    for items, content in done:
        for item, answer in zip(items, json.loads(content), strict=True):
            answers[item] = answer
    return answers


def _prompt_ids(loaded: Loaded, model: LoadedModel, prompt: str, limit: int) -> list[list[int]]:
    """Of the questions the model can read and answer; others are set aside."""

    def read(row: dict) -> list[int]:
        if prompt == "alpaca":
            ids = model.tokenizer(model.format.alpaca_prompt(row["prompt"])).input_ids
        else:
            ids = model.format.prompt_ids(row["prompt"])
        if model.context is not None and len(ids) > max(model.context // 2, model.context - limit):
            raise BadRow(f"its {len(ids)} tokens leave no room for an answer in a context of {model.context}")
        return ids

    return loaded.readable(read, "questions")


def _say_what_was_induced(rows: list[dict], refusal: str, ranks: Ranks) -> None:
    """A direction means what its two sides differ in: one pair to look at, and how many answers were cut off."""
    cut = sum(not (row["positive_finished"] and row["negative_finished"]) for row in rows)
    positive, negative = (" ".join(rows[0][side][0]["content"].split())[:70] for side in ("positive", "negative"))
    ranks.say(f"  {len(rows)} pairs, {cut} with an answer cut off; the first: y+ {positive!r}, y- {negative!r}")
    distinct = {row[side][0]["content"] for row in rows for side in ("positive", "negative")} - {refusal}
    if len(distinct) < len(rows) / 4:
        ranks.say(f"  only {len(distinct)} different generated answers: does this model answer such questions at all?")


def _drop_empty(loaded: Loaded) -> None:
    """A generated answer without text has no state to read."""
    for row in [
        row for row in loaded.rows if not all(row[side][0]["content"].strip() for side in ("positive", "negative"))
    ]:
        loaded.rows.remove(row)
        loaded.quarantine("questions", None, f"{row['id']}: the generated answer is empty")
