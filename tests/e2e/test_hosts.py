"""Three processes make, delete, sweep and verify in one store at once, one of them is killed and
comes back; then the store holds what they were told, and nothing else."""

from pathlib import Path

import pytest

from tests.host_process import Hosts, Place
from tests.s3_server import S3Server


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "local":
        (tmp_path / "store").mkdir()
        return tmp_path / "store"
    server: S3Server = request.getfixturevalue("s3_server")
    # What the fixture started stays the test's: the processes have only its address.
    addressed = S3Server(server.directory)
    addressed.port = server.port
    return addressed, request.getfixturevalue("prefix")


def test_three_processes_in_one_store(place: Place, tmp_path: Path) -> None:
    hosts = Hosts(place, tmp_path, acts=12)
    hosts.run()
    whats = [each["what"] for each in hosts.entries()]
    assert min(whats.count(what) for what in ("completed", "deleting")) >= 3


@pytest.mark.soak
def test_three_processes_for_long(place: Place, tmp_path: Path) -> None:
    Hosts(place, tmp_path, acts=1500, count=4, kills=100).run()
