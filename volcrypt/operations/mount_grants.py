"""Grants for serving: the process that serves a volume gets its data key as a principal of its own,
through a grant that is limited to this volume, and ends with the mount.

    1  Decrypt with DryRun      the principal of the profile may open the volume
    2  CreateGrant              by that principal, for this host: Decrypt, DescribeKey, RetireGrant,
                                with the volume's encryption context and no other
    3  Decrypt                  by the host, with the grant: this plaintext goes to the process
    4  RetireGrant              by the host, when the volume is unmounted

The grant's name is made of volume and host, and the same request finds the same grant again: a host
that was killed leaves one grant a volume, which the next mount uses. `volumes/ID/grant` names the
grant that a mount has; where it is left behind, the grant is retired by the next command that has
the KMS open anyway, because closing a volume must not need the token's PIN.

Another KMS is asked for grants when the profile names the grantee; else the data key is decrypted
as it is everywhere. A volume under a customer-provided key concerns no KMS.
"""

import hashlib
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from volcrypt.confinement import forbid_dumps, lock_memory
from volcrypt.crypto.data_key import DataKey
from volcrypt.durable import read_file, remove_durably, write_durably
from volcrypt.errors import (
    DryRunSucceededError,
    InvalidGrantIdError,
    KeyNotFoundError,
    MalformedError,
    VolcryptError,
    VolumeInUseError,
)
from volcrypt.formats.volume_record import VolumeRecord, WrappedDataKey
from volcrypt.kms.messages.data import DecryptRequest, DecryptResponse
from volcrypt.kms.model import HOME_KMS, Caller, host_arn
from volcrypt.kms.protocol import decode_request
from volcrypt.names import VolumeId
from volcrypt.operations.home import Home
from volcrypt.operations.keys import (
    is_under_customer_key,
    make_data_key,
    unwrap_key,
    using_key_of,
)
from volcrypt.operations.vault import Kms, call
from volcrypt.volume.owner import current_owner, hold_volume

GRANT_FILE: Final = "grant"
OPERATIONS_GRANTED: Final = ("Decrypt", "DescribeKey", "RetireGrant")
MACHINE_ID: Final = Path("/etc/machine-id")
_MAX_NOTE_BYTES: Final = 2**14


class MountGrant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`volumes/ID/grant`: the grant that a mount has. Nothing is believed because it says so: it
    only helps to end the grant. `kms` names whose it is: that of the home, or another."""

    key_arn: str
    grant_id: str
    grantee: str
    account: str
    kms: str


def host_id(home: Home) -> str:
    """This host, as the home's KMS knows it: 16 hexadecimal digits, the same after a reboot."""
    try:
        machine = read_file(MACHINE_ID, limit_bytes=2**10).strip()
    except (OSError, MalformedError):
        machine = b""
    text = b"volcrypt host\0" + machine + b"\0" + home.home_id.encode()
    return hashlib.sha256(text).hexdigest()[:16]


def host_principal(home: Home) -> Caller:
    """As whom this host serves volumes."""
    account = home.caller.account
    own = host_arn(account, host_id(home))
    return Caller(arn=home.access.grantee or own, account=account, via_service=True)


@contextmanager
def serving_key(home: Home, record: VolumeRecord) -> Iterator[DataKey | None]:
    """The data key for the process that is going to serve the volume; wiped at the end of the
    block. When the block fails the grant ends. The caller holds the volume.

    Raises KmsError: nothing was made then.
    """
    wrapped = record.wrapped_key
    if wrapped is None:
        yield None
        return
    if is_under_customer_key(wrapped) or not _has_grants(home):
        with unwrap_key(home, wrapped) as data_key:
            yield data_key
        return
    check_may_open(home, wrapped)
    grant, token = _create_grant(home, record.volume_id, wrapped)
    try:
        forbid_dumps()
        lock_memory()
        response = _decrypt(home, host_principal(home), wrapped, GrantTokens=[token])
        with make_data_key(response) as data_key:
            yield data_key
    except BaseException:
        with suppress(VolcryptError, OSError):
            _retire(home, record.volume_id, grant)
        raise


def move_grant(home: Home, record: VolumeRecord) -> None:
    """A volume that is mounted has another data key now: its grant is for that one's KMS key, and
    the old one ends. Never fails: what cannot be made now the next mount makes."""
    with suppress(VolcryptError, OSError):
        old = _noted(home, record.volume_id) if _path(home, record.volume_id).exists() else None
        with serving_key(home, record):
            pass
        new = _noted(home, record.volume_id) if _path(home, record.volume_id).exists() else None
        if old is None or old.kms != home.access.kms_name:
            return
        if new == old:
            # Nothing replaced it: the new key concerns no KMS, or has the very same grant.
            if is_under_customer_key(record.wrapped_key):
                _retire(home, record.volume_id, old)
        elif (old.key_arn, old.grant_id) != (new and new.key_arn, new and new.grant_id):
            _end(home, old)


