"""Local copies in every layout, the hub through its real client, its cache, and every way of not getting there."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alignment.data.places import PLACES, files_of
from alignment.types import UserError
from tests.conftest import REPOSITORY
from tests.data.hub_server import HubServer
from tests.real_data import DATA, needs_data

SCRIPT = """
import sys
from alignment.data.places import files_of
from alignment.types import UserError
try:
    for file in files_of(sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else None):
        print(file)
except UserError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")


def relative(files, folder):
    return [str(file.relative_to(folder)) for file in files]


@pytest.fixture
def ask(tmp_path):
    """files_of in a process of its own, since the hub's client reads its environment when it is imported."""

    def run(endpoint, name, *split, offline=False):
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(REPOSITORY)}
        environment |= {"HF_HUB_OFFLINE": "1"} if offline else {}
        command = [sys.executable, "-c", SCRIPT, name, str(tmp_path / "data"), *split]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    return run


@pytest.fixture
def hub():
    files = {
        "tatsu-lab/alpaca_eval": {"README.md": b"hello", "alpaca_eval.json": b"[]", "alpaca_eval_all.json": b"[1]"},
        "Anthropic/hh-rlhf": {
            f"{part}/{split}.jsonl.gz": f"{part} {split}".encode()
            for part in ("harmless-base", "helpful-base")
            for split in ("train", "test")
        },
        "cais/mmlu": {"all/dev-00000-of-00001.parquet": b"dev"},
        "OpenSafetyLab/Salad-Data": {"README.md": b"moved"},
    }
    with HubServer(files, gated={"walledai/AdvBench"}) as server:
        yield server
        server.shutdown()


def one_line(result):
    assert result.returncode == 2, result.stderr
    assert result.stdout.count("\n") == 1 and "Traceback" not in result.stderr
    return result.stdout


def test_a_local_copy_in_every_layout(tmp_path):
    touch(tmp_path, "hh_rlhf/harmless-base/test.jsonl.gz")
    assert relative(files_of("hh_harmless", str(tmp_path)), tmp_path) == ["hh_rlhf/harmless-base/test.jsonl.gz"]
    touch(tmp_path, "hh_rlhf/harmless-base/train.jsonl.gz")
    both = ["hh_rlhf/harmless-base/train.jsonl.gz", "hh_rlhf/harmless-base/test.jsonl.gz"]
    assert relative(files_of("hh_harmless", str(tmp_path)), tmp_path) == both
    assert relative(files_of("hh_harmless", str(tmp_path), "test"), tmp_path) == both[1:]
    touch(tmp_path, "Anthropic/hh-rlhf/harmless-base/test.jsonl.gz")
    found = relative(files_of("hh_harmless", str(tmp_path), "test"), tmp_path)
    assert found == ["Anthropic/hh-rlhf/harmless-base/test.jsonl.gz"]  # the hub's own layout comes first
    touch(tmp_path, "harmbench/contextual/train-00000-of-00001.parquet", "harmbench/harmbench_behaviors_text_all.csv")
    found = relative(files_of("harmbench", str(tmp_path)), tmp_path)
    assert found == ["harmbench/harmbench_behaviors_text_all.csv"]  # one of three parts isn't the set
    touch(tmp_path, *(f"harmbench/{part}/train-00000-of-00001.parquet" for part in ("standard", "copyright")))
    assert len(files_of("harmbench", str(tmp_path))) == 3
    touch(tmp_path, "pku_saferlhf_30k/round0/train.jsonl.xz", "pku_saferlhf_30k/round0/test.jsonl.xz")
    assert relative(files_of("pku_saferlhf_30k", str(tmp_path), "train"), tmp_path) == [
        "pku_saferlhf_30k/round0/train.jsonl.xz"
    ]


@needs_data
def test_the_copies_beside_the_repository_are_found():
    there = {name for name in PLACES if name not in {"pku_saferlhf_10k", "hh_helpful", "red_team", "rewardbench"}}
    for name in there:
        assert all(file.is_file() for file in files_of(name, str(DATA))), name
    assert len(files_of("mmlu", str(DATA), "dev")) == 4 and len(files_of("mmlu", str(DATA))) == 8
    assert len(files_of("xstest_completions", str(DATA))) == 2


