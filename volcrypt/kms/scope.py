"""What every group of operations works with: one account and region of a home.

The groups (`key_operations`, `alias_operations`, `data_operations`) are joined in `service`.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Final
from uuid import UUID

from volcrypt.errors import (
    CustomKeyStoreInvalidStateError,
    CustomKeyStoreNotFoundError,
    InvalidStateError,
    KeyNotFoundError,
    KmsError,
)
from volcrypt.formats.audit_record import Resource
from volcrypt.formats.ciphertext_blob import MATERIAL_ID_BYTES
from volcrypt.kms.attempt import Attempt
from volcrypt.kms.audit import AuditLog
from volcrypt.kms.calls import CallCounter
from volcrypt.kms.catalog import Catalog
from volcrypt.kms.custom_key_store import get_key_store
from volcrypt.kms.key_stores import KeyStores
from volcrypt.kms.keyring import find_key, get_alias, home_prefix, put_alias, put_key
from volcrypt.kms.keystore import KeyStore, MaterialStore
from volcrypt.kms.messages.base import PagedRequest
from volcrypt.kms.model import (
    DAY_SECONDS,
    DEFAULT_KEY_ALIAS,
    DEFAULT_KEY_SYNONYM,
    Alias,
    Caller,
    KeyManager,
    KeyMaterial,
    KeyOrigin,
    KeyState,
    KmsKey,
    Rotation,
    key_arn,
)
from volcrypt.kms.paging import decode_marker, encode_marker
from volcrypt.kms.performer import Performer
from volcrypt.kms.policy import service_managed_policy
from volcrypt.kms.reference import TAKE_ALIAS, parse_key_reference
from volcrypt.kms.sealing import Item
from volcrypt.kms.view import Change, View

_DEFAULT_KEY_ALIASES: Final = (DEFAULT_KEY_ALIAS, DEFAULT_KEY_SYNONYM)
_DEFAULT_KEY_ROTATION_DAYS: Final = 365
_DEFAULT_KEY_DESCRIPTION: Final = (
    "Default key that protects my EBS volumes when no other key is defined"
)
_ARN_COLONS: Final = 5
_ARN_ACCOUNT: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a service is made of; those of one home differ in account and region alone.

    `clock` gives seconds since 1970-01-01 UTC.
    """

    catalog: Catalog
    keystore: KeyStore
    audit: AuditLog
    account: str
    region: str
    clock: Callable[[], float]
    calls: CallCounter = field(default_factory=CallCounter)
    key_stores: KeyStores = field(default_factory=KeyStores)