def _has_grants(home: Home) -> bool:
    if home.access.other_kms is not None:
        return home.access.grantee is not None
    return True


def check_may_open(home: Home, wrapped: WrappedDataKey) -> None:
    """Raises AccessDeniedError, and what else keeps the key from being used."""
    with using_key_of(home, "Decrypt", wrapped), suppress(DryRunSucceededError):
        # A KMS that does not know DryRun answers in earnest.
        make_data_key(_decrypt(home, home.volume_service, wrapped, DryRun=True)).wipe()


def _decrypt(
    home: Home, caller: Caller, wrapped: WrappedDataKey, **members: object
) -> DecryptResponse:
    request = decode_request(
        DecryptRequest,
        {
            "KeyId": wrapped.kms_key_arn,
            "CiphertextBlob": b64encode(wrapped.ciphertext).decode(),
            "EncryptionContext": wrapped.encryption_context,
            **members,
        },
    )
    return home.kms.perform(caller, request)


def _create_grant(
    home: Home, volume_id: VolumeId, wrapped: WrappedDataKey
) -> tuple[MountGrant, str]:
    """The grant, noted beside the volume, and its token."""
    grantee = host_principal(home)
    members: dict[str, Any] = {
        "KeyId": wrapped.kms_key_arn,
        "GranteePrincipal": grantee.arn,
        "Operations": list(OPERATIONS_GRANTED),
        "Constraints": {"EncryptionContextEquals": wrapped.encryption_context},
        "Name": f"volcrypt/{volume_id}/{host_id(home)}",
    }
    with using_key_of(home, "CreateGrant", wrapped):
        response = call(home.kms, home.volume_service, "CreateGrant", members)
    grant = MountGrant(
        key_arn=wrapped.kms_key_arn or "",
        grant_id=response["GrantId"],
        grantee=grantee.arn,
        account=grantee.account,
        kms=home.access.kms_name,
    )
    write_durably(_path(home, volume_id), msgspec.json.encode(grant))
    return grant, response["GrantToken"]


def retire_grant(home: Home, volume_id: VolumeId) -> None:
    """End the grant of a volume that is no more mounted, if that takes no PIN from a person and
    nobody uses the volume. Never fails: what stays is used again, or ended by a later command."""
    with suppress(VolcryptError, OSError):
        if not _path(home, volume_id).exists() or not home.opens_quietly:
            return
        with hold_volume(home.volumes.path_of(volume_id), purpose="unmount"):
            grant = _noted(home, volume_id)
            if grant is not None:
                _retire(home, volume_id, grant)


def retire_abandoned_grants(home: Home) -> None:
    """End the grants of mounts whose process was killed, or was stopped without the KMS."""
    for path in sorted(home.volumes.path.glob(f"vol-*/{GRANT_FILE}")):
        with suppress(VolumeInUseError, VolcryptError):
            if current_owner(path.parent) is None:
                retire_grant(home, VolumeId(path.parent.name))


def _retire(home: Home, volume_id: VolumeId, grant: MountGrant) -> None:
    if grant.kms != home.access.kms_name:
        return  # it is of another KMS than this command has
    _end(home, grant)
    remove_durably(_path(home, volume_id))


def _end(home: Home, grant: MountGrant) -> None:
    host = Caller(arn=grant.grantee, account=grant.account, via_service=True)
    members = {"KeyId": grant.key_arn, "GrantId": grant.grant_id}
    with suppress(KeyNotFoundError, InvalidGrantIdError):  # it is gone already
        call(_kms_of(home, grant), host, "RetireGrant", members)


def _kms_of(home: Home, grant: MountGrant) -> Kms:
    return home.vault.scope(grant.account, home.region) if grant.kms == HOME_KMS else home.kms


def _noted(home: Home, volume_id: VolumeId) -> MountGrant | None:
    path = _path(home, volume_id)
    try:
        return msgspec.json.decode(read_file(path, limit_bytes=_MAX_NOTE_BYTES), type=MountGrant)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, MalformedError):
        remove_durably(path)
        return None


def _path(home: Home, volume_id: VolumeId) -> Path:
    return home.volumes.path_of(volume_id) / GRANT_FILE
