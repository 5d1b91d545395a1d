"""Grants as items of the catalogue.

    grant    id = KEYID/GRANTEE/GRANTID    GRANTEE: the first 16 digits of SHA-256 of the grantee
             name = GRANTID
             owner = REGION:ARN of the retiring principal, if there is one
             body = Grant

So the grants of one principal on one key stand together, and are found without a look at others.
Knows nothing of callers and permissions.
"""

from typing import Final

import msgspec

from volcrypt.kms.grants import Grant, GrantPointer, grantee_digest
from volcrypt.kms.model import KmsKey
from volcrypt.kms.sealing import Item
from volcrypt.kms.view import Change, View

GRANTS: Final = "grant"


def put_grant(change: Change, grant: Grant) -> None:
    region = grant.key_arn.split(":")[3]
    retiring = grant.permission.retiring
    change.put(
        Item(
            kind=GRANTS,
            id=_id(grant),
            name=grant.grant_id,
            owner=None if retiring is None else retiring_owner(region, retiring),
            body=msgspec.json.encode(grant),
        )
    )


def delete_grant(change: Change, grant: Grant) -> None:
    change.delete(GRANTS, _id(grant))


def delete_grants(change: Change, key: KmsKey) -> None:
    """Delete all grants on the key: what comes with the deletion of the key."""
    for item in change.items(GRANTS, prefix=on_key(key)):
        change.delete(GRANTS, item.id)


def decode_grant(item: Item) -> Grant:
    return item.decoded(Grant)


def find_grant(view: View, key: KmsKey, grant_id: str) -> Grant | None:
    """The grant of that id, if it is on the key."""
    item = view.find(GRANTS, grant_id)
    return decode_grant(item) if item is not None and item.id.startswith(on_key(key)) else None


def follow_token(view: View, pointer: GrantPointer) -> Grant | None:
    """The grant that a token points at; None when it is there no more."""
    id_ = f"{pointer.key_id}/{pointer.grantee_digest}/{pointer.grant_id}"
    item = view.get(GRANTS, id_)
    return None if item is None else decode_grant(item)


def find_named(view: View, key: KmsKey, grantee: str, digest: str) -> Grant | None:
    """The grant that was made with these parameters; `digest` is that of `parameters_digest`."""
    items = view.items(GRANTS, prefix=to_grantee(key, grantee) + digest, limit=1)
    return decode_grant(items[0]) if items else None


def grants_to(view: View, key: KmsKey, grantee: str) -> list[Grant]:
    return [decode_grant(item) for item in view.items(GRANTS, prefix=to_grantee(key, grantee))]


def on_key(key: KmsKey) -> str:
    """What the ids of all grants on a key begin with."""
    return f"{key.key_id}/"


def to_grantee(key: KmsKey, grantee: str) -> str:
    """What the ids of all grants on a key to a grantee begin with."""
    return f"{key.key_id}/{grantee_digest(grantee)}/"


def retiring_owner(region: str, retiring: str) -> str:
    """What groups the grants that a principal may retire in a region."""
    return f"{region}:{retiring}"


def _id(grant: Grant) -> str:
    permission = grant.permission
    return f"{grant.key_id}/{grantee_digest(permission.grantee)}/{grant.grant_id}"
