"""The files of a run: every one of them is named here, and nowhere else."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from alignment.runs.locks import Holder, lock, taken_over
from alignment.types import UserError

QUARANTINE = "quarantine.jsonl"  # in every stage that sets rows aside: source, line, reason


def _at(place: str) -> property:
    """A file or folder of a run, at this place below its root."""
    return property(lambda run: run.root / place)


@dataclass(frozen=True)
class RunDir:
    """Every file of a run, in the order in which the pipeline makes them."""

    root: Path

    data = _at("data")  # the given pairs, once read: train.arrow, heldout.arrow, quarantine.jsonl, data.json
    data_counts = _at("data/data.json")  # where they came from, and how many were used, set aside and kept out
    judge_health = _at("judge_health.json")  # of every judge held against people's labels: how it did, its settings

    # inspect
    inspection = _at("inspect/inspection.json")  # columns, lengths, repetitions, contradictions, overlap, some rows

    # read_states
    states = _at("read_states/states.safetensors")  # as models/kept_states.py reads them; none where none are kept
    states_record = _at("read_states/states.json")  # what they were read of, how many they are, or why there are none

    # induce
    induced = _at("induce/induced.parquet")  # the contrastive set: id, prompt, positive, negative

    # annotate
    direction = _at("annotate/direction.safetensors")  # the SMV; in the metadata, what it was read from
    pairs = _at("annotate/pairs.parquet")  # the training pairs with `margin` and `margin_raw`
    heldout_pairs = _at("annotate/heldout.parquet")  # pairs kept from training, with the training pairs' edges
    calibration = _at("annotate/calibration.json")  # how good the margins are

    # train_rm
    reward_scores = _at("train_rm/scores.parquet")  # set, id, margins, seed, both scores, and what the pair is
    reward_summary = _at("train_rm/training.json")  # rows used and dropped, parity, loss by step

    # fit_reward
    hybrid_reward = _at("fit_reward/reward")  # as HybridReward.load reads it
    fitted_pairs = _at("fit_reward/pairs.parquet")  # the pairs it was fitted on; gap and gamma by fits without each
    hybrid_report = _at("fit_reward/hybrid.json")  # gates, layers and confidences on pairs kept from training

    # cross_validate
    fold_scores = _at("cross_validate/scores.parquet")  # of every pair: fold, prompt, answers, scores by every scorer
    cross_validation = _at("cross_validate/cross_validation.json")  # how good every scorer is on other prompts' pairs

    # read_answers
    answer_states = _at("read_answers/states.safetensors")  # of all labelled answers, as models/kept_states.py has them
    guard_answers = _at("read_answers/answers.parquet")  # part, source, prompt, response, labels, key of the states
    answers_record = _at("read_answers/answers.json")  # what the states were read of

    # fit_guard
    guard = _at("fit_guard/guard")  # as models/guard.py loads it
    words_guard = _at("fit_guard/words")  # of words alone, as judges/words_guard.py loads it
    guard_report = _at("fit_guard/guard.json")  # how good both are on answers to other prompts

    # build_pairs
    sampled = _at(".sampled")  # the answers as they were sampled, kept for another scorer of them
    samples = _at("build_pairs/samples.parquet")  # all that were sampled: id, prompt, sample, text, finished, score
    built_pairs = _at("build_pairs/pairs.parquet")  # pairs of the policy's own samples, as preference data
    build_counts = _at("build_pairs/build.json")  # prompts answered, prompts left out and why, pairs built

    # evaluate
    answers = _at("evaluate/answers.parquet")  # system, seed, set, id, prompt, answer
    verdicts = _at("evaluate/verdicts.parquet")  # system, seed, set, id, judge, and the judge's verdict
    choices = _at("evaluate/choices.parquet")  # multiple choice: system, id, subject, the four log-probabilities
    task_scores = _at("evaluate/lm_eval.parquet")  # of lm-evaluation-harness: system, task, id, measure, value
    rankings = _at("evaluate/rankings.parquet")  # reward model, set, id, subset, both scores
    usefulness = _at("evaluate/usefulness.parquet")  # of answers to harmless prompts: the parts of their usefulness
    comparisons = _at("evaluate/comparisons.parquet")  # which of two systems' answers is more useful, by an API judge
    evaluation_record = _at("evaluate/record.json")  # which system answered what, how it was decoded and judged
    evaluation = _at("evaluate/evaluation.json")  # system -> a list over seeds of set -> rates

    # best_of_n
    best_of_n = _at("best_of_n/best_of_n.json")  # scorer -> n -> rates, with their intervals over prompts
    # set, id, harmful, prompt, sample, text, finished, the oracle's verdict, and the score of every scorer
    best_of_n_samples = _at("best_of_n/samples.parquet")
    best_of_n_verdicts = _at("best_of_n/verdicts.parquet")  # of data other than the world's: each judge's, by sample

    # judge
    judged = _at("judge/judged.json")  # of every judge: its record, its verdicts counted, other counts, its health
    judged_answers = _at("judge/verdicts")  # the judged file as it was written to judge.output, with its suffix

    # compare_runs
    comparison = _at("compare_runs/comparison.json")  # headline figures of each run, and a record as evaluate has it
    compared_answers = _at("compare_runs/answers.parquet")  # as evaluate has them; a system is a run
    compared_verdicts = _at("compare_runs/verdicts.parquet")  # likewise

    # report
    scorecard = _at("report/scorecard.json")  # every number of the evaluation, its interval and its rows; the gates
    tables = _at("report/table.txt")  # the report as it is printed
    stage_report = _at("report/report.json")  # the report without the times that stages took
    page = _at("report/index.html")  # the report for a browser, likewise without them; pairs-N.js beside it
    report = _at("report.json")  # the report with them
    page_at_top = _at("report.html")  # the page with them, with what stages held, and the settings as composed

    # outside the stages
    settings = _at("config.yaml")  # the configuration as it was composed
    timings = _at("timings.json")  # seconds per stage; kept out of every hash
    memory = _at("memory.json")  # the most bytes that each stage held, a rank; likewise
    jobs = _at("slurm")  # the jobs submitted to Slurm, and how they ended
    agreements = _at(".agreements")  # by model and layout, whether rows of several texts gave what padded ones do
    waiting = _at(".waiting")  # where ranks that gave up waiting for others say so
    logs = _at("logs")  # what trackers write

    def stage(self, name: str) -> Path:
        return self.root / name

    def aside(self, stage: str) -> Path:
        """Where the last result of a stage is kept that took long and was replaced."""
        return self.root / ".replaced" / stage

    def reward_model(self, margins: str, seed: int) -> Path:
        """A reward model as from_pretrained loads it."""
        return self.root / "train_rm" / margins / f"seed-{seed}"

    def policy(self, stage: str, system: str, seed: int) -> Path:
        """A trained policy as from_pretrained loads it."""
        return self.root / stage / system / f"seed-{seed}" / "policy"

    def trainings(self, stage: str) -> Path:
        """The trainings of policies: every point of the grid, its validation, and the log by step."""
        return self.root / stage / "trainings.json"

    def work(self, what: str, key: str = "") -> Path:
        """Where a stage, or something else, is made before it is published. key: each key has a folder of its own."""
        return self.root / ".work" / (f"{what}-{key[:16]}" if key else what)

    def inside(self, path: Path) -> Path:
        """A stage's file relative to the stage's folder, for writing it before it is published."""
        return Path(*path.relative_to(self.root).parts[1:])

    def finished(self, out: Path) -> Path:
        """Where a stage keeps its trainings that have ended. out: where it writes what will be published."""
        return out.parent / "done"


def open_run(root: Path) -> RunDir:
    """Creates the run folder and checks that it can be written, before anything expensive has begun."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe = root / f".writable.{os.getpid()}"
        probe.write_bytes(b"x" * 4096)
        probe.unlink()
    except OSError as error:
        raise UserError("run.dir", f"cannot write to {root}: {error.strerror}", "choose another folder") from error
    return RunDir(root)


