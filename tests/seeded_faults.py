"""What the tests notice: the mistakes of seeded_faults.toml, each made in a copy of the repository and put to the test.

    python -m tests.seeded_faults map               # which fast test touches which line, and how long each test takes
    python -m tests.seeded_faults run               # every fault, against the tests that touch its lines
    python -m tests.seeded_faults run margin-sign   # or some
    python -m tests.seeded_faults table             # what was found, into tests/README.md

A fault is caught if a test fails that passes without it. The tests run nearest first, then the fastest first, until one
fails, a minute at most. Where a line runs only as its module is imported, they are all those that touch the file.
"""

import argparse
import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread

import psutil

REPOSITORY = Path(__file__).resolve().parent.parent
FAULTS, RESULTS = REPOSITORY / "tests/seeded_faults.toml", REPOSITORY / "tests/seeded_faults.json"
README, HEAD = REPOSITORY / "tests/README.md", "| fault | file | before | after |"
FAST = "not slow and not soak"
SECONDS, PATIENCE = 60, 900  # that tests may compute, and that may pass: other work on the machine changes no result
MOST = 300  # tests for a fault: pytest takes a while to find what is named one by one
COLUMNS = ("before", "after")  # the suite was cut


@dataclass(frozen=True)
class Fault:
    """wrong: what is, with the replacement in the place of the text. also: tests beside those that coverage knows."""

    name: str
    wrong: str
    file: str
    text: str
    replacement: str
    also: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        return f"alignment/{self.file}"

    def place(self, source: str) -> int:
        """Where the text stands: exactly once, or a line has moved."""
        if (count := source.count(self.text)) != 1:
            raise ValueError(f"{self.name}: its text is {count} times in {self.path}; mend tests/seeded_faults.toml")
        return source.index(self.text)

    def lines(self, source: str) -> range:
        above = source[: self.place(source)].count("\n")
        return range(above + 1, above + 1 + len(self.text.splitlines()))

    def made_in(self, source: str) -> str:
        place = self.place(source)
        ast.parse(changed := source[:place] + self.replacement + source[place + len(self.text) :])
        return changed


def faults() -> list[Fault]:
    described = tomllib.loads(FAULTS.read_text(encoding="utf-8"))
    return [Fault(name, **{**fields, "also": tuple(fields.get("also", ()))}) for name, fields in described.items()]


# ---- which tests touch a line ---------------------------------------------------------------------------------------


def make_map(data: Path) -> None:
    """Runs the fast tests under coverage, each test a context of its own; what they say of durations goes beside it."""
    tests = ["-n", "2", "--dist", "worksteal", "-m", FAST, "--durations=0", "-vv"]
    coverage = ["--cov=alignment", "--cov-context=test", "--cov-report="]
    with open(_durations(data), "w", encoding="utf-8") as log:
        command, environment = [sys.executable, "-m", "pytest", *tests, *coverage], {"COVERAGE_FILE": str(data)}
        subprocess.run(command, cwd=REPOSITORY, env={**os.environ, **environment}, stdout=log, check=False)


def _durations(data: Path) -> Path:
    return data.with_name(f"{data.name}-durations")  # coverage removes what is called .coverage.something


