"""What CreateKey and DescribeKey tell of a key; and what its materials look like. Pure.

A member of KeyMetadata that does not concern a key is absent, as in the AWS KMS: the deletion date
but for a key that waits for it, expiry but for imported material that is there, the id of the
current material for keys in custom key stores, which are never rotated.
"""

from collections.abc import Iterator
from typing import Final

import msgspec

from volcrypt.kms.lifecycle import has_material, is_usable
from volcrypt.kms.messages.choices import ENCRYPT_DECRYPT, SYMMETRIC_DEFAULT
from volcrypt.kms.messages.keys import KeyMetadata
from volcrypt.kms.messages.rotation import RotationsListEntry
from volcrypt.kms.model import KeyMaterial, KeyOrigin, KeyState, KmsKey

EXPIRES: Final = "KEY_MATERIAL_EXPIRES"
DOES_NOT_EXPIRE: Final = "KEY_MATERIAL_DOES_NOT_EXPIRE"


def key_metadata(
    key: KmsKey, *, state: KeyState, cluster_id: str | None, now: float
) -> KeyMetadata:
    """`state` is the key's current one, `cluster_id` that of its custom key store if it is in
    one."""
    has_expiry = key.origin is KeyOrigin.EXTERNAL and has_material(key, now=now)
    dates = [m.expiry.date for m in key.materials if has_expiry and m.expiry is not None]
    is_rotatable = key.origin is not KeyOrigin.AWS_CLOUDHSM and bool(key.materials)
    return KeyMetadata(
        aws_account_id=key.account,
        key_id=key.key_id,
        arn=key.arn,
        creation_date=key.created_at,
        enabled=state is KeyState.ENABLED,
        description=key.description,
        key_usage=ENCRYPT_DECRYPT,
        key_state=state.value,
        deletion_date=None if key.deletion is None else key.deletion.date,
        valid_to=min(dates, default=None),
        origin=key.origin.value,
        custom_key_store_id=key.custom_key_store_id,
        cloud_hsm_cluster_id=cluster_id,
        expiration_model=(EXPIRES if dates else DOES_NOT_EXPIRE) if has_expiry else None,
        key_manager=key.manager.value,
        customer_master_key_spec=SYMMETRIC_DEFAULT,
        key_spec=SYMMETRIC_DEFAULT,
        encryption_algorithms=[SYMMETRIC_DEFAULT],
        multi_region=False,
        current_key_material_id=key.current_material.material_id if is_rotatable else None,
    )


def rotation_entries(key: KmsKey, *, now: float) -> Iterator[RotationsListEntry]:
    """All materials of the key, oldest first, the one that waits to be rotated to last."""
    for material in key.materials:
        is_current = material is key.materials[-1]
        yield _entry(key, material, "CURRENT" if is_current else "NON_CURRENT", now)
    if key.pending_material is not None:
        yield _entry(key, key.pending_material, "PENDING_ROTATION", now)


def _entry(key: KmsKey, material: KeyMaterial, state: str, now: float) -> RotationsListEntry:
    rotation_type = material.rotation_type
    entry = RotationsListEntry(
        key_id=key.arn,
        key_material_id=material.material_id,
        key_material_state=state,
        rotation_date=material.rotated_at,
        rotation_type=None if rotation_type is None else rotation_type.value,
    )
    if key.origin is not KeyOrigin.EXTERNAL:
        return entry
    is_there = is_usable(material, now=now)
    model = DOES_NOT_EXPIRE if material.expiry is None else EXPIRES
    return msgspec.structs.replace(
        entry,
        import_state="IMPORTED" if is_there else "PENDING_IMPORT",
        key_material_description=material.description,
        expiration_model=model if is_there else None,
        valid_to=material.expiry.date if is_there and material.expiry is not None else None,
    )
