"""Where a copy goes: the store and region that are asked for."""

from volcrypt.errors import InvalidArgumentError
from volcrypt.formats.manifest import Manifest
from volcrypt.operations.home import Home
from volcrypt.operations.stores import open_store, open_stores, store_of
from volcrypt.snapshot.store import SnapshotStore


def target_store(
    home: Home, source: Manifest, store: str | None, region: str | None
) -> SnapshotStore:
    """The store that is named, else the only one in the region that is asked for, else that of the
    snapshot. Raises InvalidArgumentError, and what `open_store` raises."""
    if store is not None:
        target = open_store(home, store)
        if region not in (None, target.document.region):
            raise InvalidArgumentError(
                f"snapshot store {store} is in region {target.document.region}, not in {region}"
            )
        return target
    if region is None or region == source.region:
        return store_of(home, source.store_id)
    there = [
        (name, found)
        for name, found in open_stores(home)
        if isinstance(found, SnapshotStore) and found.document.region == region
    ]
    if len(there) != 1:
        names = ", ".join(name for name, _ in there)
        raise InvalidArgumentError(
            f"in region {region} are several stores: {names}"
            if there
            else f"no snapshot store that can be reached is in region {region}",
            hint="name the store with --store",
        )
    return there[0][1]
