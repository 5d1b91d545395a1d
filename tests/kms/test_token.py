"""The token's files: a master that nobody touches, copies that leave nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from volcrypt.errors import ConfigurationError, FormatError, RecordMissingError, SealError
from volcrypt.kms.token import (
    MASTER,
    configuration_of,
    private_copy,
    save_master,
)


@pytest.fixture
def master(memory_path: Path) -> Path:
    """A master with the files `a/one` and `a/two`."""
    directory = memory_path / "token"
    with private_copy(memory_path / "make", master=None) as copy:
        (copy / "tokens" / "a").mkdir()
        (copy / "tokens" / "a" / "one").write_bytes(b"1")
        (copy / "tokens" / "a" / "two").write_bytes(b"")
        save_master(directory, copy)
    return directory


def test_a_copy_holds_the_files_of_the_master(memory_path: Path, master: Path) -> None:
    runtime = memory_path / "run"
    with private_copy(runtime, master=master) as copy:
        assert (copy / "tokens" / "a" / "one").read_bytes() == b"1"
        assert (copy / "tokens" / "a" / "two").read_bytes() == b""
        assert f"directories.tokendir = {copy}/tokens" in configuration_of(copy).read_text()
        assert copy.stat().st_mode & 0o777 == 0o700
        assert (copy / "tokens" / "a" / "one").stat().st_mode & 0o777 == 0o600
        assert runtime.stat().st_mode & 0o777 == 0o700
    assert os.listdir(runtime) == ["token.lock"]


def test_what_happens_to_a_copy_does_not_happen_to_the_master(
    memory_path: Path, master: Path
) -> None:
    with private_copy(memory_path / "run", master=master) as copy:
        (copy / "tokens" / "a" / "one").write_bytes(b"")
    with private_copy(memory_path / "run", master=master) as copy:
        assert (copy / "tokens" / "a" / "one").read_bytes() == b"1"


def test_copies_live_side_by_side(memory_path: Path, master: Path) -> None:
    runtime = memory_path / "run"
    with (
        private_copy(runtime, master=master) as one,
        private_copy(runtime, master=master) as other,
    ):
        assert one != other
        assert one.exists()
    assert not list(runtime.glob("token-*"))


def test_the_copy_of_a_killed_process_is_removed(memory_path: Path, master: Path) -> None:
    runtime = memory_path / "run"
    program = (
        "import os, signal, sys; from pathlib import Path\n"
        "from volcrypt.kms.token import private_copy\n"
        "with private_copy(Path(sys.argv[1]), master=Path(sys.argv[2])):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", program, runtime, master], check=False)
    (leftover,) = runtime.glob("token-*")
    with private_copy(runtime, master=master) as copy:
        assert list(runtime.glob("token-*")) == [copy]
    assert not leftover.exists()


def test_a_runtime_directory_of_others_is_refused(memory_path: Path, master: Path) -> None:
    runtime = memory_path / "run"
    runtime.mkdir()
    runtime.chmod(0o755)
    with (
        pytest.raises(ConfigurationError, match="nobody else"),
        private_copy(runtime, master=master),
    ):
        pass
    runtime.chmod(0o700)
    os.chown(runtime, 12345, -1)
    with pytest.raises(ConfigurationError), private_copy(runtime, master=master):
        pass


def test_a_damaged_or_missing_master_is_said(memory_path: Path, master: Path) -> None:
    data = (master / MASTER).read_bytes()
    for broken in (b"", data[:-10], data.replace(b"MQ==", b"Mg==")):
        (master / MASTER).write_bytes(broken)
        with (
            pytest.raises((FormatError, SealError), match="token "),
            private_copy(memory_path / "run", master=master),
        ):
            pass
    (master / MASTER).unlink()
    with (
        pytest.raises(RecordMissingError, match="missing on disk"),
        private_copy(memory_path / "run", master=master),
    ):
        pass
    assert not list((memory_path).glob("run/token-*"))
