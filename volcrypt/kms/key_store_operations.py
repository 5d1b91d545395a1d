"""Operations on custom key stores: further PKCS#11 tokens in which keys can have their material.

A store is of a *cluster*, which the administrator configured: no request names a module or a file.
The password of the AWS KMS is the token's PIN. To connect takes as long as the module takes, after
the decision is recorded and outside of every lock; the store is CONNECTING meanwhile, and a
connection that fails is a state of the store, not an error of the request.
"""

from dataclasses import replace
from typing import Final

from volcrypt.errors import (
    ClusterInUseError,
    ClusterNotActiveError,
    ClusterNotFoundError,
    ClusterNotRelatedError,
    CustomKeyStoreHasKeysError,
    CustomKeyStoreInvalidStateError,
    CustomKeyStoreNameInUseError,
    CustomKeyStoreNotFoundError,
    IncorrectTrustAnchorError,
    KmsValidationError,
    LimitExceededError,
    UnsupportedOperationError,
)
from volcrypt.kms.attempt import Attempt, Effect
from volcrypt.kms.custom_key_store import (
    KEY_STORES,
    ConnectionState,
    CustomKeyStore,
    decode_key_store,
    find_key_store,
    get_key_store,
    key_store_item_id,
    put_key_store,
)
from volcrypt.kms.keyring import KEYS
from volcrypt.kms.messages.base import EmptyResponse
from volcrypt.kms.messages.key_stores import (
    AWS_CLOUDHSM,
    ConnectCustomKeyStoreRequest,
    CreateCustomKeyStoreRequest,
    CreateCustomKeyStoreResponse,
    CustomKeyStoresListEntry,
    DeleteCustomKeyStoreRequest,
    DescribeCustomKeyStoresRequest,
    DescribeCustomKeyStoresResponse,
    DisconnectCustomKeyStoreRequest,
    UpdateCustomKeyStoreRequest,
)
from volcrypt.kms.remote_store import Cluster
from volcrypt.kms.scope import Scope
from volcrypt.kms.view import Change, View

MAX_KEY_STORES: Final = 10
_ID_BYTES: Final = 9


