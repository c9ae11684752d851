"""The clusters that tests run on."""

import os
from collections.abc import Iterator

import pytest
from filelock import FileLock

from tests.launching import hosts as network
from tests.launching import slurm as scheduler


@pytest.fixture(scope="session")
def slurm_programs() -> None:
    if missing := scheduler.missing():
        reason = f"no {missing} here: tests/launching/install.sh installs them"
        pytest.fail(reason, pytrace=False) if "CI" in os.environ else pytest.skip(reason)


@pytest.fixture(scope="session")
def _cluster(slurm_programs) -> Iterator[scheduler.Slurm]:
    with scheduler.slurm() as cluster:
        yield cluster


@pytest.fixture
def slurm(_cluster, tmp_path_factory) -> Iterator[scheduler.Slurm]:
    """A worker's own cluster, while no other worker uses one: jobs of the same number would meet at the same port."""
    base = tmp_path_factory.getbasetemp()
    with FileLock((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "slurm.lock"):
        yield _cluster


@pytest.fixture
def hosts() -> Iterator[network.Hosts]:
    if reason := network.not_permitted():
        pytest.skip(reason)
    with network.hosts() as pair:
        yield pair
