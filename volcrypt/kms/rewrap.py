"""Rewrapping: what makes a deletion final, also for whoever has an older copy of the catalogue.

Key material lies in the catalogue, wrapped by the wrapping key of its token: the home's, or that of
a custom key store. Removing a row does not remove the copies of it: in a backup, in the journal, in
a snapshot of the disk. So after a deletion everything that survives in the token is wrapped by a
new key of it, and the old one is destroyed there.

    rewrap   id = home, or the id of the key store's item     body = Rewrap

The item is there while that is to be done for the token, and says how far it has come:

    DUE      material was removed: put with the removal, in the same transaction
      |      a new wrapping key in the token; everything under it; audited as RewrapKeyMaterial
    RETIRE   all of the catalogue is under the newest wrapping key
      |      the older ones destroyed in the token; the journal of the catalogue overwritten
    (none)

Each step is one transaction under the writer lock, and can be repeated: after a kill the same step
begins again, and at worst leaves one more wrapping key, which goes with the others. A deletion that
comes in between makes it DUE anew, because copies of the catalogue may already be under the newest
key. The first step holds the lock for about 1 ms per material. What cannot be reached (a custom key
store that is not connected) stays due.
"""

from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from types import MappingProxyType
from typing import Any, Final

import msgspec

from volcrypt.errors import IntegrityError, InvalidStateError
from volcrypt.formats.sealed_secret import (
    SealedSecret,
    decode_sealed_secret,
    encode_sealed_secret,
)
from volcrypt.kms.catalog import Catalog
from volcrypt.kms.custom_key_store import key_store_item_id
from volcrypt.kms.keyring import KEYS, decode_key
from volcrypt.kms.keystore import MaterialStore
from volcrypt.kms.model import KeyMaterial, KmsKey, WrappedMaterial
from volcrypt.kms.performer import Performer
from volcrypt.kms.sealing import Item
from volcrypt.kms.view import Change, View

REWRAP: Final = "rewrap"
HOME: Final = "home"
SEALED_MEMBERS: Final = MappingProxyType(
    {"access-key": "sealed", "import": "private_key", "key-store": "password"}
)
"""The kinds of items that hold a sealed secret, and the member of their bodies that is it."""

_Renewed = Mapping[WrappedMaterial, WrappedMaterial]


class Step(Enum):
    DUE = "due"
    RETIRE = "retire"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrap:
    step: Step


def mark_rewrap_due(change: Change, key: KmsKey) -> None:
    """Say, in the transaction that removes material of a key, that it is to be gone for good."""
    _set_step(change, _token_of(key), Step.DUE)


def is_rewrap_due(view: View) -> bool:
    return view.count(REWRAP) > 0


def rewrap_all(
    catalog: Catalog, performer: Performer, store_of: Callable[[str], MaterialStore | None]
) -> None:
    """Make every removal of key material final that was marked; nothing if there was none.

    `store_of` gives the token that belongs to a mark: HOME, or the id of a key store's item, for
    which it may raise InvalidStateError while it cannot be reached; None if that is no more.
    Raises what the catalogue, the audit log and the HSM raise; then it is still due, and the next
    call goes on.
    """
    with catalog.reading() as view:
        tokens = [item.id for item in view.items(REWRAP)]
    for token in sorted(tokens, key=lambda token: token != HOME):
        try:
            store = store_of(token)
            if store is None:
                with catalog.changing() as change:
                    change.delete(REWRAP, token)
            else:
                _rewrap_token(catalog, performer, token, store)
        except InvalidStateError:
            if token == HOME:
                raise


def _rewrap_token(catalog: Catalog, performer: Performer, token: str, store: MaterialStore) -> None:
    performer.perform_by_service(
        "RewrapKeyMaterial",
        None,
        lambda change: _rewrap(change, token, store),
        is_due=lambda view: _step(view, token) is Step.DUE,
    )
    with catalog.changing() as change:
        if _step(change, token) is Step.RETIRE:
            generation = store.generation()
            _check_all_renewed(change, token, generation)
            store.retire(older_than=generation)
            catalog.scrub()
            change.delete(REWRAP, token)


def _rewrap(change: Change, token: str, store: MaterialStore) -> None:
    items = list(_items(change, token))
    old = list(dict.fromkeys(material for item in items for material in _wrapped_in(item)))
    renewed = dict(zip(old, store.rewrap(old), strict=True))
    for item in items:
        change.put(_renewed_item(item, renewed))
    _set_step(change, token, Step.RETIRE)


def _check_all_renewed(view: View, token: str, generation: int) -> None:
    """Raises IntegrityError when something would be lost with the older wrapping keys."""
    for item in _items(view, token):
        if any(material.wrapping_key != generation for material in _wrapped_in(item)):
            raise IntegrityError(f"{item.kind} {item.id} is not under the newest wrapping key")


def _items(view: View, token: str) -> Iterator[Item]:
    """Everything in the catalogue that the token has wrapped."""
    for item in view.items(KEYS):
        if _token_of(decode_key(item)) == token:
            yield item
    if token == HOME:
        for kind in SEALED_MEMBERS:
            yield from view.items(kind)


def _token_of(key: KmsKey) -> str:
    if key.custom_key_store_id is None:
        return HOME
    return key_store_item_id(key.account, key.region, key.custom_key_store_id)


def _wrapped_in(item: Item) -> Iterator[WrappedMaterial]:
    if item.kind == KEYS:
        for material in _materials_of(decode_key(item)):
            if material.wrapped is not None:
                yield material.wrapped
    elif (secret := _secret(item)) is not None:
        yield _key_of(secret)


def _renewed_item(item: Item, renewed: _Renewed) -> Item:
    if item.kind == KEYS:
        key = _renewed_key(decode_key(item), renewed)
        return replace(item, body=msgspec.json.encode(key))
    secret = _secret(item)
    if secret is None:
        return item
    wrapped = renewed[_key_of(secret)]
    secret = replace(secret, generation=wrapped.wrapping_key, wrapped_key=wrapped.blob)
    body = _members(item)
    body[SEALED_MEMBERS[item.kind]] = b64encode(encode_sealed_secret(secret)).decode()
    return replace(item, body=msgspec.json.encode(body))


def _renewed_key(key: KmsKey, renewed: _Renewed) -> KmsKey:
    def renew(material: KeyMaterial) -> KeyMaterial:
        if material.wrapped is None:
            return material
        return replace(material, wrapped=renewed[material.wrapped])

    waiting = None if key.pending_material is None else renew(key.pending_material)
    return replace(key, materials=tuple(map(renew, key.materials)), pending_material=waiting)


def _materials_of(key: KmsKey) -> tuple[KeyMaterial, ...]:
    waiting = () if key.pending_material is None else (key.pending_material,)
    return (*key.materials, *waiting)


def _secret(item: Item) -> SealedSecret | None:
    sealed = _members(item).get(SEALED_MEMBERS[item.kind])
    return None if sealed is None else decode_sealed_secret(b64decode(sealed))


def _key_of(secret: SealedSecret) -> WrappedMaterial:
    return WrappedMaterial(blob=secret.wrapped_key, wrapping_key=secret.generation)


def _members(item: Item) -> dict[str, Any]:
    return msgspec.json.decode(item.body, type=dict[str, Any])


def _step(view: View, token: str) -> Step | None:
    item = view.get(REWRAP, token)
    return None if item is None else msgspec.json.decode(item.body, type=Rewrap).step


def _set_step(change: Change, token: str, step: Step) -> None:
    body = msgspec.json.encode(Rewrap(step=step))
    change.put(Item(kind=REWRAP, id=token, body=body))
