"""The tree of errors: what a user reads, and what the edges translate from."""

import inspect
import re

import pytest

from volcrypt import errors
from volcrypt.errors import KmsError, VolcryptError

MADE: list[tuple[VolcryptError, str, str | None]] = [
    (errors.VolcryptError("it broke"), "it broke", None),
    (errors.VolcryptError("it broke", hint="mend it"), "it broke", "mend it"),
    (errors.ComponentMissingError("/dev/fuse"), "/dev/fuse is missing", None),
    (
        errors.ComponentMissingError("fusermount3", package="fuse3"),
        "fusermount3 is missing",
        "apt-get install fuse3",
    ),
    (
        errors.HomeNotInitialisedError("/h"),
        "no volcrypt home at /h",
        "'volcrypt --home /h init' makes one there; --home or VOLCRYPT_HOME name another",
    ),
    (
        errors.ConfigurationFileError("config.toml", ["line 1: a", "line 2: b"]),
        "config.toml: line 1: a; line 2: b",
        None,
    ),
    (
        errors.HomeAccessError("/h/home"),
        "no permission to read /h/home",
        errors.HomeAccessError.hint,
    ),
    (errors.FormatError("record", "too long"), "record: too long", None),
    (
        errors.BadMagicError("record"),
        "record: not a volcrypt document of this kind",
        None,
    ),
    (
        errors.UnsupportedVersionError("record", 3, 1),
        "record: version 3 is not supported, this release knows 1",
        None,
    ),
    (errors.MalformedError("record", "truncated"), "record: truncated", None),
    (
        errors.SealError("record"),
        "record: its seal does not hold, it was changed or is another's",
        None,
    ),
    (
        errors.StoreReplacedError("/s", found="store-a", expected="store-b"),
        "snapshot store /s is store-a, an older or foreign one in place of store-b",
        "put store-b back; 'volcrypt store trust' joins the other one, where that is moved to",
    ),
    (
        errors.RollbackError("record"),
        (
            "record: it is not the current version; it is damaged, or an older or foreign one "
            "was put in its place"
        ),
        None,
    ),
    (
        errors.DeviceMissingError("/dev/sdz"),
        "data device /dev/sdz is not there",
        "connect it, and try again",
    ),
    (errors.RecordMissingError("vol-1"), "vol-1 is registered, and missing on disk", None),
    (
        errors.ChunkMissingError("ab12", "snapshot snap-1"),
        "snapshot snap-1: object ab12 is missing from the store",
        None,
    ),
    (
        errors.ChunkCorruptError("ab12", "snapshot snap-1"),
        "snapshot snap-1: object ab12 is damaged",
        None,
    ),
    (
        errors.KeyDisabledError("key k is disabled"),
        "key k is disabled",
        "enable it with 'volcrypt kms enable-key'",
    ),
    (
        errors.UnknownGenerationError(2),
        "key material is wrapped under key 2 of the token, which it does not have",
        None,
    ),
    (
        errors.KeyGoneError("k"),
        "key k does not exist, and nothing that is under it can be read",
        "if it was deleted, what is under it is lost; 'volcrypt report key' says what and when",
    ),
    (errors.VolumeNotFoundError("data"), "volume data does not exist", "volcrypt volume list"),
    (
        errors.FencedError("key k is disabled"),
        "the volume is fenced: key k is disabled",
        "unmount or detach it; it can be mounted again when its key, or lease, can be had again",
    ),
    (
        errors.VolumeInUseError("data", "process 7 (mount)", hint="unmount it"),
        "volume data is in use by process 7 (mount)",
        "unmount it",
    ),
    (errors.NotConfirmedError(), "not confirmed: nothing was done", None),
    (errors.NameTakenError("volume", "data"), "a volume named data exists already", None),
    (
        errors.NoSpaceError("no space left for /x"),
        "no space left for /x",
        "free some space and try again; nothing was lost",
    ),
    (
        errors.VolumeInUseError("/dev/sdb", "the kernel", kind="device"),
        "device /dev/sdb is in use by the kernel",
        None,
    ),
    (
        errors.SnapshotNotFoundError("snap-1"),
        "snapshot snap-1 does not exist",
        "volcrypt snapshot list",
    ),
    (
        errors.SnapshotNotFoundError("x", kind="volume or snapshot"),
        "volume or snapshot x does not exist",
        "volcrypt snapshot list",
    ),
    (
        errors.SweepBlockedError("/s", "snap-1", "the manifest is damaged"),
        "nothing can be swept from /s while snapshot snap-1 is damaged: the manifest is damaged",
        (
            "all that is damaged is named by 'volcrypt snapshot verify'; that snapshot is given up "
            "with 'volcrypt snapshot delete snap-1'"
        ),
    ),
    (
        errors.TargetLostError(OSError(5, "Input/output error")),
        "the new data file of the volume cannot be used: [Errno 5] Input/output error",
        "see to the storage; nothing was lost, and the same command goes on from there",
    ),
    (errors.ObjectNotFoundError("chunks/ab"), "object chunks/ab does not exist", None),
    (
        errors.ObjectLostError("s3://b", "chunks/ab", None),
        (
            "snapshot store s3://b: the service said that it stored object chunks/ab, and there is "
            "none"
        ),
        "nothing that was complete is lost; do not rely on this service before you know why",
    ),
    (
        errors.RecordCopyNotFoundError("vol-1", "copy of its record at /d", hint="look there"),
        "there is no copy of its record at /d",
        "look there",
    ),
    (
        errors.SnapshotPendingError("monday"),
        "snapshot monday is still being made",
        "volcrypt snapshot wait monday",
    ),
    (
        errors.SnapshotFailedError("monday", "it was stopped"),
        "snapshot monday was not completed: it was stopped",
        "'volcrypt snapshot delete monday' removes what is left of it",
    ),
    (errors.StoreNotFoundError("local"), "snapshot store local does not exist", None),
    (
        errors.BucketNotFoundError("b"),
        "bucket b does not exist",
        "make the bucket first; volcrypt makes stores in buckets, not buckets",
    ),
]


