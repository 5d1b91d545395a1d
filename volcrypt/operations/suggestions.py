"""What is called how in a home, to be suggested while somebody types: read from its files as they
are, without any key, and believed by nobody; and whether what is named seems to be there."""

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from volcrypt.durable import read_file
from volcrypt.errors import MalformedError
from volcrypt.kms.database import has_unverified, unverified_ids

_MAX_ITEMS: Final = 2000
_MAX_BYTES: Final = 2**16


def volumes(home: Path) -> list[str]:
    """Names of volumes; ids of those without."""
    return [_volume_name(body) for body in _volume_bodies(home)]


def unencrypted_volumes(home: Path) -> list[str]:
    return [_volume_name(body) for body in _volume_bodies(home) if not body.get("wrapped_key")]


def encrypted_volumes(home: Path) -> list[str]:
    return [_volume_name(body) for body in _volume_bodies(home) if body.get("wrapped_key")]


def _volume_bodies(home: Path) -> list[dict[str, Any]]:
    return _bodies((home / "volumes").glob("vol-*/record"))


def _volume_name(body: dict[str, Any]) -> str:
    return str(body.get("name") or body.get("volume_id"))


def snapshots(home: Path) -> list[str]:
    """Names, and ids of those without, of snapshots in the local store and of those that are being
    made in any: other stores are not asked."""
    return [*_snapshot_names(home / "stores/local/manifests"), *pending_snapshots(home)]


def pending_snapshots(home: Path) -> list[str]:
    """Those of them that are being made, or were begun and failed."""
    return _snapshot_names(home / "jobs")


def _snapshot_names(place: Path) -> list[str]:
    bodies = _bodies(place.glob("snap-*"))
    return [str(body.get("name") or body.get("snapshot_id")) for body in bodies]


def stores(home: Path) -> list[str]:
    return ["local", *sorted(path.stem for path in (home / "stores").glob("*.place"))]


def aliases(home: Path) -> list[str]:
    return sorted({id_.rpartition(":")[2] for id_ in _ids(home, "alias")})


def keys(home: Path) -> list[str]:
    """Aliases first, then ids."""
    return [*aliases(home), *sorted(id_.rpartition(":")[2] for id_ in _ids(home, "key"))]


def principals(home: Path) -> list[str]:
    return sorted(id_.rpartition("/")[2] for id_ in _ids(home, "principal"))


def profiles(home: Path) -> list[str]:
    """Of the configuration file."""
    import tomllib

    with open(home / "config.toml", "rb") as file:
        return sorted({"default", *tomllib.load(file).get("profiles", {})})


def has_key(home: Path, reference: str, *, account: str, region: str) -> bool:
    """Whether there seems to be a key of this id, ARN or alias, for a caller of `account` in
    `region`. Raises KmsError for what is no name of a key, and OSError."""
    from volcrypt.kms.keyring import home_prefix
    from volcrypt.kms.model import DEFAULT_KEY_ALIAS, DEFAULT_KEY_SYNONYM
    from volcrypt.kms.reference import parse_key_reference

    found = parse_key_reference(reference, account=account, region=region)
    if found.alias in (DEFAULT_KEY_ALIAS, DEFAULT_KEY_SYNONYM):
        return True  # it is made when somebody needs it
    kind = "key" if found.alias is None else "alias"
    id_ = home_prefix(found.account, region) + (found.alias or found.key_id or "")
    return has_unverified(_catalog(home), kind, id_)


def has_principal(home: Path, arn: str) -> bool:
    """Whether there seems to be a principal of this ARN. Raises OSError."""
    return has_unverified(_catalog(home), "principal", arn)


Suggest = Callable[[Path], list[str]]


def _ids(home: Path, kind: str) -> list[str]:
    return unverified_ids(_catalog(home), kind, limit=_MAX_ITEMS)


def _catalog(home: Path) -> Path:
    return home / "kms/catalog.sqlite3"


def _bodies(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """The JSON in sealed documents, which stands in a line of its own."""
    found = []
    for path in sorted(paths)[:_MAX_ITEMS]:
        with suppress(OSError, ValueError, RecursionError, MalformedError):
            lines = read_file(path, limit_bytes=_MAX_BYTES).split(b"\n")
            body = json.loads(next((line for line in lines if line.startswith(b"{")), b""))
            if isinstance(body, dict):
                found.append(body)
    return found
