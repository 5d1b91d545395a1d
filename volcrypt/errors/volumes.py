"""Volumes, and names and places for them."""

from volcrypt.errors.base import VolcryptError


class VolumeError(VolcryptError):
    """Something about one volume."""


class VolumeNotFoundError(VolumeError):
    def __init__(self, volume: str) -> None:
        super().__init__(f"volume {volume} does not exist", hint="volcrypt volume list")
        self.volume = volume


class RecordCopyNotFoundError(VolumeNotFoundError):
    """There is no copy of the volume's record where it was looked for."""

    def __init__(self, volume: str, what: str, *, hint: str | None = None) -> None:
        VolumeError.__init__(self, f"there is no {what}", hint=hint)
        self.volume = volume


class VolumeInUseError(VolumeError):
    """Another process or host holds the volume, or what its data is in."""

    def __init__(
        self, volume: str, holder: str, *, hint: str | None = None, kind: str = "volume"
    ) -> None:
        super().__init__(f"{kind} {volume} is in use by {holder}", hint=hint)
        self.volume = volume
        self.holder = holder


class NotConfirmedError(VolcryptError):
    """Whoever was asked said no."""

    def __init__(self) -> None:
        super().__init__("not confirmed: nothing was done")


class NameTakenError(VolcryptError):
    """A name that must be unique per kind is taken."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"a {kind} named {name} exists already")
        self.name = name


class ReadOnlyError(VolumeError):
    """A write to something that must not be written."""


class OutOfRangeError(VolumeError):
    """An offset or length beyond the end of the volume."""


class KeyWipedError(VolumeError):
    """A data key was wiped while somebody still wanted to use it."""


class FencedError(VolumeError):
    """The volume may not be served any more, and its key was wiped; `reason` says why."""

    hint = "unmount or detach it; it can be mounted again when its key, or lease, can be had again"

    def __init__(self, reason: str) -> None:
        super().__init__(f"the volume is fenced: {reason}")
        self.reason = reason


class TargetLostError(VolumeError):
    """Where a volume's data is being moved to failed; the volume itself did not."""

    hint = "see to the storage; nothing was lost, and the same command goes on from there"

    def __init__(self, reason: Exception) -> None:
        super().__init__(f"the new data file of the volume cannot be used: {reason}")


class NoSpaceError(VolcryptError):
    """The file system under the home, the data or the store is full."""

    hint = "free some space and try again; nothing was lost"


class MountError(VolcryptError):
    """The mount point or the kernel does not let us mount, attach, unmount or detach."""


class LostMountError(MountError):
    """A mount that outlived its process cannot be taken over, now or later: it is to be let go."""


class MountPointError(MountError):
    """What was given as mount point is no empty directory."""


class MountPointTakenError(MountError):
    """Something is mounted there already."""