@pytest.mark.parametrize(("error", "message", "hint"), MADE, ids=lambda value: type(value).__name__)
def test_messages(error: VolcryptError, message: str, hint: str | None) -> None:
    assert str(error) == message
    assert error.hint == hint


def test_every_error_that_builds_its_message_is_tested() -> None:
    tested = {type(error) for error, _, _ in MADE}
    assert {error for error in all_errors() if "__init__" in vars(error)} <= tested


def test_messages_fit_behind_error() -> None:
    for error, _, hint in MADE:
        for text in [str(error), hint or "x"]:
            assert "\n" not in text
            assert not text.endswith(".")
            assert re.match(r"[a-z/']", text)


IAM_ERRORS = (
    errors.EntityExistsError,
    errors.NoSuchEntityError,
    errors.DeleteConflictError,
    errors.PrincipalAccessDeniedError,
    errors.MalformedIdentityPolicyError,
    errors.PrincipalLimitError,
)


def all_errors() -> list[type[VolcryptError]]:
    members = vars(errors).values()
    return [m for m in members if inspect.isclass(m) and issubclass(m, VolcryptError)]


def test_every_exception_is_in_the_tree_and_named_so() -> None:
    classes = [member for member in vars(errors).values() if inspect.isclass(member)]
    assert classes == all_errors()
    assert all(error.__name__.endswith("Error") for error in classes)


def test_what_data_can_be_blamed_for() -> None:
    """Readers of stored bytes promise to raise only these two."""
    assert not issubclass(errors.FormatError, errors.IntegrityError)
    for error in (errors.BadMagicError, errors.UnsupportedVersionError, errors.MalformedError):
        assert issubclass(error, errors.FormatError)
    for wrong in (errors.SealError, errors.RollbackError, errors.ChunkCorruptError):
        assert issubclass(wrong, errors.IntegrityError)


def test_the_kms_answers_with_names_of_aws() -> None:
    kms_errors = [error for error in all_errors() if issubclass(error, KmsError)]
    for error in kms_errors:
        assert error.code.endswith("Exception") or error in IAM_ERRORS
        # AWS: 400 is the caller's fault and final, 500 is the service's and may be tried again.
        final = error.http_status < 500
        assert error.retryable is not final or error is errors.ThrottlingError
    codes = [error.code for error in kms_errors if error is not KmsError and "code" in vars(error)]
    assert len(codes) == len(set(codes))
