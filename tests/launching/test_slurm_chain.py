"""launch=slurm on a real Slurm of two nodes: the recipe as a chain, whatever happens to its jobs."""

import os
import random
import subprocess
import time
from pathlib import Path

import pytest

from alignment.runs import artifacts
from alignment.runs.run_files import RunDir
from alignment.settings.compose import quoted
from tests import small_recipe
from tests.launching import interruptions
from tests.small_recipe import different
from tests.test_policy_runs import SAME_BYTES, check_policy, check_report, check_same_training

TWO_NODES = [
    "launch=slurm", "launch.nodes=2", "launch.gpus=0", "launch.processes=1", "launch.grace_seconds=55",
    "launch.time=10",
]  # fmt: skip
CHAIN = 600  # seconds, at most


def submit(slurm, folder: Path, *overrides: str, path: str | None = None) -> subprocess.CompletedProcess:
    folder.mkdir(exist_ok=True)
    environment = small_recipe.environment(**slurm.environment)
    return subprocess.run(
        small_recipe.command(*small_recipe.CDPO, f"run.dir={quoted(str(folder / 'run'))}", *TWO_NODES, *overrides),
        cwd=folder, env=environment | ({} if path is None else {"PATH": path}), capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip


def jobs(folder: Path) -> dict[str, str]:
    return {one["stage"]: one["job"] for one in artifacts.read_json(folder / "run/slurm/chain.json")}


def finish(slurm, folder: Path) -> None:
    states = slurm.wait(list(jobs(folder).values()), timeout=CHAIN)
    logs = "".join(path.read_text(errors="replace")[-3000:] for path in sorted(folder.glob("run/slurm/*.log")))
    assert set(states.values()) == {"COMPLETED"}, f"{states}\n{logs}"


# ---- a chain --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_recipe_on_two_nodes_under_zero2_is_that_of_one_process(slurm, undisturbed, tmp_path, world_folder):
    alone = RunDir(undisturbed(*small_recipe.CDPO).run)
    folder = tmp_path / "josé mit raum"
    done = submit(slurm, folder, "launch.layout=zero2")
    assert done.returncode == 0, done.stderr
    chain = jobs(folder)
    assert list(chain) == ["fit_reward", "build_pairs", "train_cdpo", "evaluate", "report"]
    assert "submitted 5 jobs, one after the other:" in done.stdout
    assert f"cancel  scancel {' '.join(chain.values())}" in done.stdout
    finish(slurm, folder)
    run = RunDir(folder / "run")
    assert "attempt 1 on n[1-2]" in (run.root / "slurm/train_cdpo.log").read_text()
    check_report(run, {"hybrid", "policy"}, {"base", "rs_star", "cdpo_star"})
    check_policy(run, world_folder)
    assert not {name for name in different(run.root, alone.root) if name.split("/")[0] in SAME_BYTES}
    check_same_training(run, alone, world_folder)
    again = submit(slurm, folder, "launch.layout=zero2")
    assert again.stdout == f"everything is up to date: {folder / 'run'}\n"


# ---- what happens to jobs -------------------------------------------------------------------------------------------


STAGES = ("fit_reward", "build_pairs", "train_cdpo", "train_cdpo", "evaluate")  # trainings take longest


def interrupt(slurm, folder: Path, kinds: list, chance: random.Random, whole: Path) -> list[Path]:
    """Does these things to a chain, one after the other, each at a random moment of a random stage, in their order; to
    another chain what is left when one has ended. The folders of the chains. whole: an undisturbed run, whose stages a
    chain has copies of, before the first stage that something is done to."""
    moments = zip(kinds, sorted(chance.choices(STAGES, k=len(kinds)), key=STAGES.index), strict=True)
    left, folders = list(moments), []
    while left:
        folders.append(folder / f"chain-{len(folders)}")
        small_recipe.copy_stages(whole, folders[-1] / "run", STAGES[: STAGES.index(left[0][1])])
        done = interrupt_chain(slurm, folders[-1], left, chance)
        left = left[done:] if done else [(kind, STAGES[0]) for kind, _ in left]
    return folders


def interrupt_chain(slurm, folder: Path, moments: list, chance: random.Random) -> int:
    """How many of these things could be done before the chain had ended."""
    assert submit(slurm, folder).returncode == 0
    published: dict[str, float] = {}
    done = 0
    for kind, stage in moments:
        if not wait_for_ranks(slurm, folder, stage) and not wait_for_ranks(slurm, folder, None):
            break
        delay = chance.uniform(0, 12)
        time.sleep(delay)
        running = running_job(slurm, folder)
        if running is None and wait_for_ranks(slurm, folder, None):  # that stage ended meanwhile: what runs now
            running = running_job(slurm, folder)
        if running is None:
            break
        print(f"{kind.__name__}, {delay:.1f} s into {slurm.show('job', running)['JobName']}", flush=True)
        kind(slurm, running, folder / "run", chance)
        done += 1
        if kind is interruptions.cancel:
            slurm.until(lambda: not queued(slurm, folder), timeout=60)
            again = submit(slurm, folder)
            assert again.returncode == 0, again.stderr
            if "up to date" in again.stdout:  # it was cancelled in its last moment
                return done
        for manifest in folder.glob("run/*/manifest.json"):
            moment = manifest.stat().st_mtime
            assert published.setdefault(manifest.parent.name, moment) == moment, f"{manifest} was made again"
    finish(slurm, folder)
    for name, moment in published.items():
        assert (folder / "run" / name / "manifest.json").stat().st_mtime == moment, f"{name} was made again"
    return done


def running_job(slurm, folder: Path) -> str | None:
    """The job whose ranks compute."""
    running = [number for number in jobs(folder).values() if slurm.state(number) == "RUNNING"]
    return running[0] if running and interruptions.ranks(folder / "run") else None


def wait_for_ranks(slurm, folder: Path, stage: str | None) -> bool:
    """Until both ranks of a stage, or of any, compute; False when it, or the chain, is done."""
    until = time.monotonic() + CHAIN
    while time.monotonic() < until:
        states = {slurm.state(number) for number in jobs(folder).values()}
        if states == {"COMPLETED"} or (stage and (folder / "run" / stage / "manifest.json").exists()):
            return False
        assert "FAILED" not in states, slurm.log()
        if len(interruptions.ranks(folder / "run", stage)) == 2 and "RUNNING" in states:
            return True
        time.sleep(0.2)
    raise AssertionError(f"no ranks\n{slurm.log()}")


def queued(slurm, folder: Path) -> bool:
    numbers = ",".join(jobs(folder).values())
    return bool(slurm.run(["squeue", "-h", "-o", "%i", "-t", "all", "--states=PD,R,CG", "-j", numbers]).strip())


@pytest.mark.slow
def test_a_chain_interrupted_twice_ends_as_if_it_had_not_been(slurm, undisturbed, tmp_path):
    """Two of the five kinds there are, others every time; what two nodes make is what two ranks on one make."""
    whole = undisturbed(*small_recipe.CDPO, "launch=ddp", "launch.processes=2").run
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for folder in interrupt(slurm, tmp_path, chance.sample(interruptions.ALL, 2), chance, whole):
        assert not different(folder / "run", whole)


@pytest.mark.soak
@pytest.mark.parametrize("number", range(5))
def test_twenty_interruptions(slurm, undisturbed, tmp_path, number):
    """Four in each of five chains, every kind as often as any other."""
    whole = undisturbed(*small_recipe.CDPO, "launch=ddp", "launch.processes=2").run
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    kinds = [interruptions.ALL[(4 * number + i) % 5] for i in range(4)]
    for folder in interrupt(slurm, tmp_path, kinds, random.Random(seed), whole):
        assert not different(folder / "run", whole)


# ---- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides, problem",
    [
        (["launch.partition=gpu"], "launch.partition: there is no partition gpu; choose one of main, endless"),
        (["launch.partition=endless", "launch.time=null"], "launch.time: partition endless has no limit of its own"),
        (["launch.nodes=4"], "launch.nodes: partition main has 2 nodes; ask for fewer, or another one"),
        (["launch.time=5:00:00"], "launch.time: 5:00:00 is more than partition main allows"),
        (["launch.directives=['--no-such-option']"], "sbatch: Slurm refused fit_reward: "),
        (["launch.directives=['--licenses=matlab']"], "sbatch: Slurm refused fit_reward: "),
    ],
)  # fmt: skip
def test_what_slurm_would_refuse(slurm, tmp_path, overrides, problem):
    done = submit(slurm, tmp_path, *overrides)
    assert done.returncode == 2, done.stdout
    assert done.stderr.count("\n") == 1 and done.stderr.startswith(f"repalign: {problem}"), done.stderr
    assert not (tmp_path / "run/slurm/chain.json").exists()
    assert not slurm.run(["squeue", "-h", "-o", "%i"]).strip(), "nothing is submitted"


