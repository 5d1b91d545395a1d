"""Keys and aliases as items of the catalogue: how a request's words become a key.

    key      id = key id                       owner = its custom key store, if it is in one;
                                               body = KmsKey
    alias    id = REGION:ACCOUNT:alias/NAME    owner = key id, body = Alias
    calls    id = material id                  body = Calls

Knows nothing of callers and permissions.
"""

import threading
from dataclasses import dataclass
from typing import Final

import msgspec

from volcrypt.errors import KeyNotFoundError, LimitExceededError
from volcrypt.kms.model import Alias, KeyMaterial, KmsKey, alias_arn, key_arn
from volcrypt.kms.reference import KeyReference, parse_key_reference
from volcrypt.kms.sealing import Item
from volcrypt.kms.view import Change, View

KEYS: Final = "key"
ALIASES: Final = "alias"
CALLS: Final = "calls"
MAX_CALLS: Final = 2**32
"""Encryptions under one key material with random IVs (NIST SP 800-38D, 8.3)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """How many encryptions under a material were handed out, used or not."""

    leased: int


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
    return msgspec.json.decode(item.body, type=KmsKey)


def put_key(change: Change, key: KmsKey) -> None:
    store = key.custom_key_store_id
    owner = None if store is None else f"{key.region}:{key.account}:{store}"
    change.put(Item(kind=KEYS, id=key.key_id, owner=owner, body=msgspec.json.encode(key)))


def alias_id(name: str, *, account: str, region: str) -> str:
    return f"{region}:{account}:{name}"


def get_alias(view: View, name: str, *, account: str, region: str) -> Alias | None:
    item = view.get(ALIASES, alias_id(name, account=account, region=region))
    return None if item is None else decode_alias(item)


def decode_alias(item: Item) -> Alias:
    return msgspec.json.decode(item.body, type=Alias)


def put_alias(change: Change, alias: Alias) -> None:
    change.put(
        Item(
            kind=ALIASES,
            id=alias_id(alias.name, account=alias.account, region=alias.region),
            owner=alias.key_id,
            body=msgspec.json.encode(alias),
        )
    )


class CallCounter:
    """Counts encryptions under each material, so that none is used 2^32 times.

    A process takes calls out of the catalogue in blocks, before it uses them: what it does not use
    is lost, what it uses is counted, whatever happens to it. Blocks grow, so that a short command
    takes few and a daemon seldom comes back. Safe for several threads.
    """

    FIRST_BLOCK: Final = 16
    LARGEST_BLOCK: Final = 2**16

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._left: dict[str, int] = {}
        self._next_block: dict[str, int] = {}

    def take(self, change: Change, material: KeyMaterial) -> int:
        """Take one call; how many more become this process's own when the change is durable, to
        be handed to `credit` then. Raises LimitExceededError when the material is used up."""
        id_ = material.material_id
        with self._mutex:
            if self._left.get(id_, 0) > 0:
                self._left[id_] -= 1
                return 0
            item = change.get(CALLS, id_)
            leased = 0 if item is None else msgspec.json.decode(item.body, type=Calls).leased
            block = min(self._next_block.get(id_, self.FIRST_BLOCK), MAX_CALLS - leased)
            if block <= 0:
                raise LimitExceededError(
                    f"key material {id_} has encrypted {MAX_CALLS} times, its key must be rotated"
                )
            body = msgspec.json.encode(Calls(leased=leased + block))
            change.put(Item(kind=CALLS, id=id_, body=body))
            return block - 1

    def credit(self, material: KeyMaterial, count: int) -> None:
        id_ = material.material_id
        with self._mutex:
            self._left[id_] = self._left.get(id_, 0) + count
            if count:
                next_block = self._next_block.get(id_, self.FIRST_BLOCK) * 8
                self._next_block[id_] = min(next_block, self.LARGEST_BLOCK)
