"""Custom key stores as items of the catalogue: further tokens that keys can have material in.

    key-store    id = REGION:ACCOUNT:cks-...    name = REGION:ACCOUNT:NAME    body = CustomKeyStore

`connection_state` is what was asked for, and holds for all processes of the home: one that uses a
store which is CONNECTED connects by itself (`key_stores`).

    DISCONNECTED -> CONNECTING -> CONNECTED | FAILED      ConnectCustomKeyStore
    any but DISCONNECTED -> DISCONNECTED                  DisconnectCustomKeyStore
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Final

import msgspec

from volcrypt.kms.sealing import Item
from volcrypt.kms.view import Change, View

KEY_STORES: Final = "key-store"


class ConnectionState(Enum):
    CONNECTED = "CONNECTED"
    CONNECTING = "CONNECTING"
    FAILED = "FAILED"
    DISCONNECTED = "DISCONNECTED"
    DISCONNECTING = "DISCONNECTING"


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomKeyStore:
    """`password` is the token's PIN, a sealed secret. `has_wrapping_key` is True once volcrypt made
    its wrapping key in the token: from then on a token without it is another one.

    `error_code` says why a connection failed, with a name of the AWS KMS.
    """

    id: str
    account: str
    region: str
    name: str
    cluster_id: str
    trust_anchor_certificate: str
    created_at: float
    password: bytes = field(repr=False)
    connection_state: ConnectionState = ConnectionState.DISCONNECTED
    error_code: str | None = None
    has_wrapping_key: bool = False

    @property
    def item_id(self) -> str:
        return key_store_item_id(self.account, self.region, self.id)

    @property
    def aad(self) -> bytes:
        """What the password is sealed with."""
        return f"volcrypt key store password 1\0{self.item_id}".encode()

    @property
    def is_connected(self) -> bool:
        return self.connection_state is ConnectionState.CONNECTED

    @property
    def prefix(self) -> str:
        """What the labels of this store's wrapping keys begin with in the token: two homes, or two
        stores, that share a token do not destroy each other's."""
        return f"volcrypt-{self.id}-"


def key_store_item_id(account: str, region: str, id_: str) -> str:
    return f"{region}:{account}:{id_}"


def get_key_store(view: View, id_: str, *, account: str, region: str) -> CustomKeyStore | None:
    item = view.get(KEY_STORES, key_store_item_id(account, region, id_))
    return None if item is None else decode_key_store(item)


def find_key_store(view: View, name: str, *, account: str, region: str) -> CustomKeyStore | None:
    item = view.find(KEY_STORES, key_store_item_id(account, region, name))
    return None if item is None else decode_key_store(item)


def decode_key_store(item: Item) -> CustomKeyStore:
    return item.decoded(CustomKeyStore)


def put_key_store(change: Change, store: CustomKeyStore) -> None:
    change.put(
        Item(
            kind=KEY_STORES,
            id=store.item_id,
            name=key_store_item_id(store.account, store.region, store.name),
            body=msgspec.json.encode(store),
        )
    )
