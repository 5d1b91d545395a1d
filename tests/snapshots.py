"""Snapshots as tests take them: of one volume, completed on return."""

from volcrypt.formats.manifest import Manifest
from volcrypt.operations.home import Home
from volcrypt.operations.progress import Progress
from volcrypt.operations.snapshot_creation import SnapshotRequest, create_snapshots


def create_snapshot(
    home: Home, volume: str, *, name: str | None, store: str | None, progress: Progress
) -> Manifest:
    request = SnapshotRequest(volumes=[volume], name=name, store=store)
    return create_snapshots(home, request, progress=progress)[0]
