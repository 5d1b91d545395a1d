"""How commands end: the exit code of every error, which scripts rely on, and what is printed."""

import errno
import os
import socket
from pathlib import Path
from typing import Any, Never

import click
import pytest

from tests.cli.line import all_modules
from volcrypt import errors
from volcrypt.cli import main
from volcrypt.cli.exits import Exit, exit_code_of

__all__ = ["all_modules"]

CODES = {
    Exit.FAILED: {
        "ComponentMissingError",
        "ConfigurationError",
        "ConfigurationFileError",
        "DryRunSucceededError",
        "FencedError",
        "GivenUpError",
        "KeyWipedError",
        "KmsError",
        "KmsInternalError",
        "LimitExceededError",
        "LostMountError",
        "MountError",
        "NoSpaceError",
        "NotConfirmedError",
        "ObjectNotFoundError",
        "OutOfRangeError",
        "PrincipalLimitError",
        "ReadOnlyError",
        "SnapshotError",
        "SnapshotFailedError",
        "TargetLostError",
        "TokenMissingError",
        "VolcryptError",
        "VolumeError",
    },
    Exit.USAGE: {
        "CustomerKeyMissingError",
        "InvalidAliasNameError",
        "InvalidArgumentError",
        "InvalidArnError",
        "InvalidGrantTokenError",
        "InvalidMarkerError",
        "KmsValidationError",
        "MalformedIdentityPolicyError",
        "MalformedPolicyError",
        "MountPointError",
        "SerializationError",
        "TagError",
        "UnknownOperationError",
        "UnsupportedOperationError",
    },
    Exit.NOT_FOUND: {
        "BucketNotFoundError",
        "ClusterNotFoundError",
        "CustomKeyStoreNotFoundError",
        "HomeNotInitialisedError",
        "InvalidGrantIdError",
        "KeyNotFoundError",
        "NoSuchEntityError",
        "RecordCopyNotFoundError",
        "SnapshotNotFoundError",
        "StoreNotFoundError",
        "VolumeNotFoundError",
        "WorkNotFoundError",
    },
    Exit.IN_USE: {
        "AlreadyExistsError",
        "ClusterInUseError",
        "ConflictError",
        "CustomKeyStoreHasKeysError",
        "CustomKeyStoreNameInUseError",
        "DeleteConflictError",
        "EntityExistsError",
        "MountPointTakenError",
        "NameTakenError",
        "SnapshotInUseError",
        "VolumeInUseError",
    },
    Exit.DENIED: {
        "AccessDeniedError",
        "ClusterNotActiveError",
        "ClusterNotRelatedError",
        "CustomKeyStoreInvalidStateError",
        "ExpiredImportTokenError",
        "HomeAccessError",
        "IncompleteSignatureError",
        "IncorrectKeyError",
        "IncorrectKeyMaterialError",
        "IncorrectTrustAnchorError",
        "InvalidImportTokenError",
        "InvalidKeyUsageError",
        "InvalidSignatureError",
        "InvalidStateError",
        "KeyDisabledError",
        "KeyGoneError",
        "MissingAuthenticationError",
        "NotAuthorizedError",
        "PinLockedError",
        "PrincipalAccessDeniedError",
        "PrivilegeError",
        "StoreAccessError",
        "UnrecognizedClientError",
        "WrongCustomerKeyError",
        "WrongPassphraseError",
        "WrongPinError",
    },
    Exit.INTEGRITY: {
        "AuditChainError",
        "BadMagicError",
        "ChunkCorruptError",
        "ChunkMissingError",
        "FormatError",
        "IntegrityError",
        "InvalidCiphertextError",
        "MalformedError",
        "ObjectLostError",
        "RecordMissingError",
        "RollbackError",
        "SealError",
        "StoreReplacedError",
        "SweepBlockedError",
        "UnknownGenerationError",
        "UnsupportedVersionError",
        "VerificationError",
    },
    Exit.TRY_AGAIN: {
        "DeviceMissingError",
        "HsmUnavailableError",
        "ObjectStoreError",
        "PausedError",
        "SignatureTimeError",
        "SnapshotPendingError",
        "SourceChangedError",
        "StoreAccessNowError",
        "ThrottlingError",
        "TryAgainError",
    },
}


@pytest.mark.usefixtures("all_modules")
def test_every_error_ends_with_its_code() -> None:
    """A code that changes breaks scripts: only what is new may be added here."""

    def classes(kind: type[errors.VolcryptError]) -> set[type[errors.VolcryptError]]:
        return {kind}.union(*map(classes, kind.__subclasses__()))

    found: dict[Exit, set[str]] = {}
    for kind in classes(errors.VolcryptError):
        # What a test made is none of ours, nor is what its module keeps to itself.
        if kind.__module__.startswith("volcrypt.") and not kind.__name__.startswith("_"):
            found.setdefault(exit_code_of(kind.__new__(kind)), set()).add(kind.__name__)
    assert found == CODES
    assert {code.name: code.value for code in Exit} == {
        "DONE": 0,
        "FAILED": 1,
        "USAGE": 2,
        "NOT_FOUND": 3,
        "IN_USE": 4,
        "DENIED": 5,
        "INTEGRITY": 6,
        "TRY_AGAIN": 7,
        "FINDING": 8,
        "INTERRUPTED": 130,
    }


