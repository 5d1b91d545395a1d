"""Deleting a volume: what goes with it, and what keeps it from going."""

from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from volcrypt.durable import remove_durably, write_durably
from volcrypt.errors import InvalidArgumentError, VolcryptError, VolumeInUseError
from volcrypt.formats.volume_record import VolumeRecord
from volcrypt.names import VolumeId
from volcrypt.operations import workflows
from volcrypt.operations.home import Home
from volcrypt.operations.lazy_volumes import release_pin
from volcrypt.operations.leases import held_volume, release_lease
from volcrypt.operations.mount_grants import retire_grant
from volcrypt.operations.placement import remove_data
from volcrypt.operations.record_copies import remove_copy
from volcrypt.operations.records import (
    KIND,
    find_entry,
    load_record,
    nominal_data_path,
)
from volcrypt.volume.directory import KEEP_DATA_FILE
from volcrypt.volume.mountpoint import remove_dead_mounts_of
from volcrypt.volume.owner import hold_volume


@dataclass(frozen=True, slots=True, kw_only=True)
class Deleted:
    """A volume that is gone; `kept` is the block device, or the file, that still has its data."""

    volume_id: VolumeId
    kept: Path | None


def delete_volume(home: Home, volume: str, *, keep_data: bool = False) -> Deleted:
    """Forget a volume and remove its data; its snapshots stay, and so does what is on a block
    device. Refused while it is in use, also by another host.

    With `keep_data` this home alone forgets it: data that lies elsewhere stays, with the copy of
    the record. A volume whose record is damaged can be deleted too: the register says what it is.
    """
    entry = find_entry(home, volume)
    volume_id = VolumeId(entry.id)
    directory = home.volumes.path_of(volume_id)
    record: VolumeRecord | None = None
    try:
        record = load_record(home, volume_id)
    except VolcryptError:
        if keep_data:
            raise
    source = None if record is None else record.source
    kept: Path | None = None
    if record is not None and (record.device is not None or keep_data):
        kept = nominal_data_path(home, record)
    if keep_data and record is not None and record.data_path is None:
        raise InvalidArgumentError(
            f"the data of volume {volume} is in the home, and goes with its record",
            hint="take a snapshot of it",
        )
    if keep_data and source is not None:
        raise InvalidArgumentError(
            f"some data of volume {volume} is still in snapshot {source.snapshot_id}, and only "
            "this home knows what",
            hint="mount the volume until status says that it is filled",
        )
    retire_grant(home, volume_id)
    release_lease(home, volume_id)
    with ExitStack() as held:
        if record is not None and not keep_data:
            held.enter_context(held_volume(home, record, purpose="delete"))
        elif directory.exists():
            held.enter_context(hold_volume(directory, purpose="delete"))
        workflows.check_none_running(home, volume_id, volume)
        if (home.runtime / f"{volume_id}.mnt").exists():
            raise VolumeInUseError(
                volume, "what a killed process left", hint=f"volcrypt detach {volume}"
            )
        remove_dead_mounts_of(volume_id, home.runtime)
        if keep_data:
            write_durably(directory / KEEP_DATA_FILE, b"")
        elif directory.exists():
            remove_durably(directory / KEEP_DATA_FILE)
        home.register.apply(delete=[(KIND, volume_id)], expect={(KIND, volume_id): entry.counter})
        if not keep_data:
            if record is not None and record.device is not None:
                # On a device the copy would be all that is needed to read what is left on it.
                with suppress(VolcryptError, OSError):
                    remove_copy(home, record)
            remove_data(home, volume_id)
        home.volumes.remove(volume_id)
    if source is not None:
        # numpy, for those alone that need it
        from volcrypt.operations.snapshot_deletion import make_up_for_sweep
        from volcrypt.operations.stores import store_of

        release_pin(home, volume_id, source.store_id, source.snapshot_id)
        with suppress(VolcryptError):
            make_up_for_sweep(home, store_of(home, source.store_id))
    return Deleted(volume_id=volume_id, kept=kept)
