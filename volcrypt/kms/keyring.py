"""Keys and aliases as items of the catalogue: how a request's words become a key.

    key      id = REGION:ACCOUNT:KEYID         name = KEYID, body = KmsKey,
                                               owner = id of its custom key store, if any
    alias    id = REGION:ACCOUNT:alias/NAME    owner = id of the key's item, body = Alias
    due      id = WHAT:DATE:ID OF THE KEY      owner = id of the key's item, body = {}

The items of one account and region are those with one prefix. The *due* items are an index of keys
by what is to happen to them and when: WHAT is `rotate` or `destroy`, DATE the seconds since 1970 in
12 digits. They follow from the keys' rows alone; whoever changes a key, by `put_key`, need not know
of them.

Knows nothing of callers and permissions.
"""

from collections.abc import Iterator
from typing import Final

import msgspec

from volcrypt.errors import KeyNotFoundError
from volcrypt.kms.calls import CALLS
from volcrypt.kms.custom_key_store import get_key_store
from volcrypt.kms.grant_items import delete_grants
from volcrypt.kms.model import Alias, KeyState, KmsKey, alias_arn, key_arn
from volcrypt.kms.reference import KeyReference, parse_key_reference
from volcrypt.kms.sealing import Item
from volcrypt.kms.view import Change, View

KEYS: Final = "key"
ALIASES: Final = "alias"
DUE: Final = "due"
ROTATE: Final = "rotate"
DESTROY: Final = "destroy"
_PAGE: Final = 100
IMPORTS: Final = "import"


def home_prefix(account: str, region: str) -> str:
    """What the ids of all items of an account and region begin with."""
    return f"{region}:{account}:"


def find_key(
    view: View, text: str, *, account: str, region: str, takes_alias: bool = True
) -> KmsKey:
    """The key that `text` names. Raises KeyNotFoundError and InvalidArnError."""
    reference = parse_key_reference(text, account=account, region=region, takes_alias=takes_alias)
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
    """The key of that id, whosever it is."""
    item = view.find(KEYS, key_id)
    return None if item is None else decode_key(item)


def decode_key(item: Item) -> KmsKey:
    return item.decoded(KmsKey)


def key_item_id(key: KmsKey) -> str:
    return home_prefix(key.account, key.region) + key.key_id


def put_key(change: Change, key: KmsKey) -> None:
    """Add the key, or replace it; what is due for it follows."""
    id_ = key_item_id(key)
    before = change.get(KEYS, id_)
    old = frozenset() if before is None else frozenset(_due_ids(decode_key(before)))
    new = frozenset(_due_ids(key))
    for due in old - new:
        change.delete(DUE, due)
    for due in new - old:
        change.put(Item(kind=DUE, id=due, owner=id_, body=b"{}"))
    store = key.custom_key_store_id
    owner = None if store is None else home_prefix(key.account, key.region) + store
    body = msgspec.json.encode(key)
    change.put(Item(kind=KEYS, id=id_, name=key.key_id, owner=owner, body=body))


def delete_key(change: Change, key: KmsKey) -> None:
    """Take the key away, and all that is the key's: its material, aliases, grants, what is due for
    it, and an import that is under way."""
    id_ = key_item_id(key)
    for alias in change.items(ALIASES, owner=id_):
        change.delete(ALIASES, alias.id)
    delete_grants(change, key)
    for due in _due_ids(key):
        change.delete(DUE, due)
    for material in key.materials:
        change.delete(CALLS, material.material_id)
    change.delete(IMPORTS, key.key_id)
    change.delete(KEYS, id_)


def _due_ids(key: KmsKey) -> Iterator[str]:
    id_ = key_item_id(key)
    if key.rotation is not None and key.state is KeyState.ENABLED:
        yield f"{ROTATE}:{int(key.rotation.next_at):012d}:{id_}"
    if key.deletion is not None:
        yield f"{DESTROY}:{int(key.deletion.date):012d}:{id_}"
    waiting = () if key.pending_material is None else (key.pending_material,)
    for material in (*key.materials, *waiting):
        if material.wrapped is not None and material.expiry is not None:
            yield f"{DESTROY}:{int(material.expiry.date):012d}:{id_}"


def keys_due(view: View, what: str, now: float) -> list[str]:
    """The ids of the items of all keys for which something of that kind is due at `now`."""
    found: dict[str | None, None] = {}
    end, after = _end_of(what, now), ""
    while page := view.items(DUE, prefix=f"{what}:", after=after, limit=_PAGE):
        found |= dict.fromkeys(item.owner for item in page if item.id < end)
        after = page[-1].id
        if after >= end:
            break
    return [id_ for id_ in found if id_ is not None]


def first_due(view: View, what: str, *, after: float) -> float | None:
    """The first date after that one on which something of that kind is due, to the second."""
    items = view.items(DUE, prefix=f"{what}:", after=_end_of(what, after), limit=1)
    return float(items[0].id.split(":", 2)[1]) if items else None


def _end_of(what: str, date: float) -> str:
    """Greater than the ids of all due items of that second, less than all later ones."""
    return f"{what}:{int(date):012d};"


def is_connected(view: View, key: KmsKey) -> bool:
    """False for a key whose custom key store is not connected."""
    if key.custom_key_store_id is None:
        return True
    store = get_key_store(view, key.custom_key_store_id, account=key.account, region=key.region)
    return store is not None and store.is_connected


def alias_id(name: str, *, account: str, region: str) -> str:
    return home_prefix(account, region) + name


def get_alias(view: View, name: str, *, account: str, region: str) -> Alias | None:
    item = view.get(ALIASES, alias_id(name, account=account, region=region))
    return None if item is None else decode_alias(item)


def alias_names(view: View, key: KmsKey) -> tuple[str, ...]:
    """The names of all aliases of the key."""
    return tuple(decode_alias(item).name for item in view.items(ALIASES, owner=key_item_id(key)))


def decode_alias(item: Item) -> Alias:
    return item.decoded(Alias)


def put_alias(change: Change, alias: Alias) -> None:
    change.put(
        Item(
            kind=ALIASES,
            id=alias_id(alias.name, account=alias.account, region=alias.region),
            owner=home_prefix(alias.account, alias.region) + alias.key_id,
            body=msgspec.json.encode(alias),
        )
    )
