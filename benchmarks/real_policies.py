"""The experiment on policies of SmolLM2 that docs/real_models.md fixes under "protocol", one training after the other:

    python -m benchmarks.real_policies [folder=runs/policies] [at_once=2] [minutes=600] [only=dpo]

Every training is a run of its own. What it measured is kept in benchmarks/results/real_policies/, ids and numbers
without a word of text, and a command given again goes on with the first that is missing there; the models themselves
are deleted once they are judged. minutes: none begins later than that. only: those whose name begins so.
`python -m benchmarks.real_policies_table` makes the tables of what is there.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Any

from alignment.policies.systems import SYSTEMS
from alignment.runs.artifacts import read_rows
from alignment.runs.run_files import RunDir
from benchmarks import arguments
from benchmarks.real_policies_inputs import ADVBENCH, ALPACA, HARMFUL, SEEDS, labels, write_inputs

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("REPALIGN_DATA", HERE.parent.parent / "shared" / "data"))
RESULTS = HERE / "results" / "real_policies"
DEFAULTS = {"folder": "runs/policies", "at_once": 2, "minutes": 600, "only": ""}

# ---- the protocol ---------------------------------------------------------------------------------------------------

RATES = (1e-5, 3e-5)  # learning rates that validation chooses of, at seed 0, of right labels
CALIBRATION = "do_not_answer"  # answers of six other models that people labelled: what the judge's errors are read from
GIVEN = ("base", "dpo", "cdpo", "sft", "sft_refusals", "base_prompted")  # systems of given pairs, of right labels
STARRED, STARRED_SEEDS = ("cdpo_star", "dpo_star", "fixed_90_star", "rs_star"), (0, 1, 2)  # of the policy's own samples
TEMPERATURE = 0.7  # of samples that are ranked
SAMPLED = ["build_pairs.prompts=130", "build_pairs.unfinished=sentence", f"build_pairs.temperature={TEMPERATURE}"]


@dataclass(frozen=True)
class Cell:
    """One policy, trained and judged. flips: the share of wrong labels among its pairs."""

    system: str
    flips: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.system}-flips-{100 * self.flips:.0f}-seed-{self.seed}"

    @property
    def stage(self) -> str | None:
        return SYSTEMS[self.system].stage


def cells() -> Iterator[Cell]:
    """All of them: the primary comparison first, then the others seed by seed, those of own samples last."""
    yield from (Cell(system, 0.25, seed) for seed in SEEDS for system in ("dpo", "cdpo"))
    yield from (Cell(system, 0.0, seed) for seed in SEEDS for system in GIVEN)
    yield from (Cell(system, 0.0, seed) for system in STARRED for seed in STARRED_SEEDS)


# ---- runs -----------------------------------------------------------------------------------------------------------


class Experiment:
    def __init__(self, folder: Path, threads: int) -> None:
        self.folder, self.inputs, self.threads = folder, folder / "inputs", threads
        self.choosing = RLock()  # two policies at once may want the same rate, or the same reward

    def prompt_files(self, *names: str) -> str:
        return "[" + ",".join(str(self.inputs / f"{name}.jsonl") for name in names) + "]"

    @property
    def kept_out(self) -> str:
        """What is evaluated on, which no stage learns from."""
        return f"evaluation.sets={self.prompt_files(*HARMFUL, 'pku_test', 'alpaca_eval')}"

    def data(self, part: str, flips: float, seed: int) -> list[str]:
        return ["data=file", f"data.path={self.inputs / f'{part}-{labels(flips, seed)}.jsonl'}", "data.heldout=0.1"]

    def run(self, name: str, stages: str, *settings: str) -> RunDir:
        """A run of the recipe below the folder; its output goes to a file beside it."""
        to = self.folder / name
        to.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "alignment.run", "+recipe=real_policies", f"stages={stages}", *settings]
        with open(to.with_name(f"{to.name}.log"), "a") as log:
            environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads), "REPALIGN_DATA": str(DATA)}
            done = subprocess.run([*command, f"run.dir={to}"], stdout=log, stderr=log, env=environment)
        if done.returncode:
            arguments.stop(f"{name} ended with {done.returncode}: see {log.name}")
        return RunDir(to)

    def fit_guard(self) -> RunDir:
        """The judge, and how often it errs on answers of other models, once for all policies."""
        files = self.prompt_files(*HARMFUL, "pku_test", *ALPACA, *ADVBENCH)
        data = ["data=file", f"data.path={self.inputs / 'pairs.jsonl'}", "data.heldout=0.05"]
        kept = ["policy.systems=[base]", f"judge.calibration={CALIBRATION}", "judge.calibration_rows=600",
                "judge.position_pairs=0", "evaluation.prompts=1000"]  # fmt: skip
        run = self.run("guard", "[read_answers,fit_guard]", *data, f"evaluation.sets={files}")
        base = f"evaluation.sets={self.prompt_files('alpaca_validation', 'advbench_validation')}"
        calibration = self.run("calibration", "[evaluate,report]", *data, base, *self.judges(run), *kept)
        fitted, health = json.loads(run.guard_report.read_text()), json.loads(calibration.judge_health.read_text())
        record = {
            "threshold": fitted["threshold"], "folds": fitted["scorers"]["guard"], "words": fitted["scorers"]["words"],
            "false_alarms": fitted["false_alarms"], "calibration": health["probe"]["health"],
        }  # fmt: skip
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / "judge.json").write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
        return run

    def judges(self, guard: RunDir) -> list[str]:
        return [f"judge.probe.path={guard.guard}", f"judge.words.path={guard.words_guard}"]

    def rate(self, system: str, guard: RunDir) -> float:
        """The learning rate of a system, by validation at one seed, of right labels; chosen when it is first needed."""
        kept = RESULTS / f"grid-{system}.json"
        if not kept.exists():
            with self.choosing:
                if not kept.exists():  # nor was it found while this one waited
                    self._search(system, guard, kept)
        return next(point["learning_rate"] for point in json.loads(kept.read_text()) if point["chosen"])

    def _search(self, system: str, guard: RunDir, kept: Path) -> None:
        """Trains a system at every rate, and keeps how each did on the validation prompts."""
        name, validation = f"grid-{system}", self.prompt_files("alpaca_validation", "advbench_validation")
        cell = Cell(system, 0.0, 0)
        stages, settings = self.learned_from(cell)
        self.take_samples(cell, self.folder / name)
        rates = ",".join(f"{rate:g}" for rate in RATES)
        run = self.run(
            name, f"[{','.join([*stages, cell.stage, 'report'])}]", *settings, *self.judges(guard), self.kept_out,
            f"evaluation.validation_sets={validation}", "evaluation.validation=60",
            f"policy.learning_rate=[{rates}]", f"policy.systems=[base,{system}]",
        )  # fmt: skip
        report = json.loads(run.report.read_text())
        RESULTS.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(report["grid"], indent=1) + "\n")
        shutil.rmtree(run.root)

    def learned_from(self, cell: Cell) -> tuple[list[str], list[str]]:
        """The stages before a cell's training, and the settings of its pairs and of those of its reward."""
        system, settings = SYSTEMS[cell.system], self.data("policy", cell.flips, cell.seed)
        stages = []
        if system.confidence == "live" or system.star:
            stages.append("fit_reward")
            settings.append(f"reward.path={self.inputs / f'reward-{labels(cell.flips, cell.seed)}.jsonl'}")
        if system.star and system.stage:
            stages.append("build_pairs")
            settings += [*SAMPLED, f"seed={cell.seed}"]
        return stages, settings

    def take_samples(self, cell: Cell, to: Path) -> None:
        """Puts ranked samples of the base model, which systems and grids of a seed share, in a run's folder."""
        stages, settings = self.learned_from(cell)
        if "build_pairs" in stages:
            with self.choosing:
                run = self.run(f"samples-seed-{cell.seed}", f"[{','.join(stages)}]", *settings, self.kept_out)
            for stage in stages:
                shutil.copytree(run.stage(stage), to / stage, dirs_exist_ok=True)

    def measure(self, cell: Cell, guard: RunDir) -> None:
        """Trains and judges a policy, and keeps what came out."""
        rate = self.rate(cell.system, guard) if cell.stage else None
        began, root = time.time(), self.folder / "cells" / cell.name
        stages, settings = self.learned_from(cell)
        stages += [cell.stage, "evaluate", "report"] if cell.stage else ["evaluate", "report"]
        settings += [
            *self.judges(guard), f"policy.seeds=[{cell.seed}]", f"policy.systems=[{cell.system}]", self.kept_out,
            "evaluation.prompts=1000",
        ]  # fmt: skip
        if cell.stage:
            settings.append(f"policy.learning_rate=[{rate:g}]")
        if cell.system == "rs_star":
            settings.append(f"sampling.temperature={TEMPERATURE}")
        self.take_samples(cell, root)
        run = self.run(f"cells/{cell.name}", f"[{','.join(stages)}]", *settings)
        record = {"cell": vars(cell), "seconds": round(time.time() - began), **measured(run, cell)}
        RESULTS.mkdir(parents=True, exist_ok=True)
        unfinished = RESULTS / f".{cell.name}.json"
        text = json.dumps(record, separators=(",", ":"), sort_keys=True)
        unfinished.write_text(text.replace(f"{self.folder}/", "") + "\n")  # no path of this machine
        unfinished.rename(RESULTS / f"{cell.name}.json")
        if cell.seed == SEEDS[0]:  # texts, for a reader; they stay out of the results
            (self.folder / "answers").mkdir(exist_ok=True)
            shutil.copy(run.answers, self.folder / "answers" / f"{cell.name}{run.answers.suffix}")
        shutil.rmtree(run.root)


