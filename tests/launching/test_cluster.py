"""The clusters themselves: what the tests that run on them take for granted."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.launching import slurm as scheduler

pytestmark = pytest.mark.slow

# What a job does that needs more time than it is given: shortly before its end USR1 reaches the script, which passes it
# on to the tasks, waits until they have saved, and puts itself back in the queue.
GOES_ON = """#!/bin/bash
trap 'kill -USR1 $tasks' USR1
srun bash -c '
    trap "echo saved on $SLURMD_NODENAME; exit" USR1
    [ -n "$SLURM_RESTART_COUNT" ] || while true; do sleep 0.1 & wait; done
' &
tasks=$!
while kill -0 $tasks 2> /dev/null; do wait $tasks; done
echo "run ${SLURM_RESTART_COUNT:-0} ended"
[ -n "$SLURM_RESTART_COUNT" ] || scontrol requeue $SLURM_JOB_ID
"""
LASTS = """#!/bin/bash
[ -n "$SLURM_RESTART_COUNT" ] || srun bash -c 'echo runs; exec sleep 600'
"""
FAILS = "#!/bin/bash\nexit 3"
ENDS = "#!/bin/bash"

SUMS = Path(__file__).with_name("sums.py")
ANSWERS = """
import socket
connection, _ = socket.create_server(("two", 5000)).accept()
while data := connection.recv(1):
    connection.sendall(data)
"""
ASKS = """
import socket, time
while True:
    try:
        connection = socket.create_connection(("two", 5000))
        break
    except ConnectionRefusedError:
        time.sleep(0.1)
while True:
    connection.sendall(b"?")
    connection.recv(1)
    print("answered", flush=True)
    time.sleep(0.05)
"""


def submit(slurm, script: str, *options: str) -> str:
    """The job's number; what all its runs print goes to <number>.out."""
    always = ["--parsable", "--open-mode=append", "--output=%j.out", "--time=1", "--ntasks-per-node=1"]
    return slurm.run(["sbatch", *always, *options], input=script).strip()


def test_nothing_is_left_of_a_slurm_that_cannot_start(slurm_programs, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(scheduler, "CONFIGURATION", scheduler.CONFIGURATION + "NoSuchSetting=1\n")
    with pytest.raises(AssertionError, match="NoSuchSetting"), scheduler.slurm():
        pass
    assert not list(tmp_path.iterdir())
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")]
    assert not [command for command in commands if str(tmp_path).encode() in command]


def test_a_command_runs_on_both_nodes(slurm):
    printed = slurm.run(["srun", "--nodes=2", "bash", "-c", "echo $SLURM_NODEID $SLURMD_NODENAME"])
    assert sorted(printed.splitlines()) == ["0 n1", "1 n2"]


def test_a_job_saves_before_its_time_is_up_and_goes_on_and_its_dependant_runs_after_it(slurm):
    job = submit(slurm, GOES_ON, "--nodes=2", "--signal=B:USR1@30")  # Slurm looks every 30 s
    dependant = submit(slurm, ENDS, f"--dependency=afterok:{job}")
    assert slurm.wait([job, dependant], timeout=58) == {job: "COMPLETED", dependant: "COMPLETED"}
    lines = (slurm.folder / f"{job}.out").read_text().splitlines()
    ours = [line for line in lines if line.startswith(("saved", "run"))]
    assert (sorted(ours[:2]), ours[2:]) == (["saved on n1", "saved on n2"], ["run 0 ended", "run 1 ended"])


def test_the_dependant_of_a_job_that_fails_never_runs(slurm):
    job = submit(slurm, FAILS)
    dependant = submit(slurm, ENDS, f"--dependency=afterok:{job}")
    assert slurm.wait([job, dependant], timeout=20) == {job: "FAILED", dependant: "DependencyNeverSatisfied"}
    slurm.run(["scancel", dependant])


def test_a_job_whose_node_stops_runs_again_when_it_is_back(slurm):
    job = submit(slurm, LASTS, "--nodes=2")
    output = slurm.folder / f"{job}.out"
    slurm.until(lambda: output.exists() and output.read_text().count("runs") == 2)  # before, the job would just fail
    slurm.stop_node("n2")
    slurm.until(lambda: slurm.state(job) == "PENDING", timeout=50)
    slurm.start_node("n2")
    assert slurm.wait([job], timeout=20) == {job: "COMPLETED"}
    assert slurm.show("job", job)["Restarts"] == "1"


def test_hosts_that_are_cut_hear_nothing_of_each_other_until_they_are_joined(hosts, tmp_path):
    answers = tmp_path / "answers"
    hosts.start("two", [sys.executable, "-c", ANSWERS])
    with answers.open("w") as output:
        hosts.start("one", [sys.executable, "-c", ASKS], stdout=output)

    def grows(seconds: float) -> bool:
        size, deadline = answers.stat().st_size, time.monotonic() + seconds
        while answers.stat().st_size == size and time.monotonic() < deadline:
            time.sleep(0.1)
        return answers.stat().st_size > size

    assert grows(10)
    hosts.cut()
    time.sleep(0.5)  # what was under way has arrived
    assert not grows(3)
    hosts.join()
    assert grows(20)


def test_ranks_on_two_hosts_sum_until_these_are_cut(hosts, tmp_path):
    """The ranks give up; the launcher of the second host doesn't: it goes on looking for the first one's."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    meet = ["--rdzv-backend=c10d", "--rdzv-id=sums", "--rdzv-endpoint=one:29500"]
    logs = [tmp_path / "one", tmp_path / "two"]
    for log in logs:
        with log.open("w") as output:
            hosts.start(log.name, [*launch, *meet, str(SUMS)], stdout=output, stderr=subprocess.STDOUT)

    def both_say(words: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not all(words in log.read_text() for log in logs):
            assert time.monotonic() < deadline, [log.read_text() for log in logs]
            time.sleep(0.1)

    both_say("sum 2", 40)
    hosts.cut()
    both_say("Timed out waiting 10000ms", 20)
