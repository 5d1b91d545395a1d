"""Snapshots, and the stores that they are in."""

from volcrypt.errors.base import TryAgainError, VolcryptError
from volcrypt.errors.stored import IntegrityError


class SnapshotError(VolcryptError):
    """Something about one snapshot or its store."""


class SnapshotNotFoundError(SnapshotError):
    def __init__(self, snapshot: str, *, kind: str = "snapshot") -> None:
        super().__init__(f"{kind} {snapshot} does not exist", hint="volcrypt snapshot list")
        self.snapshot = snapshot


class SnapshotInUseError(SnapshotError):
    """The snapshot is needed by something that is running."""


class SweepBlockedError(IntegrityError):
    """What is garbage cannot be told, since what a damaged snapshot refers to is not known."""

    def __init__(self, store: str, snapshot: str, problem: str) -> None:
        super().__init__(
            f"nothing can be swept from {store} while snapshot {snapshot} is damaged: {problem}",
            hint="all that is damaged is named by 'volcrypt snapshot verify'; that snapshot is "
            f"given up with 'volcrypt snapshot delete {snapshot}'",
        )
        self.snapshot = snapshot


class SnapshotPendingError(TryAgainError):
    """The snapshot is still being made."""

    def __init__(self, snapshot: str) -> None:
        super().__init__(
            f"snapshot {snapshot} is still being made", hint=f"volcrypt snapshot wait {snapshot}"
        )
        self.snapshot = snapshot


class SnapshotFailedError(SnapshotError):
    """The snapshot was begun and is not completed; one that is no unfinished copy never will be."""

    def __init__(
        self, snapshot: str, reason: str, *, unfinished_copy_of: str | None = None
    ) -> None:
        """`unfinished_copy_of`: the snapshot that has to be copied again for this one to go on."""
        removal = f"'volcrypt snapshot delete {snapshot}' removes what is left of it"
        super().__init__(
            f"snapshot {snapshot} was not completed: {reason}",
            hint=removal
            if unfinished_copy_of is None
            else f"the same 'volcrypt snapshot copy {unfinished_copy_of} ...' goes on where it "
            f"stopped; {removal}",
        )
        self.snapshot = snapshot


class StoreNotFoundError(SnapshotError):
    def __init__(self, store: str) -> None:
        super().__init__(f"snapshot store {store} does not exist")
        self.store = store


class BucketNotFoundError(StoreNotFoundError):
    """The bucket that a store lies in is not there."""

    hint = "make the bucket first; volcrypt makes stores in buckets, not buckets"

    def __init__(self, bucket: str) -> None:
        SnapshotError.__init__(self, f"bucket {bucket} does not exist")
        self.store = bucket


class StoreAccessError(SnapshotError):
    """The service of an object store does not let us in, or not do this."""


class StoreAccessNowError(StoreAccessError):
    """It does not for now: the clock of this host is not right yet, or whoever is to give the
    credentials does not answer."""


class ObjectNotFoundError(SnapshotError):
    """The object store holds nothing under this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"object {name} does not exist")
        self.name = name


class ObjectStoreError(TryAgainError):
    """The object store did not do what it was asked; it may later."""
