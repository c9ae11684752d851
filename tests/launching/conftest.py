"""The clusters that tests run on."""

import os
from collections.abc import Iterator

import pytest

from tests.launching import hosts as network
from tests.launching import slurm as scheduler


@pytest.fixture(scope="session")
def slurm_programs() -> None:
    if missing := scheduler.missing():
        reason = f"no {missing} here: tests/launching/install.sh installs them"
        pytest.fail(reason, pytrace=False) if "CI" in os.environ else pytest.skip(reason)


@pytest.fixture(scope="session")
def slurm(slurm_programs) -> Iterator[scheduler.Slurm]:
    with scheduler.slurm() as cluster:
        yield cluster


@pytest.fixture
def hosts() -> Iterator[network.Hosts]:
    if reason := network.not_permitted():
        pytest.skip(reason)
    with network.hosts() as pair:
        yield pair