@pytest.mark.slow
def test_no_slurm_here(slurm, tmp_path):
    done = submit(slurm, tmp_path, path=str(tmp_path))
    assert done.returncode == 2
    assert "launch: there is no sbatch on this machine; submit from a login node, or launch.submit=false" in done.stderr


@pytest.mark.slow
def test_one_chain_at_a_time_in_a_folder(slurm, tmp_path, world_folder):
    assert submit(slurm, tmp_path).returncode == 0
    before = jobs(tmp_path)
    try:
        done = submit(slurm, tmp_path)
        assert done.returncode == 2 and jobs(tmp_path) == before
        assert f"has a chain already: jobs {' '.join(before.values())}; wait for it, or end it: scancel" in done.stderr
    finally:
        slurm.run(["scancel", *before.values()])
        slurm.until(lambda: not queued(slurm, tmp_path), timeout=60)


@pytest.mark.slow
def test_an_error_of_a_stage_ends_the_chain_and_is_said_in_its_log(slurm, tmp_path):
    (tmp_path / "few.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n' * 3)
    more = ["data=file", "data.path=few.jsonl", "policy.beta=[0.1]", "policy.systems=[cdpo]"]
    given = [one for one in small_recipe.CDPO if not one.startswith(("data.", "policy.beta", "policy.systems"))]
    environment = {**os.environ, **slurm.environment, **small_recipe.environment()}
    done = subprocess.run(
        small_recipe.command(*given, *more, "run.dir=run", *TWO_NODES), cwd=tmp_path, env=environment, text=True,
        capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    states = slurm.wait(list(jobs(tmp_path).values()), timeout=120)
    assert next(iter(states.values())) == "FAILED" and "COMPLETED" not in states.values()
    log = (tmp_path / "run/slurm/fit_reward.log").read_text()
    assert log.count("repalign: ") == 1, log


@pytest.mark.slow
def test_a_sweep_is_a_chain_for_each_of_its_jobs(slurm, tmp_path):
    done = submit(slurm, tmp_path, "seed=1,2", "-m")
    assert done.returncode == 0, done.stderr
    chains = sorted((tmp_path / "run").glob("*/slurm/chain.json"))
    assert len(chains) == 2 and done.stdout.count("submitted 5 jobs") == 2
    text = (chains[0].parent / "fit_reward.sbatch").read_text()
    assert "seed=1" in text and "seed=1,2" not in text
    assert [chain.parent.parent.name for chain in chains] == ["seed=1", "seed=2"]
    slurm.run(["scancel", *(one["job"] for chain in chains for one in artifacts.read_json(chain))])
