"""The files of a run: every one of them is named here, and nowhere else."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from alignment.runs.locks import lock
from alignment.types import UserError

QUARANTINE = "quarantine.jsonl"  # of every stage that sets rows aside: source, line, reason


@dataclass(frozen=True)
class RunDir:
    """Every file of a run, in the order in which the pipeline makes them."""

    root: Path

    def stage(self, name: str) -> Path:
        return self.root / name

    @property
    def data(self) -> Path:
        """The given pairs, once read: train.arrow, heldout.arrow, quarantine.jsonl, and data.json with the counts."""
        return self.root / "data"

    @property
    def data_counts(self) -> Path:
        """Where the given pairs came from, and how many were used, set aside and kept out."""
        return self.root / "data" / "data.json"

    @property
    def judge_health(self) -> Path:
        """Of every judge that was held against people's labels: how it did, and under which settings."""
        return self.root / "judge_health.json"

    # inspect
    @property
    def inspection(self) -> Path:
        """What is in the data: columns, lengths, repetitions, contradictions, overlap, some rows."""
        return self.root / "inspect" / "inspection.json"

    # induce
    @property
    def induced(self) -> Path:
        """id, prompt, positive, negative: the contrastive set, one direction's worth of pairs."""
        return self.root / "induce" / "induced.parquet"

    # annotate
    @property
    def direction(self) -> Path:
        """The standard margin vector, and what it was read from, as safetensors metadata."""
        return self.root / "annotate" / "direction.safetensors"

    @property
    def pairs(self) -> Path:
        """The training pairs with `margin` and `margin_raw`."""
        return self.root / "annotate" / "pairs.parquet"

    @property
    def heldout_pairs(self) -> Path:
        """Pairs kept from training, annotated with the edges fitted on the training pairs."""
        return self.root / "annotate" / "heldout.parquet"

    @property
    def calibration(self) -> Path:
        """How good the margins are."""
        return self.root / "annotate" / "calibration.json"

    # train_rm
    def reward_model(self, margins: str, seed: int) -> Path:
        """One reward model as from_pretrained loads it."""
        return self.root / "train_rm" / margins / f"seed-{seed}"

    @property
    def reward_scores(self) -> Path:
        """set, id, margins, seed, chosen_score, rejected_score, and what the pair is."""
        return self.root / "train_rm" / "scores.parquet"

    @property
    def reward_summary(self) -> Path:
        """What the trainers did: rows used and dropped, parity, loss by step."""
        return self.root / "train_rm" / "training.json"

    # fit_reward
    @property
    def hybrid_reward(self) -> Path:
        """The hybrid reward as HybridReward.load reads it."""
        return self.root / "fit_reward" / "reward"

    @property
    def hybrid_report(self) -> Path:
        """How good each gate, layer and confidence is on pairs kept from training."""
        return self.root / "fit_reward" / "hybrid.json"

    # build_pairs
    @property
    def samples(self) -> Path:
        """id, prompt, sample, text, finished, score: everything that was sampled."""
        return self.root / "build_pairs" / "samples.parquet"

    @property
    def built_pairs(self) -> Path:
        """Pairs of the policy's own samples, as preference data."""
        return self.root / "build_pairs" / "pairs.parquet"

    @property
    def build_counts(self) -> Path:
        """Prompts asked, left out and why, pairs made."""
        return self.root / "build_pairs" / "build.json"

    # train_sft, train_dpo, train_cdpo
    def policy(self, stage: str, system: str, seed: int) -> Path:
        """One trained policy as from_pretrained loads it."""
        return self.root / stage / system / f"seed-{seed}" / "policy"

    def trainings(self, stage: str) -> Path:
        """What was trained: every point of the grid, its validation, and the log by step."""
        return self.root / stage / "trainings.json"

    # evaluate
    @property
    def answers(self) -> Path:
        """system, seed, set, id, prompt, answer."""
        return self.root / "evaluate" / "answers.parquet"

    @property
    def verdicts(self) -> Path:
        """system, seed, set, id, judge, and what it says of the answer."""
        return self.root / "evaluate" / "verdicts.parquet"

    @property
    def choices(self) -> Path:
        """system, id, subject, the four log-probabilities: multiple choice."""
        return self.root / "evaluate" / "choices.parquet"

    @property
    def task_scores(self) -> Path:
        """system, task, id, measure, value: of lm-evaluation-harness."""
        return self.root / "evaluate" / "lm_eval.parquet"

    @property
    def rankings(self) -> Path:
        """Reward model, set, id, subset, and its two scores."""
        return self.root / "evaluate" / "rankings.parquet"

    @property
    def evaluation_record(self) -> Path:
        """What was asked of whom, and how it was decoded and judged."""
        return self.root / "evaluate" / "record.json"

    @property
    def evaluation(self) -> Path:
        """system -> a list over seeds of set -> rates."""
        return self.root / "evaluate" / "evaluation.json"

    # best_of_n
    @property
    def best_of_n(self) -> Path:
        """scorer -> n -> rates, with their intervals over prompts."""
        return self.root / "best_of_n" / "best_of_n.json"

    @property
    def best_of_n_samples(self) -> Path:
        """set, id, harmful, prompt, sample, text, finished, what the oracle says, and the score of every scorer."""
        return self.root / "best_of_n" / "samples.parquet"

    # judge
    @property
    def judged(self) -> Path:
        """Every judge: what it is, its verdicts counted, what it counted on the way, its health."""
        return self.root / "judge" / "judged.json"

    @property
    def judged_answers(self) -> Path:
        """The judged file as it was written to judge.output; its suffix is the output's."""
        return self.root / "judge" / "verdicts"

    # report
    @property
    def scorecard(self) -> Path:
        """Every number of the evaluation with its interval and its rows, and the gates."""
        return self.root / "report" / "scorecard.json"

    @property
    def tables(self) -> Path:
        """The report as it is printed."""
        return self.root / "report" / "table.txt"

    @property
    def stage_report(self) -> Path:
        """The report without the times that stages took."""
        return self.root / "report" / "report.json"

    @property
    def report(self) -> Path:
        """The report with them."""
        return self.root / "report.json"

    # outside the stages
    @property
    def settings(self) -> Path:
        """The configuration as it was composed."""
        return self.root / "config.yaml"

    @property
    def timings(self) -> Path:
        """Seconds per stage; kept out of every hash."""
        return self.root / "timings.json"

    @property
    def jobs(self) -> Path:
        """What is submitted to Slurm, and what became of it."""
        return self.root / "slurm"

    @property
    def waiting(self) -> Path:
        """Where ranks that gave up waiting for others say so."""
        return self.root / ".waiting"

    @property
    def logs(self) -> Path:
        """What trackers write."""
        return self.root / "logs"

    def work(self, what: str, key: str = "") -> Path:
        """Where a stage works before it is published, or something else that is made; another key never sees it."""
        return self.root / ".work" / (f"{what}-{key[:16]}" if key else what)

    def inside(self, path: Path) -> Path:
        """A file of a stage as it is named within the stage, so that it can be written before it is published."""
        return Path(*path.relative_to(self.root).parts[1:])

    def finished(self, out: Path) -> Path:
        """Where a stage keeps each of its trainings once it has ended. out: where it writes what will be published."""
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
def locked(run: RunDir, what: str = "") -> Iterator[None]:
    """One run at a time in a folder; what: another lock of it, of this name."""
    path = run.root / f".lock{what and '.'}{what}"
    with open(path, "a+") as file:
        try:
            lock(file, wait=False)
        except BlockingIOError as error:
            file.seek(0)
            owner = file.read().strip() or "another process"
            raise UserError(
                "run.dir", f"{run.root} is in use by {owner}", "wait for it or choose another folder"
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield
