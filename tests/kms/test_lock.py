"""Who may use a home: commands together, or one server alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.kms import ACCOUNT, REGION, ROOT
from volcrypt.errors import MalformedError, TryAgainError
from volcrypt.kms.home import create_kms, open_kms
from volcrypt.kms.lock import WriterLock, held_home, is_served
from volcrypt.kms.messages.keys import CreateKeyRequest


@pytest.fixture
def serving(memory_path: Path) -> Path:
    (memory_path / "kms").mkdir()
    return memory_path / "kms" / "serving"


def test_commands_share_a_home(serving: Path) -> None:
    with held_home(serving, exclusive=False), held_home(serving, exclusive=False):
        assert serving.read_bytes() == b""
        assert not is_served(serving)


def test_a_server_has_it_alone_and_says_who_it_is(serving: Path) -> None:
    assert not is_served(serving)
    with held_home(serving, exclusive=True):
        assert is_served(serving)
        for exclusive in (False, True):
            with (
                pytest.raises(
                    TryAgainError, match=rf"held by volcrypt kms serve \(process {os.getpid()}\)"
                ) as raised,
                held_home(serving, exclusive=exclusive, patience_seconds=0.01),
            ):
                pass
            assert str(serving.parent.parent) in str(raised.value)
            assert raised.value.hint is not None
    with held_home(serving, exclusive=False):
        pass


def test_a_server_does_not_push_commands_away(serving: Path) -> None:
    with (
        held_home(serving, exclusive=False),
        pytest.raises(TryAgainError, match="held by other commands"),
        held_home(serving, exclusive=True, patience_seconds=0.01),
    ):
        pass
    with held_home(serving, exclusive=True):
        pass


def test_a_server_that_was_killed_holds_nothing(serving: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from volcrypt.kms.lock import held_home\n"
        "with held_home(Path(sys.argv[1]), exclusive=True): os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program, serving], check=False)
    assert b"kms serve" in serving.read_bytes()
    with held_home(serving, exclusive=False):
        pass
    # What the dead one left is not taken for the name of somebody else.
    with (
        held_home(serving, exclusive=False),
        pytest.raises(TryAgainError, match="held by other commands"),
        held_home(serving, exclusive=True, patience_seconds=0.01),
    ):
        pass


OTHER = """
import sys
from pathlib import Path
from tests.fakes.kms import ACCOUNT, REGION
from volcrypt.kms.home import open_kms

home = Path(sys.argv[1])
with open_kms(home / "kms", home / "run", account=ACCOUNT, region=REGION):
    pass
"""


def test_a_home_that_is_served_is_not_opened_by_others(memory_path: Path) -> None:
    create_kms(memory_path / "kms", memory_path / "run", account=ACCOUNT, region=REGION, pin=None)

    def open_elsewhere() -> str:
        return subprocess.run(
            [sys.executable, "-c", OTHER, memory_path],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=False,
        ).stderr

    for exclusive in (True, False):
        with open_kms(
            memory_path / "kms",
            memory_path / "run",
            account=ACCOUNT,
            region=REGION,
            exclusive=exclusive,
        ) as service:
            service.perform(ROOT, CreateKeyRequest())
            problem = open_elsewhere()
        assert ("TryAgainError" in problem) == exclusive, problem
        assert ("volcrypt kms serve" in problem) == exclusive


def test_a_pipe_is_no_lock(serving: Path) -> None:
    os.mkfifo(serving)
    with (
        pytest.raises(MalformedError, match="not a regular file"),
        held_home(serving, exclusive=False),
    ):
        pass
    with pytest.raises(MalformedError, match="not a regular file"):
        WriterLock(serving)
    with pytest.raises(MalformedError, match="not a regular file"):
        is_served(serving)