@dataclass(frozen=True)
class Touching:
    """by_file: which tests touch each line of a file. seconds: how long a test takes alone, where that is known."""

    by_file: dict[str, dict[int, set[str]]]
    seconds: dict[str, float]

    @classmethod
    def read(cls, data: Path) -> "Touching":
        from coverage import CoverageData

        found, by_file = CoverageData(str(data)), {}
        found.read()
        for file in found.measured_files():
            contexts = found.contexts_by_lineno(file).items()
            path = file[file.rindex("alignment/") :]
            by_file[path] = {line: {name.rpartition("|")[0] for name in names} - {""} for line, names in contexts}
        log = _durations(data).read_text(encoding="utf-8")
        took = re.findall(r"^([\d.]+)s (call|setup|teardown) +(\S.*)$", log, re.MULTILINE)
        setups: dict[str, float] = {}  # of a file: what its tests share is made by whichever runs first
        for seconds, what, test in took:
            file = test.partition("::")[0]
            setups[file] = max(setups.get(file, 0.0), float(seconds) if what == "setup" else 0.0)
        calls = {test: float(seconds) for seconds, what, test in took if what == "call"}
        seconds = {test: calls.get(test, 0.0) + setups[test.partition("::")[0]] for _, _, test in took}
        return cls(by_file, seconds)

    def tests(self, fault: Fault, source: str) -> list[str]:
        """Nearest first, then the fastest."""
        lines = self.by_file.get(fault.path, {})
        found = set().union(*(lines.get(line, set()) for line in fault.lines(source))) or set().union(*lines.values())
        ordered = sorted(found, key=lambda test: (_distance(test, fault), self.seconds.get(test, 0.0), test))
        return list(dict.fromkeys([*fault.also, *ordered]))[:MOST]


def _distance(test: str, fault: Fault) -> int:
    """2, 1 where its folder is the fault's, and 0 where its file is."""
    own, file = Path(fault.file), Path(test.partition("::")[0]).relative_to("tests")
    return 0 if file.stem == f"test_{own.stem}" else 1 if file.parent == own.parent else 2


# ---- one fault ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """ended: one of the tests failed, they all passed, or it became late; test: the one that failed, or ran then."""

    ended: str
    test: str
    seconds: float

    @classmethod
    def of(cls, said: str, code: int, late: bool) -> "Outcome":
        """What pytest printed, and its exit code."""
        if late:
            begun = re.findall(r"^(tests/\S+::.+?)(?: (?:PASSED|SKIPPED|XFAIL).*| *)$", said, re.MULTILINE)
            return cls("late", begun[-1] if begun else "", SECONDS)
        failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", said, re.MULTILINE)
        if code != 0 and failed is None:
            raise RuntimeError(f"pytest ended with {code}:\n{said[-2000:]}")
        seconds = float(re.findall(r" in ([\d.]+)s", said)[-1])
        return cls("failed", failed[1], seconds) if failed else cls("passed", "", seconds)