@contextmanager
def locked(run: RunDir, what: str = "") -> Iterator[Callable[[], bool]]:
    """Holds a run's folder, in which only one process may work at a time. what: the name of another lock of it.

    Gives a function that says whether it is held still: a later attempt of the same Slurm job takes it over from ranks
    that outlived theirs, and so does anybody from a process that is gone.
    """
    path = run.root / f".lock{what and '.'}{what}"
    with open(path.with_name(f"{path.name}.asked"), "a") as asked:  # of two that find the holder gone, one takes over
        lock(asked, wait=True)
        file = _held(run, path)
        file.truncate(0)
        file.write(Holder.here().content)
        file.flush()
    try:
        yield lambda: path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())
    finally:
        file.close()


def _held(run: RunDir, path: Path) -> IO:
    """The locked file; UserError while somebody holds it who may not lose it."""
    file = open(path, "a+")  # noqa: SIM115 (it is locked as long as it is open)
    try:
        lock(file, wait=False)
    except BlockingIOError as error:
        file.seek(0)
        holder = Holder.of(file.read())
        file.close()
        if not holder.may_lose_it():
            problem = f"{run.root} is in use by {holder.says}"
            raise UserError("run.dir", problem, "wait for it or choose another folder") from error
        print(f"{run.root}: taken over from {holder.says}", flush=True)
        holder.end()
        return taken_over(path)
    return file