def test_wrong_names_are_one_line(tmp_path):
    for name, split, words in (
        ("alpaka", None, "no data set of that name; give one of pku_saferlhf"),
        ("mmlu", "train", "mmlu: has no split 'train'; give one of dev, test"),
        ("advbench", "test", "has no split 'test'; leave it null"),
        ("helm_graded", None, f"looked for helm_safety_graded/graded.jsonl below {tmp_path}; put it there"),
    ):
        with pytest.raises(UserError, match=words) as error:
            files_of(name, str(tmp_path), split)
        assert "\n" not in str(error.value)


def test_the_hub_once_then_the_cache(ask, hub, tmp_path):
    result = ask(hub.url, "alpaca_eval")
    assert result.returncode == 0, result.stderr
    (file,) = result.stdout.split()
    assert file.endswith("/alpaca_eval.json") and Path(file).read_text() == "[]"
    fetched = [request for request in hub.requests if request.startswith("GET") and "/resolve/" in request]
    assert len(fetched) == 1  # neither the README nor the other file
    hub.requests.clear()
    assert ask(hub.url, "alpaca_eval").stdout.split() == [file]
    assert not [request for request in hub.requests if request.startswith("GET") and "/resolve/" in request]
    hub.requests.clear()
    assert ask(hub.url, "alpaca_eval", offline=True).stdout.split() == [file]
    assert hub.requests == []


def test_a_split_of_the_hub_and_what_is_missing_offline(ask, hub):
    result = ask(hub.url, "hh_harmless", "test")
    (file,) = result.stdout.split()
    assert Path(file).read_text() == "harmless-base test"
    assert ask(hub.url, "hh_harmless", "test", offline=True).stdout.split() == [file]
    line = one_line(ask(hub.url, "hh_harmless", "train", offline=True))
    assert "hh_rlhf/harmless-base/train.jsonl.gz below" in line and "Anthropic/hh-rlhf (offline" in line
    line = one_line(ask(hub.url, "hh_harmless", offline=True))  # both splits are asked for, one is cached
    assert "offline, and not all of it in the cache" in line
    assert len(ask(hub.url, "hh_harmless").stdout.split()) == 2
    assert len(ask(hub.url, "hh_harmless", offline=True).stdout.split()) == 2


def test_offline_without_a_cache_says_what_and_where(ask, hub, tmp_path):
    line = one_line(ask(hub.url, "alpaca_eval", offline=True))
    for part in (
        f"alpaca_eval/alpaca-7b.model_outputs.json below {tmp_path / 'data'}",
        f"alpaca_eval.json below {tmp_path / 'data' / 'alpaca_eval'}",
        "on the hub in tatsu-lab/alpaca_eval (offline, and not all of it in the cache)",
        "put them in one of these folders",
    ):
        assert part in line
    assert hub.requests == []


def test_a_hub_that_says_no(ask, hub):
    assert "no such data set, or wants you logged in" in one_line(ask(hub.url, "xstest"))
    assert "gated: accept its terms" in one_line(ask(hub.url, "advbench"))
    assert "which doesn't hold them" in one_line(ask(hub.url, "salad"))
    assert "which doesn't hold them" in one_line(ask(hub.url, "mmlu", "test"))


def test_a_hub_that_is_down(ask, hub):
    (file,) = ask(hub.url, "alpaca_eval").stdout.split()
    hub.broken = True
    assert ask(hub.url, "alpaca_eval").stdout.split() == [file]  # the cache serves
    assert "the hub answered 503" in one_line(ask(hub.url, "hh_harmless", "test"))
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{unused.getsockname()[1]}"
    assert ask(nobody, "alpaca_eval").stdout.split() == [file]
    assert f"the hub can't be reached at {nobody}" in one_line(ask(nobody, "hh_harmless", "test"))


def test_a_hub_that_never_answers_is_waited_for_a_few_seconds_only(ask):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it accepts, and says nothing
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        line = one_line(ask(url, "hh_harmless", "test"))
        assert time.monotonic() - started < 20, "with the start of Python"
        assert f"(the hub can't be reached: {url} gives no answer within 4 s)" in line
