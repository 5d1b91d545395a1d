"""Keys and aliases as items of the catalogue: how a request's words become a key.

    key      id = key id                       body = KmsKey
    alias    id = REGION:ACCOUNT:alias/NAME    owner = key id, body = Alias

Knows nothing of callers and permissions.
"""

from typing import Final

import msgspec

from volcrypt.errors import KeyNotFoundError
from volcrypt.kms.model import Alias, KmsKey, alias_arn, key_arn
from volcrypt.kms.reference import KeyReference, parse_key_reference
from volcrypt.kms.sealing import Item
from volcrypt.kms.view import Change, View

KEYS: Final = "key"
ALIASES: Final = "alias"


def find_key(view: View, text: str, *, account: str, region: str) -> KmsKey:
    """The key that `text` names. Raises KeyNotFoundError and InvalidArnError."""
    reference = parse_key_reference(text, account=account, region=region)
    if reference.alias is not None:
        alias = get_alias(view, reference.alias, account=reference.account, region=region)
        if alias is None:
            arn = alias_arn(reference.account, region, reference.alias)
            raise KeyNotFoundError(f"Alias {arn} is not found.")
        reference = KeyReference(account=reference.account, key_id=alias.key_id)
    assert reference.key_id is not None, "internal error: a reference to nothing"
    key = get_key(view, reference.key_id)
    if key is None or (key.account, key.region) != (reference.account, region):
        arn = key_arn(reference.account, region, reference.key_id)
        raise KeyNotFoundError(f"Key '{arn}' does not exist")
    return key


def get_key(view: View, key_id: str) -> KmsKey | None:
    item = view.get(KEYS, key_id)
    return None if item is None else decode_key(item)


def decode_key(item: Item) -> KmsKey:
    return item.decoded(KmsKey)


def put_key(change: Change, key: KmsKey) -> None:
    change.put(Item(kind=KEYS, id=key.key_id, body=msgspec.json.encode(key)))


def alias_id(name: str, *, account: str, region: str) -> str:
    return f"{region}:{account}:{name}"


def get_alias(view: View, name: str, *, account: str, region: str) -> Alias | None:
    item = view.get(ALIASES, alias_id(name, account=account, region=region))
    return None if item is None else decode_alias(item)


def alias_names(view: View, key: KmsKey) -> tuple[str, ...]:
    """The names of all aliases of the key."""
    return tuple(decode_alias(item).name for item in view.items(ALIASES, owner=key.key_id))


def decode_alias(item: Item) -> Alias:
    return item.decoded(Alias)


def put_alias(change: Change, alias: Alias) -> None:
    change.put(
        Item(
            kind=ALIASES,
            id=alias_id(alias.name, account=alias.account, region=alias.region),
            owner=alias.key_id,
            body=msgspec.json.encode(alias),
        )
    )