def ended(monkeypatch: pytest.MonkeyPatch, answer: Any, *words: str, again: float = 0.0) -> int:
    """How a command ends that raises or returns `answer`."""

    def command(*_arguments: object, **_keywords: object) -> Any:
        if isinstance(answer, BaseException):
            raise answer
        return answer

    monkeypatch.setattr(main.volcrypt, "main", command)
    monkeypatch.setattr(main, "_AGAIN_SECONDS", again)
    return main.run(list(words))


GOES_ON = "hint: the same command goes on where this one stopped\n"


@pytest.mark.parametrize(
    ("error", "words", "code", "said"),
    [
        (
            errors.VolumeNotFoundError("data"),
            ["volume", "show"],
            3,
            "error: volume data does not exist\nhint: volcrypt volume list\n",
        ),
        (
            errors.InvalidArgumentError("The  thing\nis wrong.", hint="mend it"),
            [],
            2,
            "error: the thing is wrong\nhint: mend it\n",
        ),
        (errors.VolcryptError("KMS says no."), [], 1, "error: KMS says no\n"),
        (
            errors.ConfigurationFileError("config.toml", ["line 1: a", "line 2: b"]),
            [],
            1,
            "error: config.toml: line 1: a\nerror: config.toml: line 2: b\n",
        ),
        (KeyboardInterrupt(), ["volume", "list"], 130, "error: interrupted\n"),
        *(
            (kind, words, 130, "error: interrupted\n" + GOES_ON)
            for kind in (KeyboardInterrupt(), click.exceptions.Abort())
            for words in (
                ["encrypt", "v"],
                ["rekey", "v"],
                ["snapshot", "copy", "s"],
                ["volume", "import", "f"],
            )
        ),
        (OSError(errno.EIO, "Input/output error", "/f"), [], 1, "error: /f: Input/output error\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/f"),
            [],
            1,
            "error: /f: No space left on device\nhint: free some space and try again\n",
        ),
        (
            OSError(errno.EDQUOT, "Disk quota exceeded"),
            [],
            1,
            "error: disk quota exceeded\nhint: free some space and try again\n",
        ),
        (
            ValueError("what"),
            [],
            1,
            (
                "error: internal error: ValueError: what\n"
                "hint: this is a bug in volcrypt; VOLCRYPT_DEBUG=1 shows where\n"
            ),
        ),
        (click.UsageError("No such option."), [], 2, "error: no such option\n"),
    ],
)
def test_an_error_is_lines_and_a_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    words: list[str],
    code: int,
    said: str,
) -> None:
    monkeypatch.delenv("VOLCRYPT_DEBUG", raising=False)
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert ended(monkeypatch, error, *words) == code
    assert capsys.readouterr() == ("", said)


def test_a_command_may_say_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ended(monkeypatch, None) == 0
    assert ended(monkeypatch, Exit.FINDING) == 8


def test_a_bug_shows_itself_to_who_looks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOLCRYPT_DEBUG", "1")
    with pytest.raises(ValueError, match="what"):
        ended(monkeypatch, ValueError("what"))


def test_a_service_tells_systemd_and_waits_before_it_is_started_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("SYSTEMD_EXEC_PID", str(os.getpid()))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        again = errors.TryAgainError("the KMS is away", hint="wait")
        assert ended(monkeypatch, again, again=5.0) == 7
        assert manager.recv(4096) == b"STATUS=error: the KMS is away; hint: wait"
        assert waited == [5.0]
        # What trying again does not mend is over at once; so is the command that a service runs.
        assert ended(monkeypatch, errors.KmsError("no"), again=5.0) == 1
        assert manager.recv(4096) == b"STATUS=error: no"
        monkeypatch.setenv("SYSTEMD_EXEC_PID", "1")
        assert ended(monkeypatch, again, again=5.0) == 7
        assert waited == [5.0]


class _ClosedPipe:
    def flush(self) -> Never:
        raise BrokenPipeError

    def fileno(self) -> int:
        return self.descriptor

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor


def test_output_that_nobody_reads_is_a_failure_without_a_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        with monkeypatch.context() as patch:
            patch.setattr("sys.stdout", _ClosedPipe(writer))
            assert ended(patch, None) == 1
            # What is flushed at the end of Python goes nowhere.
            os.write(writer, b"x")
    finally:
        os.close(writer)
    assert capsys.readouterr().err == ""
