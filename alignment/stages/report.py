"""Stage report: what the run's other stages found, as report.json, tables and figures.

It reports whatever is there: a run that only annotated has a report of its margins. Every number comes from a file of
the run.
"""

import traceback
from typing import get_args

from rich.table import Table

from alignment.data.prompt_sets import set_name
from alignment.evaluation.gates import limits
from alignment.evaluation.scorecard import scorecard
from alignment.evaluation.soundness import soundness
from alignment.inputs.job import Job
from alignment.reports.answer_samples import answer_samples
from alignment.reports.best_samples import best_of_n_markdown, best_of_n_tables
from alignment.reports.broken_policies import soundness_table
from alignment.reports.card import card_markdown, card_tables
from alignment.reports.fitted_guard import guard_tables
from alignment.reports.fitted_reward import hybrid, hybrid_tables
from alignment.reports.judges import judge_tables
from alignment.reports.margin_quality import annotation, annotation_table, baselines_table
from alignment.reports.page.page_answers import compared_answers
from alignment.reports.page.page_content import page_content
from alignment.reports.page.page_file import write_page
from alignment.reports.page.page_pairs import explored_pairs
from alignment.reports.pair_overview import inspection_tables
from alignment.reports.pictures.best_figure import draw_best_of_n, draw_best_samples
from alignment.reports.pictures.fold_figures import draw_comparison
from alignment.reports.pictures.guard_figure import draw_guard
from alignment.reports.pictures.policy_figures import draw_grid, draw_rewards
from alignment.reports.pictures.reward_figures import draw_accuracy, draw_layers, draw_margins
from alignment.reports.pictures.scorecard_figure import draw_card
from alignment.reports.policies import grid_points, grid_table, policies, policy_tables, prompts_by_rate
from alignment.reports.reward_models import reward_models, reward_tables
from alignment.reports.run_comparison import comparison, comparison_tables
from alignment.reports.scorer_comparison import comparison_tables as scorer_tables
from alignment.reports.tables import as_text, counted
from alignment.runs import artifacts
from alignment.runs.manifest import Rows, damage, unusable, versions
from alignment.stages import STAGES, trained_with
from alignment.types import Gate, StageFailed
from alignment.world.identity import generator_hash, model_hash

GRID = ("system", "beta", "learning_rate", "seed", "validation", "chosen")

PAGE_ERROR = "page_error.txt"


