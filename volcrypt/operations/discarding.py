"""Whether a volume can be mounted so that what is discarded, or zero, becomes holes."""

from volcrypt.errors import InvalidArgumentError
from volcrypt.formats.volume_record import VolumeRecord
from volcrypt.operations.home import Home
from volcrypt.operations.records import data_path
from volcrypt.volume.allocation import can_deallocate
from volcrypt.volume.launch import DataPlaneKind, Discarding


def check_discarding(
    home: Home, record: VolumeRecord, discards: Discarding, *, data_plane: DataPlaneKind
) -> None:
    """Raises InvalidArgumentError; changes nothing."""
    if discards.requests and data_plane == "python":
        raise InvalidArgumentError(
            "--discard needs compiled threads: no discard ever comes to Python",
            hint="add --data-plane native; --discard-zeros works with either",
        )
    if record.preallocated:
        if discards.zeros:
            raise InvalidArgumentError(
                "--discard-zeros is for thin volumes: this one was made with --preallocate, and "
                "keeps all of its room"
            )
        return
    path = data_path(home, record)
    if (discards.requests or discards.zeros) and not can_deallocate(path):
        raise InvalidArgumentError(
            f"the file system of {path} cannot give back room inside of a file",
            hint="mount the volume without --discard and --discard-zeros",
        )


def refuse_for_snapshot(discards: Discarding) -> None:
    """Raises InvalidArgumentError."""
    if discards.requests or discards.zeros:
        raise InvalidArgumentError("a snapshot is read-only: nothing in it can be discarded")
