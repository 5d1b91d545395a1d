"""Whether a place can hold a store: an object is put, put again, read, listed and deleted."""

import secrets
from contextlib import suppress

from volcrypt.errors import ConfigurationError, VolcryptError
from volcrypt.snapshot.layout import PROBES
from volcrypt.snapshot.objects import ObjectStore


def check_objects(objects: ObjectStore) -> None:
    """Raises ConfigurationError for a service on which write-once objects are not, or not seen at
    once, and what the calls raise."""
    name = f"{PROBES}{secrets.token_hex(8)}"
    try:
        refused = objects.put_if_absent(name, b"first") and not objects.put_if_absent(name, b"2nd")
        if not refused or objects.get(name) != b"first":
            raise ConfigurationError(
                f"{objects.location} cannot hold snapshots: the service overwrites objects that it "
                "was asked not to (If-None-Match)"
            )
        if name not in objects.list(PROBES):
            raise ConfigurationError(
                f"{objects.location} cannot hold snapshots: a new object is not listed at once"
            )
    finally:
        with suppress(VolcryptError):
            objects.delete(name)
            objects.sync()