class Scope:
    """Base of the groups of operations."""

    def __init__(self, parts: Parts, performer: Performer) -> None:
        self._catalog = parts.catalog
        self._keystore = parts.keystore
        self._key_stores = parts.key_stores
        self._account = parts.account
        self._region = parts.region
        self._clock = parts.clock
        self._calls = parts.calls
        self._performer = performer
        self._has_default_key = False

    def _find_key(self, attempt: Attempt, text: str) -> KmsKey:
        """The key that a request names, as its operation may. Raises KeyNotFoundError and
        InvalidArnError; AccessDeniedError where there is no such key in another account, as if it
        were there and forbidden."""
        try:
            key = find_key(
                attempt.change,
                text,
                account=self._account,
                region=self._region,
                takes_alias=attempt.operation in TAKE_ALIAS,
            )
        except KeyNotFoundError as error:
            if text.count(":") >= _ARN_COLONS and text.split(":")[_ARN_ACCOUNT] != self._account:
                raise attempt.unseen(text) from error
            raise
        if key.account != self._account:
            attempt.named_as[key.arn] = text
        return key

    def _store_of(self, key: KmsKey, view: View | None = None) -> MaterialStore:
        """Where the key's material lives; `view` is that of the transaction, inside of one.

        Raises InvalidStateError when that is a custom key store that is not connected; so does
        every call, when it cannot be reached.
        """
        id_ = key.custom_key_store_id
        if id_ is None:
            return self._keystore
        with self._catalog.reading() if view is None else nullcontext(view) as now:
            store = get_key_store(now, id_, account=key.account, region=key.region)
        if store is None or not store.is_connected:
            raise InvalidStateError(f"{key.arn} is unavailable.")
        return self._key_stores.material_store(store, self._keystore)

    def _connected_store(self, view: View, key_store_id: str) -> MaterialStore:
        """A custom key store of this account and region, to make keys in. Raises
        CustomKeyStoreNotFoundError, CustomKeyStoreInvalidStateError unless it is connected."""
        store = get_key_store(view, key_store_id, account=self._account, region=self._region)
        if store is None:
            raise CustomKeyStoreNotFoundError(f"Custom key store {key_store_id} does not exist.")
        if not store.is_connected:
            raise CustomKeyStoreInvalidStateError(
                f"Custom key store {store.id} is {store.connection_state.value}, which is not "
                "valid for this operation."
            )
        return self._key_stores.material_store(store, self._keystore)

    def _new_key_id(self) -> str:
        return str(UUID(bytes=bytes(self._keystore.random(16)), version=4))

    def _generate_material(self, store: MaterialStore | None = None) -> KeyMaterial:
        """New material from the home's HSM, or from that of a custom key store."""
        return KeyMaterial(
            material_id=self._keystore.random(MATERIAL_ID_BYTES).hex(),
            wrapped=(store or self._keystore).generate_material(),
            created_at=self._clock(),
        )

    def _generate_key(
        self, key_id: str, *, description: str, manager: KeyManager, policy: str
    ) -> KmsKey:
        """An enabled key with material that the HSM generates now."""
        material = self._generate_material()
        now = material.created_at
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
        if self._has_default_key or text is None or "alias/" not in text:
            return
        if caller.account != self._account:
            return
        try:
            reference = parse_key_reference(text, account=self._account, region=self._region)
        except KmsError:  # the request itself will say it, and have it recorded
            return
        if reference.account != self._account or reference.alias not in _DEFAULT_KEY_ALIASES:
            return
        with self._catalog.reading() as view:
            # It cannot be deleted, so it is looked for until it is found.
            self._has_default_key = not self._lacks_default_key(view)
        if self._has_default_key:
            return
        key_id = self._new_key_id()
        resource = Resource(
            arn=key_arn(self._account, self._region, key_id), account_id=self._account
        )
        self._performer.perform_by_service(
            "CreateKey",
            resource,
            lambda change: self._put_default_key(change, key_id),
            account=self._account,
            region=self._region,
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
        next_at = key.created_at + _DEFAULT_KEY_ROTATION_DAYS * DAY_SECONDS
        rotation = Rotation(period_days=_DEFAULT_KEY_ROTATION_DAYS, next_at=next_at)
        put_key(change, replace(key, rotation=rotation))
        for name in _DEFAULT_KEY_ALIASES:
            put_alias(
                change,
                Alias(
                    name=name,
                    account=self._account,
                    region=self._region,
                    key_id=key_id,
                    created_at=key.created_at,
                    updated_at=key.created_at,
                ),
            )

    def _page(
        self,
        view: View,
        kind: str,
        request: PagedRequest[Any],
        *,
        owner: str | None = None,
        prefix: str | None = None,
    ) -> tuple[list[Item], str | None]:
        """The items of a page, and the marker of the next one if there is any; of this account and
        region if no other `prefix` of their ids is given."""
        if prefix is None:
            prefix = home_prefix(self._account, self._region)
        after = "" if request.marker is None else prefix + decode_marker(request.marker)
        found = view.items(kind, owner=owner, prefix=prefix, after=after, limit=request.limit + 1)
        page = found[: request.limit]
        if len(found) == len(page):
            return page, None
        return page, encode_marker(page[-1].id.removeprefix(prefix))