class Copy:
    """The repository's tracked files in a folder of their own, with the real data beside them."""

    def __init__(self, folder: Path) -> None:
        self.root, self._listed = folder / "repository", folder / "tests.txt"
        tracked = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
        for name in tracked.stdout.splitlines():
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, self.root / name)
        if (shared := REPOSITORY.parent / "shared").is_dir():
            (folder / "shared").symlink_to(shared)

    @contextmanager
    def fault(self, fault: Fault) -> Iterator[None]:
        path = self.root / fault.path
        source = path.read_text(encoding="utf-8")
        path.write_text(fault.made_in(source), encoding="utf-8")
        try:
            yield
        finally:
            path.write_text(source, encoding="utf-8")

    def run(self, tests: Sequence[str]) -> Outcome:
        """In this order, up to the first failure. They come from a file: a command line may not be that long."""
        self._listed.write_text("\n".join(tests) + "\n", encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-x", "-v", "--tb=no", "-p", "no:cacheprovider", "-m", FAST]
        # no .pyc: a fault may leave a file's size and the second of its last change as they are
        environment = {**os.environ, "PYTHONPATH": str(self.root), "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "400"}
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
        said, begun, late = "", Event(), Event()
        with subprocess.Popen([*command, f"@{self._listed}"], cwd=self.root, env=environment, **output) as process:
            Thread(target=_end_when_late, args=(process, begun, late), daemon=True).start()
            for line in process.stdout:
                said += line
                if line.startswith("collected "):
                    begun.set()
        return Outcome.of(said, process.returncode, late.is_set())


def _end_when_late(process: subprocess.Popen, begun: Event, late: Event) -> None:
    """Kills it and all that it started, once its tests have computed for SECONDS, or hang."""
    with suppress(psutil.NoSuchProcess, ProcessLookupError):  # it has ended
        before = waited = 0.0
        while (computed := _computed(process.pid) - before) < SECONDS and waited < PATIENCE:
            before += 0 if begun.is_set() else computed
            time.sleep(0.2)
            waited += 0.2  # not by a clock: both may have been stopped for a while
        late.set()
        os.killpg(process.pid, signal.SIGKILL)


def _computed(pid: int) -> float:
    """Seconds of a process, of all that it started, and of what those started."""
    found, first = 0.0, psutil.Process(pid)
    for one in (first, *first.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            found += sum(one.cpu_times()[:4])  # its own, and of its children that have ended
    return found


def found_by(fault: Fault, tests: Sequence[str], copy: Copy) -> dict:
    """By which test, or why by none."""
    result = {"caught": False, "by": "", "why": "", "tests": len(tests)}
    if not tests:
        return {**result, "why": "no test touches it"}
    with copy.fault(fault):
        outcome = copy.run(tests)  # late: a test that hangs by itself has caught it, one that was begun late has not
        alone = copy.run([outcome.test]) if outcome.ended == "late" and outcome.test else outcome
    without = copy.run([alone.test]) if alone.test else alone
    if "late" in (outcome.ended, without.ended) and (alone.ended == "passed" or without.ended == "late"):
        return {**result, "why": f"not in {SECONDS} s of tests"}
    if alone.ended == "passed":
        return result
    if without.ended == "failed":
        return {**result, "why": f"{alone.test} fails without it, too"}
    return {**result, "caught": True, "by": alone.test, "seconds": round(outcome.seconds, 1)}


def run(names: Sequence[str], data: Path, column: str, workers: int) -> None:
    touching, known = Touching.read(data), {fault.name: fault for fault in faults()}
    wanted = [known[name] for name in names or known]
    copies: SimpleQueue[Copy] = SimpleQueue()

    def one(fault: Fault) -> dict:
        copy = copies.get()
        found = found_by(fault, touching.tests(fault, (copy.root / fault.path).read_text(encoding="utf-8")), copy)
        copies.put(copy)
        return found

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(workers) as threads:
        for number in range(workers):
            copies.put(Copy(Path(folder) / str(number)))
        for fault, result in zip(wanted, threads.map(one, wanted), strict=True):
            print(f"{fault.name:28} {_cell(result)}", flush=True)
            results = _results()
            results[fault.name] = {**results.get(fault.name, {}), column: result}
            RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(table())


# ---- the table ------------------------------------------------------------------------------------------------------


def _results() -> dict[str, dict[str, dict]]:
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}


def _cell(result: dict | None) -> str:
    if result is None:
        return ""
    if result["caught"]:
        return f"`{result['by'].removeprefix('tests/').partition('[')[0]}`"
    return "**missed**" + (f": {result['why']}" if result["why"] else "")


def table() -> str:
    """Every fault, and the test by which it was caught."""
    results, rows = _results(), [HEAD, "|---|---|---|---|"]
    for fault in faults():
        found = results.get(fault.name, {})
        rows.append(f"| {fault.wrong} | `{fault.file}` | {' | '.join(_cell(found.get(name)) for name in COLUMNS)} |")
    return "\n".join(rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("map", "run", "table"))
    parser.add_argument("names", nargs="*", help="faults; all, if none is named")
    parser.add_argument("--coverage", type=Path, default=REPOSITORY / ".coverage", help="what map made")
    parser.add_argument("--column", choices=COLUMNS, default="after")
    parser.add_argument("--workers", type=int, choices=(1, 2), default=2)
    given = parser.parse_intermixed_args()
    if given.what == "map":
        make_map(given.coverage.absolute())
    if given.what == "run":
        run(given.names, given.coverage, given.column, given.workers)
    if given.what == "table":
        README.write_text(README.read_text(encoding="utf-8").partition(HEAD)[0] + table(), encoding="utf-8")


if __name__ == "__main__":
    main()
