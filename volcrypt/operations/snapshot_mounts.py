"""Mounted snapshots: read-only, without a volume.

A snapshot is served as a lazy volume would be, by a process of its own, under a volume id that
nobody knows (`operations.scratch`); a lasting pin keeps its chunks in the store while the process
lives, also when the snapshot is deleted.
"""

import shutil
from contextlib import ExitStack
from pathlib import Path

from volcrypt.errors import SnapshotNotFoundError
from volcrypt.formats.document import MAC_KEY_BYTES
from volcrypt.names import is_snapshot_id, make_volume_id
from volcrypt.operations.home import Home
from volcrypt.operations.keys import check_source_key, data_key_id, unwrap_key
from volcrypt.operations.lazy_volumes import can_pin, lazy_assignment, pinned, source_of
from volcrypt.operations.mounts import (
    Launch,
    Mounted,
    checked_directory,
    socket_path,
)
from volcrypt.operations.scratch import make_scratch, remove_scratch, scratch_path
from volcrypt.operations.snapshot_lookup import load_snapshot
from volcrypt.operations.stores import store_in_use, store_of
from volcrypt.volume.datafile import DataFile
from volcrypt.volume.directory import DATA_FILE
from volcrypt.volume.launch import Assignment, DataPlaneKind


def mount_snapshot(
    home: Home,
    snapshot: str,
    directory: Path,
    *,
    fill_rate: int | None,
    launch: Launch,
    data_plane: DataPlaneKind = "native",
) -> Mounted:
    """Serve a snapshot as `directory/volume`, read-only; returns when the first read has worked.

    Only what is touched is fetched, unless there is a `fill_rate`. Raises SnapshotNotFoundError,
    KmsError, MountError, IntegrityError, ComponentMissingError; leaves nothing behind.
    """
    try:
        manifest = load_snapshot(home, snapshot)
    except SnapshotNotFoundError as error:
        if is_snapshot_id(snapshot):
            raise
        raise SnapshotNotFoundError(snapshot, kind="volume or snapshot") from error
    check_source_key(home, manifest.wrapped_key, f"snapshot {snapshot}")
    directory = checked_directory(directory)
    remove_scratch(home)
    volume_id = make_volume_id(home.random_id_bytes())
    scratch = scratch_path(home, volume_id)
    store = store_of(home, manifest.store_id)
    with ExitStack() as undo:
        owner = undo.enter_context(make_scratch(home, volume_id))
        undo.callback(shutil.rmtree, scratch)
        DataFile.create(scratch / DATA_FILE, manifest.size_bytes).close()
        with ExitStack() as stack:
            stack.enter_context(store_in_use(home, store))
            if can_pin(home, store):
                stack.enter_context(pinned(home, store, manifest, volume_id))
            data_key = None
            if manifest.wrapped_key is not None:
                data_key = stack.enter_context(unwrap_key(home, manifest.wrapped_key))
            assignment = Assignment(
                volume_id=volume_id,
                name=manifest.name,
                size_bytes=manifest.size_bytes,
                data_path=str(scratch / DATA_FILE),
                read_only=True,
                has_data_key=data_key is not None,
                volume_directory=str(scratch),
                mount_directory=str(directory),
                live_map_path=str(home.live_map_path(volume_id)),
                socket_path=str(socket_path(home, volume_id)),
                log_path=str(home.runtime / f"{volume_id}.log"),
                lazy=lazy_assignment(
                    home,
                    source_of(manifest, fill_rate=fill_rate or 0),
                    manifest.wrapped_key,
                    present=None,
                ),
                snapshot_id=manifest.snapshot_id,
                data_plane=data_plane,
                kms_key_arn=manifest.wrapped_key.kms_key_arn if manifest.wrapped_key else None,
                data_key_id=data_key_id(manifest.wrapped_key),
            )
            pid = launch(assignment, data_key, bytearray(MAC_KEY_BYTES), owner, None, None)
        owner.let_go()
        undo.pop_all()
    return Mounted(
        volume_id=volume_id, snapshot_id=manifest.snapshot_id, mount_point=directory, pid=pid
    )
