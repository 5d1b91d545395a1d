"""What every group of operations works with: one account and region of one home.

The groups (`key_operations`, `alias_operations`, `data_operations`) are joined in `service`.
"""

from base64 import b64decode, urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from volcrypt.errors import (
    CustomKeyStoreInvalidStateError,
    CustomKeyStoreNotFoundError,
    InvalidMarkerError,
    InvalidStateError,
    KmsError,
)
from volcrypt.formats.audit_record import Resource
from volcrypt.formats.ciphertext_blob import MATERIAL_ID_BYTES
from volcrypt.kms.attempt import Attempt
from volcrypt.kms.audit import AuditLog
from volcrypt.kms.catalog import Catalog
from volcrypt.kms.custom_key_store import ConnectionState, get_key_store
from volcrypt.kms.key_stores import KeyStores
from volcrypt.kms.keyring import CallCounter, find_key, get_alias, put_alias, put_key
from volcrypt.kms.keystore import KeyStore, MaterialStore
from volcrypt.kms.messages.base import PagedRequest
from volcrypt.kms.model import (
    DEFAULT_KEY_ALIAS,
    Alias,
    Caller,
    KeyManager,
    KeyMaterial,
    KeyOrigin,
    KeyState,
    KmsKey,
    key_arn,
)
from volcrypt.kms.performer import Performer
from volcrypt.kms.policy import service_managed_policy
from volcrypt.kms.reference import parse_key_reference
from volcrypt.kms.sealing import Item
from volcrypt.kms.view import Change, View

_DEFAULT_KEY_DESCRIPTION: Final = (
    "Default key that protects my EBS volumes when no other key is defined"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a service is made of. `clock` gives seconds since 1970-01-01 UTC."""

    catalog: Catalog
    keystore: KeyStore
    audit: AuditLog
    account: str
    region: str
    clock: Callable[[], float]
    key_stores: KeyStores = field(default_factory=KeyStores)


class Scope:
    """Base of the groups of operations."""

    def __init__(self, parts: Parts) -> None:
        self._catalog = parts.catalog
        self._keystore = parts.keystore
        self._key_stores = parts.key_stores
        self._account = parts.account
        self._region = parts.region
        self._clock = parts.clock
        self._calls = CallCounter()
        self._performer = Performer(
            parts.catalog,
            parts.audit,
            account=parts.account,
            region=parts.region,
            clock=parts.clock,
        )

    def _find_key(self, attempt: Attempt, text: str) -> KmsKey:
        """Raises KeyNotFoundError and InvalidArnError."""
        return find_key(attempt.change, text, account=self._account, region=self._region)

    def _store_of(self, key: KmsKey) -> MaterialStore:
        """Where the key's material lives. Raises InvalidStateError when that is a custom key store
        that is not connected; so does every call, when it cannot be reached."""
        if key.custom_key_store_id is None:
            return self._keystore
        with self._catalog.reading() as view:
            store = get_key_store(
                view, key.custom_key_store_id, account=key.account, region=key.region
            )
        if store is None or store.connection_state is not ConnectionState.CONNECTED:
            raise InvalidStateError(f"{key.arn} is unavailable.")
        return self._key_stores.material_store(store, self._keystore)

    def _connected_store(self, view: View, key_store_id: str) -> MaterialStore:
        """A custom key store of this account and region, to make keys in. Raises
        CustomKeyStoreNotFoundError, CustomKeyStoreInvalidStateError unless it is connected."""
        store = get_key_store(view, key_store_id, account=self._account, region=self._region)
        if store is None:
            raise CustomKeyStoreNotFoundError(f"Custom key store {key_store_id} does not exist.")
        if store.connection_state is not ConnectionState.CONNECTED:
            raise CustomKeyStoreInvalidStateError(
                f"Custom key store {store.id} is {store.connection_state.value}, which is not "
                "valid for this operation."
            )
        return self._key_stores.material_store(store, self._keystore)

    def _new_key_id(self) -> str:
        return str(UUID(bytes=bytes(self._keystore.random(16)), version=4))

    def _generate_key(
        self, key_id: str, *, description: str, manager: KeyManager, policy: str
    ) -> KmsKey:
        """An enabled key with material that the HSM generates now."""
        now = self._clock()
        material = KeyMaterial(
            material_id=self._keystore.random(MATERIAL_ID_BYTES).hex(),
            wrapped=self._keystore.generate_material(),
            created_at=now,
        )
        return KmsKey(
            key_id=key_id,
            account=self._account,
            region=self._region,
            created_at=now,
            description=description,
            state=KeyState.ENABLED,
            manager=manager,
            origin=KeyOrigin.AWS_KMS,
            policy=policy,
            materials=(material,),
        )

    def _ensure_default_key(self, caller: Caller, text: str | None) -> None:
        """Make the service-managed key when `text` names it for the first time.

        A transaction of its own, before the request: if that is refused, the key stays.
        """
        if text is None or caller.account != self._account:
            return
        try:
            reference = parse_key_reference(text, account=self._account, region=self._region)
        except KmsError:  # the request itself will say it, and have it recorded
            return
        if (reference.account, reference.alias) != (self._account, DEFAULT_KEY_ALIAS):
            return
        with self._catalog.reading() as view:
            if not self._lacks_default_key(view):
                return
        key_id = self._new_key_id()
        resource = Resource(
            arn=key_arn(self._account, self._region, key_id), account_id=self._account
        )
        self._performer.perform_by_service(
            "CreateKey",
            resource,
            lambda change: self._put_default_key(change, key_id),
            is_due=self._lacks_default_key,
        )

    def _lacks_default_key(self, view: View) -> bool:
        alias = get_alias(view, DEFAULT_KEY_ALIAS, account=self._account, region=self._region)
        return alias is None

    def _put_default_key(self, change: Change, key_id: str) -> None:
        key = self._generate_key(
            key_id,
            description=_DEFAULT_KEY_DESCRIPTION,
            manager=KeyManager.AWS,
            policy=service_managed_policy(self._account, self._region),
        )
        put_key(change, key)
        put_alias(
            change,
            Alias(
                name=DEFAULT_KEY_ALIAS,
                account=self._account,
                region=self._region,
                key_id=key_id,
                created_at=key.created_at,
                updated_at=key.created_at,
            ),
        )

    def _page(
        self, view: View, kind: str, request: PagedRequest[Any], *, owner: str | None = None
    ) -> tuple[list[Item], str | None]:
        """The items of a page, and the marker of the next one if there is any."""
        after = "" if request.marker is None else _decode_marker(request.marker)
        found = view.items(kind, owner=owner, after=after, limit=request.limit + 1)
        page = found[: request.limit]
        return page, _encode_marker(page[-1].id) if len(found) > len(page) else None


def _encode_marker(id_: str) -> str:
    return urlsafe_b64encode(id_.encode()).decode()


def _decode_marker(marker: str) -> str:
    """Raises InvalidMarkerError."""
    try:
        return b64decode(marker.encode(), altchars=b"-_", validate=True).decode()
    except ValueError as error:
        raise InvalidMarkerError("the marker is not one that the KMS gave") from error