class KeyStoreOperations(Scope):
    """Requests raise the errors of the AWS KMS; see the module `service`."""

    def create_custom_key_store(
        self, attempt: Attempt, request: CreateCustomKeyStoreRequest
    ) -> Effect[CreateCustomKeyStoreResponse]:
        attempt.authorise_account("CreateCustomKeyStore")
        if request.custom_key_store_type not in (None, AWS_CLOUDHSM):
            raise UnsupportedOperationError("external key stores are not supported")
        cluster_id = _required(request.cloud_hsm_cluster_id, "CloudHsmClusterId")
        certificate = _required(request.trust_anchor_certificate, "TrustAnchorCertificate")
        password = _required(request.key_store_password, "KeyStorePassword")
        self._check_name(attempt.change, request.custom_key_store_name)
        if len(self._key_stores_here(attempt.change)) >= MAX_KEY_STORES:
            raise LimitExceededError(
                f"an account cannot have more than {MAX_KEY_STORES} custom key stores per region"
            )
        cluster = self._cluster(attempt.change, cluster_id)
        if not _is_same_certificate(cluster, certificate):
            raise IncorrectTrustAnchorError(
                f"The trust anchor certificate is not the one of cluster {cluster_id}."
            )
        id_ = f"cks-{self._keystore.random(_ID_BYTES).hex()[1:]}"
        attempt.response_elements = {"customKeyStoreId": id_}

        def change(change: Change) -> None:
            store = CustomKeyStore(
                id=id_,
                account=self._account,
                region=self._region,
                name=request.custom_key_store_name,
                cluster_id=cluster_id,
                trust_anchor_certificate=certificate,
                created_at=self._clock(),
                password=b"",
            )
            put_key_store(change, self._with_password(store, password))

        return Effect(
            change=change, act=lambda: CreateCustomKeyStoreResponse(custom_key_store_id=id_)
        )

    def describe_custom_key_stores(
        self, attempt: Attempt, request: DescribeCustomKeyStoresRequest
    ) -> Effect[DescribeCustomKeyStoresResponse]:
        attempt.authorise_account("DescribeCustomKeyStores")
        id_, name = request.custom_key_store_id, request.custom_key_store_name
        if id_ is not None and name is not None:
            raise KmsValidationError(
                "Only one of CustomKeyStoreId and CustomKeyStoreName can be specified."
            )
        found: CustomKeyStore | None = None
        if id_ is not None:
            found = self._find_key_store(attempt, id_)
        elif name is not None:
            found = find_key_store(attempt.change, name, account=self._account, region=self._region)
            if found is None:
                raise CustomKeyStoreNotFoundError(f"Custom key store {name} does not exist.")
        if found is not None:
            stores, marker = [found], None
        else:
            stores, marker = self._key_store_page(attempt.change, request)
        response = DescribeCustomKeyStoresResponse(
            custom_key_stores=[_entry(store) for store in stores],
            truncated=marker is not None,
            next_marker=marker,
        )
        return Effect(act=lambda: response)

    def connect_custom_key_store(
        self, attempt: Attempt, request: ConnectCustomKeyStoreRequest
    ) -> Effect[EmptyResponse]:
        attempt.authorise_account("ConnectCustomKeyStore")
        store = self._find_key_store(attempt, request.custom_key_store_id)
        _check_state(
            store,
            ConnectionState.CONNECTED,
            ConnectionState.CONNECTING,
            ConnectionState.DISCONNECTED,
        )
        connecting = replace(store, connection_state=ConnectionState.CONNECTING, error_code=None)

        def act() -> EmptyResponse:
            error_code = self._key_stores.connect(store, self._keystore)
            with self._catalog.changing() as change:
                now = self._get_key_store(change, store.id)
                if now == connecting:
                    put_key_store(change, _connected(connecting, error_code))
                    return EmptyResponse()
            # Disconnected or deleted meanwhile.
            self._key_stores.disconnect(store)
            return EmptyResponse()

        return Effect(change=lambda change: put_key_store(change, connecting), act=act)

    def disconnect_custom_key_store(
        self, attempt: Attempt, request: DisconnectCustomKeyStoreRequest
    ) -> Effect[EmptyResponse]:
        attempt.authorise_account("DisconnectCustomKeyStore")
        store = self._find_key_store(attempt, request.custom_key_store_id)
        _check_state(
            store, ConnectionState.CONNECTED, ConnectionState.CONNECTING, ConnectionState.FAILED
        )
        changed = replace(store, connection_state=ConnectionState.DISCONNECTED, error_code=None)

        def act() -> EmptyResponse:
            self._key_stores.disconnect(store)
            return EmptyResponse()

        return Effect(change=lambda change: put_key_store(change, changed), act=act)

    def update_custom_key_store(
        self, attempt: Attempt, request: UpdateCustomKeyStoreRequest
    ) -> Effect[EmptyResponse]:
        attempt.authorise_account("UpdateCustomKeyStore")
        store = self._find_key_store(attempt, request.custom_key_store_id)
        cluster_id, password = request.cloud_hsm_cluster_id, request.key_store_password
        if cluster_id is None and password is None:
            _check_state(store, ConnectionState.DISCONNECTED, ConnectionState.CONNECTED)
        else:
            _check_state(store, ConnectionState.DISCONNECTED)
        name = request.new_custom_key_store_name
        if name is not None and name != store.name:
            self._check_name(attempt.change, name)
            store = replace(store, name=name)
        if cluster_id is not None and cluster_id != store.cluster_id:
            cluster = self._cluster(attempt.change, cluster_id)
            if not _is_same_certificate(cluster, store.trust_anchor_certificate):
                raise ClusterNotRelatedError(
                    f"Cluster {cluster_id} has another certificate than cluster {store.cluster_id}."
                )
            store = replace(store, cluster_id=cluster_id)

        def change(change: Change) -> None:
            changed = store if password is None else self._with_password(store, password)
            put_key_store(change, changed)

        return Effect(change=change, act=EmptyResponse)

    def delete_custom_key_store(
        self, attempt: Attempt, request: DeleteCustomKeyStoreRequest
    ) -> Effect[EmptyResponse]:
        attempt.authorise_account("DeleteCustomKeyStore")
        store = self._find_key_store(attempt, request.custom_key_store_id)
        if attempt.change.count(KEYS, owner=store.item_id):
            raise CustomKeyStoreHasKeysError(f"Custom key store {store.id} contains KMS keys.")
        _check_state(store, ConnectionState.DISCONNECTED)
        return Effect(
            change=lambda change: change.delete(KEY_STORES, store.item_id), act=EmptyResponse
        )

    def _find_key_store(self, attempt: Attempt, id_: str) -> CustomKeyStore:
        store = self._get_key_store(attempt.change, id_)
        if store is None:
            raise CustomKeyStoreNotFoundError(f"Custom key store {id_} does not exist.")
        return store

    def _get_key_store(self, view: View, id_: str) -> CustomKeyStore | None:
        return get_key_store(view, id_, account=self._account, region=self._region)

    def _key_stores_here(self, view: View) -> list[CustomKeyStore]:
        """Those of this account and region."""
        prefix = key_store_item_id(self._account, self._region, "")
        items = view.items(KEY_STORES, after=prefix)
        return [decode_key_store(item) for item in items if item.id.startswith(prefix)]

    def _check_name(self, view: View, name: str) -> None:
        if find_key_store(view, name, account=self._account, region=self._region) is not None:
            raise CustomKeyStoreNameInUseError(f"A custom key store named {name} exists already.")

    def _cluster(self, view: View, cluster_id: str) -> Cluster:
        """A cluster that a store can be made of. Raises ClusterNotFoundError, ClusterInUseError,
        ClusterNotActiveError."""
        cluster = self._key_stores.clusters.get(cluster_id)
        if cluster is None:
            raise ClusterNotFoundError(f"Cluster {cluster_id} does not exist.")
        if any(store.cluster_id == cluster_id for store in self._key_stores_here(view)):
            raise ClusterInUseError(f"Cluster {cluster_id} is in use by a custom key store.")
        if not cluster.module.exists():
            raise ClusterNotActiveError(f"Cluster {cluster_id} is not active.")
        return cluster

    def _with_password(self, store: CustomKeyStore, password: str) -> CustomKeyStore:
        plaintext = bytearray(password.encode())
        try:
            return replace(store, password=self._keystore.seal(plaintext, store.aad))
        finally:
            plaintext[:] = bytes(len(plaintext))

    def _key_store_page(
        self, view: View, request: DescribeCustomKeyStoresRequest
    ) -> tuple[list[CustomKeyStore], str | None]:
        """What a page holds, and the marker of the next one: the id of its last store."""
        stores = [s for s in self._key_stores_here(view) if s.id > (request.marker or "")]
        page = stores[: request.limit]
        return page, page[-1].id if len(stores) > len(page) else None