def measured(run: RunDir, cell: Cell) -> dict[str, Any]:
    """What a run came to: its report, each judge's verdicts by set and id, and how useful and long answers are."""
    report = json.loads(run.report.read_text())
    verdicts: dict[str, dict[str, dict[str, list]]] = {}
    for row in read_rows(run.verdicts):
        of_set = verdicts.setdefault(row["judge"], {}).setdefault(row["set"].removesuffix(".jsonl"), {})
        score = None if row["score"] is None else round(row["score"], 4)
        of_set[row["id"]] = [_digit(row["toxic"]), _digit(row["refused"]), score, row["asks"]]
    useful: dict[str, dict[str, list]] = {}
    for row in read_rows(run.usefulness) if run.usefulness.exists() else []:
        parts = [None if row[part] is None else round(row[part], 3) for part in ("on_topic", "log_perplexity")]
        of_set = useful.setdefault(row["set"].removesuffix(".jsonl"), {})
        of_set[row["id"]] = [_digit(row["useful"]), *parts, round(row["repetition"], 3)]
    cut = {(row["set"].removesuffix(".jsonl"), row["id"]): row for row in read_rows(run.answers)}
    answers = {f"{name}/{id}": [row["words"], _digit(row["unfinished"])] for (name, id), row in cut.items()}
    trainings = [path for path in [run.trainings(cell.stage)] if path.exists()] if cell.stage else []
    history = [
        {key: training[key] for key in ("steps", "pairs", "learning_rate", "beta", "history")}
        for path in trainings
        for training in json.loads(path.read_text())
    ]
    seconds = json.loads(run.timings.read_text())
    memory = json.loads(run.memory.read_text()) if run.memory.exists() else {}  # of runs begun before it was measured
    return {
        "report": report, "verdicts": verdicts, "useful": useful, "answers": answers, "training": history,
        "stages": {stage: {"seconds": seconds[stage], **memory[stage]} for stage in memory},
    }  # fmt: skip


def _digit(value: bool | None) -> int | None:
    return None if value is None else int(value)


def main(argv: Sequence[str]) -> None:
    given = arguments.read(argv, DEFAULTS)
    folder, until = Path(given["folder"]).resolve(), time.time() + 60 * given["minutes"]
    write_inputs(folder, DATA)
    experiment = Experiment(folder, max(1, (os.cpu_count() or 1) // given["at_once"]))
    guard = experiment.fit_guard()

    def measure(cell: Cell) -> None:
        if not (RESULTS / f"{cell.name}.json").exists() and time.time() < until:
            experiment.measure(cell, guard)
            print(f"{time.strftime('%H:%M')} {cell.name}", flush=True)

    with ThreadPoolExecutor(given["at_once"]) as workers:
        list(workers.map(measure, [cell for cell in cells() if cell.name.startswith(given["only"])]))


if __name__ == "__main__":
    main(sys.argv[1:])
