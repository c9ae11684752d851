"""Stage report: what the run's other stages found, as report.json, tables and figures.

Reports whatever is there: a run that only annotated has a report of its margins. Every number comes from a file of the
run; the interval of a figure over seeds is Student's t.
"""

from pathlib import Path

from omegaconf import DictConfig
from rich.table import Table

from alignment.evaluation.gates import limits
from alignment.evaluation.scorecard import scorecard
from alignment.reports.best_samples import best_of_n_tables
from alignment.reports.card import card_markdown, card_tables
from alignment.reports.fitted_reward import hybrid, hybrid_tables
from alignment.reports.judges import judge_tables
from alignment.reports.margin_quality import annotation, annotation_table
from alignment.reports.pair_overview import inspection_tables
from alignment.reports.pictures.policy_figures import draw_best_of_n, draw_grid, draw_rewards
from alignment.reports.pictures.reward_figures import draw_accuracy, draw_layers, draw_margins
from alignment.reports.pictures.scorecard_figure import draw_card
from alignment.reports.policies import grid_points, grid_table, policies, policy_tables
from alignment.reports.reward_models import reward_models, reward_tables
from alignment.reports.tables import as_text
from alignment.runs import artifacts
from alignment.runs.manifest import Rows, damage, unusable, versions
from alignment.runs.ranks import Ranks
from alignment.runs.run_files import RunDir
from alignment.stages import trained_with
from alignment.types import StageFailed
from alignment.world.identity import generator_hash, model_hash


def run(cfg: DictConfig, run: RunDir, out: Path, ranks: Ranks) -> Rows:
    if not ranks.main:
        return Rows(0, 0, 0)
    world = {"generator": generator_hash(), "model": model_hash()}
    report: dict = {"recipe": cfg.recipe, "world": world, "versions": versions()}
    tables: list[Table] = []
    if _usable(run, "inspect", ranks):
        report["inspection"] = artifacts.read_json(run.inspection)
        tables += inspection_tables(report["inspection"])
    if cfg.data.name != "world" and run.data.exists():
        if problem := damage(run.data):
            ranks.say(f"  what was read of the data is left out: {problem}")
        else:
            report["data"] = artifacts.read_json(run.data_counts)
    if _usable(run, "annotate", ranks):
        calibration = artifacts.read_json(run.calibration)
        report["annotation"] = annotation(calibration)
        tables.append(annotation_table(report["annotation"]))
        known = next((kind for kind in ("severity", "helpfulness") if calibration["heldout"][kind]), None)
        draw_margins(artifacts.read_rows(run.heldout_pairs), known, calibration["binning"], out / "margins.png")
    if _usable(run, "train_rm", ranks):
        report["reward_model"] = reward_models(artifacts.read_rows(run.reward_scores))
        tables += reward_tables(report["reward_model"])
        draw_accuracy(report["reward_model"], out / "accuracy.png")
    if _usable(run, "fit_reward", ranks):
        report["hybrid"] = hybrid(artifacts.read_json(run.hybrid_report))
        tables += hybrid_tables(report["hybrid"])
        draw_layers(report["hybrid"], out / "layers.png")
    trainings = [
        training
        for stage in trained_with("policy")
        if _usable(run, stage, ranks)
        for training in artifacts.read_json(run.trainings(stage))
    ]
    evaluated = _usable(run, "evaluate", ranks)
    if limits(cfg.scorecard.gate) and not evaluated:
        raise StageFailed("scorecard.gate", f"{run.root} has no intact evaluate", "add evaluate to stages")
    if evaluated:
        found = artifacts.read_json(run.evaluation)
        if found:
            report["policy"], report["ratio"] = policies(found)
            tables += policy_tables(report["policy"], report["ratio"])
        card = scorecard(run.stage("evaluate"), artifacts.read_json(run.evaluation_record), cfg.scorecard.gate)
        artifacts.write_json(out / run.scorecard.name, card)
        (out / "scorecard.md").write_text(card_markdown(card), encoding="utf-8")
        if not found:  # a world's rates have tables of their own, over seeds of training
            tables += card_tables(card)
            draw_card(card, out / "scorecard.png")
    if len(trainings) > 1:
        points = grid_points(trainings)
        tables.append(grid_table(points))
        draw_grid(points, out / "grid.png")
        report["grid"] = [{name: one[name] for name in GRID} for one in trainings]
    if _usable(run, "best_of_n", ranks):
        report["best_of_n"] = artifacts.read_json(run.best_of_n)["best_of_n"]
        tables += best_of_n_tables(report["best_of_n"])
        draw_best_of_n(report["best_of_n"], out / "best_of_n.png")
    if _usable(run, "judge", ranks):
        report["judge"] = artifacts.read_json(run.judged)
        tables += judge_tables(report["judge"])
    draw_rewards([one for one in trainings if one["chosen"]], out / "rewards.png")
    artifacts.write_json(out / run.stage_report.name, report)
    (out / run.tables.name).write_text(as_text(tables), encoding="utf-8")
    return Rows(0, 0, 0)


GRID = ("system", "beta", "learning_rate", "seed", "validation", "chosen")


def _usable(run: RunDir, stage: str, ranks: Ranks) -> bool:
    """A stage that was never run is simply not in the report; one that must not be read is named."""
    if not run.stage(stage).exists():
        return False
    problem = unusable(run, stage)
    if problem is not None:
        ranks.say(f"  {stage} is left out: {problem}")
    return problem is None