def _check_state(store: CustomKeyStore, *states: ConnectionState) -> None:
    if store.connection_state not in states:
        raise CustomKeyStoreInvalidStateError(
            f"Custom key store {store.id} is {store.connection_state.value}, which is not valid "
            "for this operation."
        )


def _connected(store: CustomKeyStore, error_code: str | None) -> CustomKeyStore:
    """The store after an attempt to connect it."""
    if error_code is not None:
        return replace(store, connection_state=ConnectionState.FAILED, error_code=error_code)
    return replace(store, connection_state=ConnectionState.CONNECTED, has_wrapping_key=True)


def _is_same_certificate(cluster: Cluster, certificate: str) -> bool:
    """Whether it is the cluster's, where one is configured; white space does not count."""
    known = cluster.trust_anchor_certificate
    return known is None or known.split() == certificate.split()


def _required(value: str | None, name: str) -> str:
    if value is None:
        raise KmsValidationError(f"{name} is required for a custom key store of type AWS_CLOUDHSM.")
    return value


def _entry(store: CustomKeyStore) -> CustomKeyStoresListEntry:
    return CustomKeyStoresListEntry(
        custom_key_store_id=store.id,
        custom_key_store_name=store.name,
        cloud_hsm_cluster_id=store.cluster_id,
        trust_anchor_certificate=store.trust_anchor_certificate,
        connection_state=store.connection_state.value,
        connection_error_code=store.error_code,
        creation_date=store.created_at,
        custom_key_store_type=AWS_CLOUDHSM,
    )