def run(job: Job) -> Rows:
    cfg, out = job.cfg, job.out
    if not job.ranks.main:
        return Rows(0, 0, 0)
    world = {"generator": generator_hash(), "model": model_hash()}
    made = _made(job)
    report: dict = {"recipe": cfg.recipe, "world": world, "versions": versions()}
    tables: list[Table] = []
    if "inspect" in made:
        report["inspection"] = artifacts.read_json(job.run.inspection)
        tables += inspection_tables(report["inspection"])
    if cfg.data.name != "world" and job.run.data.exists():
        if problem := damage(job.run.data):
            job.ranks.say(f"  what was read of the data is left out: {problem}")
        else:
            report["data"] = artifacts.read_json(job.run.data_counts)
    if "annotate" in made:
        calibration = artifacts.read_json(job.run.calibration)
        report["annotation"] = annotation(calibration)
        tables += [annotation_table(report["annotation"]), baselines_table(report["annotation"])]
        known = next((kind for kind in ("severity", "helpfulness") if calibration["heldout"][kind]), None)
        draw_margins(artifacts.read_rows(job.run.heldout_pairs), known, calibration["binning"], out / "margins.png")
    if "train_rm" in made:
        report["reward_model"] = reward_models(artifacts.read_rows(job.run.reward_scores))
        tables += reward_tables(report["reward_model"])
        draw_accuracy(report["reward_model"], out / "accuracy.png")
    if "fit_reward" in made:
        report["hybrid"] = hybrid(artifacts.read_json(job.run.hybrid_report))
        tables += hybrid_tables(report["hybrid"])
        draw_layers(report["hybrid"], out / "layers.png")
    if "cross_validate" in made:
        report["cross_validation"] = artifacts.read_json(job.run.cross_validation)
        tables += scorer_tables(report["cross_validation"])
        draw_comparison(report["cross_validation"], get_args(Gate), out / "cross_validation.png")
    if "fit_guard" in made:
        report["guard"] = artifacts.read_json(job.run.guard_report)
        tables += guard_tables(report["guard"])
        draw_guard(report["guard"], out / "guard.png")
    trained = [stage for stage in trained_with("policy") if stage in made]
    trainings = [training for stage in trained for training in artifacts.read_json(job.run.trainings(stage))]
    evaluated, card, compared, samples = "evaluate" in made, None, None, []
    if limits(cfg.scorecard.gate) and not evaluated and "compare_runs" not in made:
        raise StageFailed("scorecard.gate", f"{job.run.root} has no intact evaluate", "add evaluate to stages")
    if evaluated:
        world_rates = artifacts.read_json(job.run.evaluation)
        record = artifacts.read_json(job.run.evaluation_record)
        card = scorecard(job.run.stage("evaluate"), record, cfg.scorecard.gate)
        answers, verdicts = (artifacts.read_rows(path) for path in (job.run.answers, job.run.verdicts))
        useful = artifacts.read_rows(job.run.usefulness) if job.run.usefulness.exists() else []
        systems = [system["name"] for system in card["systems"]]
        card["soundness"] = report["soundness"] = soundness(
            answers, useful, [training for training in trainings if training["chosen"]], systems
        )
        tables.append(soundness_table(card["soundness"]))
        if world_rates:
            report["policy"], report["ratio"] = policies(world_rates, prompts_by_rate(answers))
            tables += policy_tables(report["policy"], report["ratio"])
        artifacts.write_json(out / job.run.scorecard.name, card)
        samples, compared = answer_samples(answers, verdicts, systems), compared_answers(answers, verdicts, systems)
        (out / "scorecard.md").write_text(card_markdown(card, samples), encoding="utf-8")
        if not world_rates:  # a world's rates have tables of their own, over seeds of training
            tables += card_tables(card)
            draw_card(card, out / "scorecard.png")
    if len(trainings) > 1:
        points, settings = grid_points(trainings), cfg.evaluation
        sets = ", ".join(map(set_name, settings.validation_sets or []))
        each = f" each of {sets}" if sets else ", half of them harmful"
        prompts = f"{counted(settings.validation)} validation prompts{each}"
        tables.append(grid_table(points, prompts))
        draw_grid(points, prompts, out / "grid.png")
        report["grid"] = [{name: training[name] for name in GRID} for training in trainings]
    draw_rewards([training for training in trainings if training["chosen"]], out / "rewards.png")
    if "best_of_n" in made:
        found = artifacts.read_json(job.run.best_of_n)
        worlds = "best_of_n" in found  # the rates of its prompts, which are all of a kind
        best = found["best_of_n"] if worlds else found
        report["best_of_n" if worlds else "best_samples"] = best
        tables += best_of_n_tables(best)
        (out / "best_of_n.md").write_text(best_of_n_markdown(best), encoding="utf-8")
        (draw_best_of_n if worlds else draw_best_samples)(best, out / "best_of_n.png")
    if "judge" in made:
        report["judge"] = artifacts.read_json(job.run.judged)
        tables += judge_tables(report["judge"])
    if "compare_runs" in made:
        found = artifacts.read_json(job.run.comparison)
        report["comparison"] = comparison(found)
        tables += comparison_tables(report["comparison"])
        if found["record"]:
            card = scorecard(job.run.stage("compare_runs"), found["record"], cfg.scorecard.gate)
            artifacts.write_json(out / job.run.scorecard.name, card)
            tables += card_tables(card)
            answers, verdicts = map(artifacts.read_rows, (job.run.compared_answers, job.run.compared_verdicts))
            systems = [system["name"] for system in card["systems"]]
            samples, compared = answer_samples(answers, verdicts, systems), compared_answers(answers, verdicts, systems)
        elif limits(cfg.scorecard.gate):
            raise StageFailed("scorecard.gate", "fewer than two of the runs evaluated anything", "leave the gate out")
    artifacts.write_json(out / job.run.stage_report.name, report)
    (out / job.run.tables.name).write_text(as_text(tables), encoding="utf-8")
    try:
        pairs = explored_pairs(job.run, made.__contains__)
        content = page_content(job.run, report, card, samples, trainings, pairs, made)
        content["tables"] = as_text(tables)
        write_page(out / job.run.page.name, content, pairs, compared)
    except Exception:  # whatever it is: the figures above took long, and the page is made again in seconds
        job.ranks.say(f"  the page could not be written, everything else was: report/{PAGE_ERROR} says why")
        (out / PAGE_ERROR).write_text(traceback.format_exc(), encoding="utf-8")
    return Rows(0, 0, 0)


def _made(job: Job) -> dict[str, str]:
    """The stages that the report can read, in order, with what each does; a damaged one is named."""
    made = {}
    for stage in STAGES:
        if stage == "report" or not job.run.stage(stage).exists():
            continue
        if problem := unusable(job.run, stage):
            job.ranks.say(f"  {stage} is left out: {problem}")
        else:
            made[stage] = STAGES[stage].does
    return made
