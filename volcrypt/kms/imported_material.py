"""What an import, and the end of imported material, make of a key. Pure.

The id of imported material follows from key and material: the same material, imported again, has
the same id, and any other has another.

    materials            every material that ever encrypted, oldest first; those that were deleted
                         or have expired keep their place and their id, without `wrapped`
    pending_material     imported to be rotated to; not yet the key's own, so deleting it leaves
                         nothing, and nothing of the key depends on it

A key can be used while all of `materials` are there; else it waits for their import.
"""

from dataclasses import replace

from volcrypt.errors import (
    IncorrectKeyMaterialError,
    InvalidStateError,
    KeyNotFoundError,
    KmsValidationError,
)
from volcrypt.kms.messages.imports import EXISTING, NEW
from volcrypt.kms.model import KeyMaterial, KeyState, KmsKey


def with_imported(
    key: KmsKey, material: KeyMaterial, *, import_type: str | None, expected_id: str | None
) -> KmsKey:
    """The key with what was imported; `expected_id` is the id that the request names.

    Raises IncorrectKeyMaterialError, InvalidStateError, KmsValidationError.
    """
    if import_type is None:
        import_type = EXISTING if key.materials else NEW
    check_import_type(import_type, expected_id=expected_id)
    known = _known(key, material.material_id)
    if import_type == NEW:
        if known is not None:
            raise IncorrectKeyMaterialError(
                f"The key material (id: {material.material_id}) is already associated with the "
                f"KMS key {key.arn}."
            )
        return _with_new(key, material)
    if known is None or expected_id not in (None, material.material_id):
        raise IncorrectKeyMaterialError(
            "The key material in the request is not the key material that was previously imported "
            f"into the KMS key {key.arn}."
        )
    return _with_again(key, known, material)


def check_import_type(import_type: str | None, *, expected_id: str | None) -> None:
    """Raises KmsValidationError."""
    if import_type == NEW and expected_id is not None:
        raise KmsValidationError(
            "A keyMaterialId cannot be specified if the ImportType is NEW_KEY_MATERIAL"
        )


def without_material(key: KmsKey, material_id: str | None) -> tuple[KmsKey, str | None]:
    """The key after a material of it (None: the current one) was deleted or has expired, and that
    material's id; None where there never was any. Raises KeyNotFoundError for another key's."""
    if material_id is None:
        if not key.materials:
            return key, None
        material_id = key.current_material.material_id
    known = _known(key, material_id)
    if known is None:
        raise KeyNotFoundError(
            f"Key material (id: {material_id}) is not associated with the KMS key {key.arn}."
        )
    if known is key.pending_material:
        return replace(key, pending_material=None), material_id
    gone = replace(known, wrapped=None, expiry=None)
    state = key.state if key.state is KeyState.PENDING_DELETION else KeyState.PENDING_IMPORT
    return replace(_replaced(key, gone), state=state), material_id


def _with_new(key: KmsKey, material: KeyMaterial) -> KmsKey:
    if key.pending_material is not None:
        raise InvalidStateError(
            f"New key material (id: {material.material_id}) cannot be imported into KMS key "
            f"{key.arn}, because another key material (id: {key.pending_material.material_id}) is "
            "pending rotation."
        )
    if key.materials:
        return replace(key, pending_material=material)
    return _available(key, replace(key, materials=(material,)))


def _with_again(key: KmsKey, known: KeyMaterial, material: KeyMaterial) -> KmsKey:
    description = material.description if material.description is not None else known.description
    again = replace(
        known, wrapped=material.wrapped, expiry=material.expiry, description=description
    )
    if known is key.pending_material:
        return replace(key, pending_material=again)
    return _available(key, _replaced(key, again))


def _available(before: KmsKey, after: KmsKey) -> KmsKey:
    """Enabled, if the import made it whole; a whole key that was disabled stays so."""
    was_whole, is_whole = _is_whole(before), _is_whole(after)
    if is_whole and (not was_whole or before.state is KeyState.PENDING_IMPORT):
        return replace(after, state=KeyState.ENABLED)
    return after


def _is_whole(key: KmsKey) -> bool:
    return bool(key.materials) and all(material.wrapped for material in key.materials)


def _known(key: KmsKey, material_id: str) -> KeyMaterial | None:
    pending = key.pending_material
    if pending is not None and pending.material_id == material_id:
        return pending
    return key.material(material_id)


def _replaced(key: KmsKey, material: KeyMaterial) -> KmsKey:
    return replace(
        key,
        materials=tuple(
            material if m.material_id == material.material_id else m for m in key.materials
        ),
    )
