"""All snapshots of a store at once: one listing, and their manifests read beside each other."""

from concurrent.futures import ThreadPoolExecutor

from volcrypt.errors import ObjectNotFoundError, VolcryptError
from volcrypt.formats.manifest import Manifest
from volcrypt.names import SnapshotId
from volcrypt.snapshot.layout import EntryName
from volcrypt.snapshot.store import SnapshotStore


def read_manifests(
    store: SnapshotStore,
) -> tuple[list[Manifest], dict[SnapshotId, VolcryptError]]:
    """The snapshots that can be read, by id, and why the others cannot.

    Raises ObjectStoreError and its like when there is no listing.
    """
    present = store.snapshot_ids()
    names = {name.snapshot_id: name for name in store.manifest_names()}

    def read(name: EntryName) -> Manifest | VolcryptError:
        try:
            return store.read_manifest(name)[0]
        except VolcryptError as error:
            return error

    wanted = [names[snapshot_id] for snapshot_id in present if snapshot_id in names]
    with ThreadPoolExecutor(store.objects.in_flight) as pool:
        answers = list(pool.map(read, wanted))
    manifests: list[Manifest] = []
    damaged: dict[SnapshotId, VolcryptError] = {}
    for name, answer in zip(wanted, answers, strict=True):
        if isinstance(answer, Manifest):
            manifests.append(answer)
        elif not isinstance(answer, ObjectNotFoundError):  # that one was deleted just now
            damaged[name.snapshot_id] = answer
    return manifests, damaged
