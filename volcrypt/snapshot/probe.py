"""Whether a place can hold a store: an object is put, put again, read, listed and deleted."""

import secrets
from contextlib import suppress

from volcrypt.errors import ConfigurationError, ObjectNotFoundError, VolcryptError
from volcrypt.snapshot.layout import PROBES
from volcrypt.snapshot.objects import ObjectStore


def check_objects(objects: ObjectStore) -> None:
    """Raises ConfigurationError for a service on which write-once objects are not, or not seen at
    once, or not gone at once, and what the calls raise."""
    name = f"{PROBES}{secrets.token_hex(8)}"
    try:
        refused = objects.put_if_absent(name, b"first") and not objects.put_if_absent(name, b"2nd")
        found = _get(objects, name)
        if found is None:
            raise _unfit(objects, "the service does not keep what it is given")
        if not refused or found != b"first":
            raise _unfit(
                objects,
                "the service overwrites objects that it was asked not to (If-None-Match)",
            )
        if name not in objects.list(PROBES):
            raise _unfit(objects, "a new object is not listed at once")
        objects.replace(name, b"third")
        if _get(objects, name) != b"third":
            raise _unfit(objects, "the service answers with older versions of an object")
        objects.delete(name)
        if _get(objects, name) is not None or name in objects.list(PROBES):
            raise _unfit(objects, "a deleted object is not gone at once")
    finally:
        with suppress(VolcryptError):
            objects.delete(name)
            objects.sync()


def _get(objects: ObjectStore, name: str) -> bytes | None:
    try:
        return objects.get(name)
    except ObjectNotFoundError:
        return None


def _unfit(objects: ObjectStore, why: str) -> ConfigurationError:
    return ConfigurationError(f"{objects.location} cannot hold snapshots: {why}")
