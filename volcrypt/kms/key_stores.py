"""The connections of this process to custom key stores: which are there, and making them.

A store that is CONNECTED in the catalogue is connected by whichever process uses it, at the first
use, and again after the process that holds its token died. A password that was refused is not tried
again until it was changed, or somebody asks for the connection.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Final

from volcrypt.errors import (
    HsmUnavailableError,
    InvalidStateError,
    PinLockedError,
    TokenMissingError,
    VolcryptError,
    WrongPinError,
)
from volcrypt.kms.custom_key_store import CustomKeyStore
from volcrypt.kms.keystore import KeyStore, MaterialStore
from volcrypt.kms.model import WrappedMaterial
from volcrypt.kms.remote_store import Cluster, RemoteStore

NO_CLUSTERS: Final[Mapping[str, Cluster]] = MappingProxyType({})
_UNREACHABLE: Final = "KMS cannot communicate with your CloudHSM cluster"
_OTHER: Final = "INTERNAL_ERROR"
_ERROR_CODES: Final[tuple[tuple[type[VolcryptError], str], ...]] = (
    # The first row that fits decides; a class stands before its base.
    (PinLockedError, "USER_LOCKED_OUT"),
    (WrongPinError, "INVALID_CREDENTIALS"),
    (TokenMissingError, "CLUSTER_NOT_FOUND"),
    (HsmUnavailableError, "NETWORK_ERRORS"),
)


class KeyStores:
    """Shared by all services of a home in this process. Safe for several threads."""

    def __init__(self, clusters: Mapping[str, Cluster] = NO_CLUSTERS) -> None:
        """`clusters` is what the administrator has configured, by CloudHSM cluster id."""
        self.clusters = clusters
        self._mutex = threading.Lock()
        self._connections: dict[str, _Connection] = {}

    def close(self) -> None:
        with self._mutex:
            for connection in self._connections.values():
                connection.close()
            self._connections.clear()

    def connect(self, store: CustomKeyStore, home: KeyStore) -> str | None:
        """Connect anew. None, or the name of the AWS KMS for what went wrong."""
        try:
            self._connection(store).connect(store, home)
        except VolcryptError as error:
            return next((code for kind, code in _ERROR_CODES if isinstance(error, kind)), _OTHER)
        return None

    def disconnect(self, store: CustomKeyStore) -> None:
        self._connection(store).close()

    def material_store(self, store: CustomKeyStore, home: KeyStore) -> MaterialStore:
        """The token of a store that is CONNECTED; every call raises InvalidStateError while it
        cannot be reached, and the next one tries again. `home` opens the password."""
        return _Reconnecting(self._connection(store), store, home)

    def _connection(self, store: CustomKeyStore) -> "_Connection":
        with self._mutex:
            return self._connections.setdefault(store.item_id, _Connection(self.clusters))


class _Connection:
    """The process of one custom key store, when there is one. Waiting for it blocks nobody else."""

    def __init__(self, clusters: Mapping[str, Cluster]) -> None:
        self._clusters = clusters
        self._mutex = threading.Lock()
        self._remote: RemoteStore | None = None
        self._refused: bytes | None = None

    def close(self) -> None:
        with self._mutex:
            self._drop()

    def connect(self, store: CustomKeyStore, home: KeyStore) -> None:
        with self._mutex:
            self._drop()
            self._open(store, home, make_key=not store.has_wrapping_key)

    def reach(self, store: CustomKeyStore, home: KeyStore) -> RemoteStore:
        """Raises HsmUnavailableError, TokenMissingError, WrongPinError, IntegrityError."""
        with self._mutex:
            if self._remote is not None and not self._remote.is_done:
                return self._remote
            self._drop()
            if self._refused == store.password:
                raise WrongPinError("the password of the key store was refused")
            return self._open(store, home, make_key=False)

    def _open(self, store: CustomKeyStore, home: KeyStore, *, make_key: bool) -> RemoteStore:
        cluster = self._clusters.get(store.cluster_id)
        if cluster is None:
            raise TokenMissingError(f"{store.cluster_id} is not configured")
        pin = home.open_sealed(store.password, store.aad)
        try:
            self._remote = RemoteStore(cluster, prefix=store.prefix, pin=pin, make_key=make_key)
        except WrongPinError:
            self._refused = store.password
            raise
        self._refused = None
        return self._remote

    def _drop(self) -> None:
        if self._remote is not None:
            self._remote.close()
            self._remote = None


class _Reconnecting:
    """MaterialStore of a custom key store, through whichever process serves it at the moment."""

    def __init__(self, connection: _Connection, store: CustomKeyStore, home: KeyStore) -> None:
        self._connection = connection
        self._store = store
        self._home = home

    def generate_material(self) -> WrappedMaterial:
        with self._reached() as remote:
            return remote.generate_material()

    def encrypt(self, material: WrappedMaterial, *, plaintext: bytearray, aad: bytes) -> bytes:
        with self._reached() as remote:
            return remote.encrypt(material, plaintext=plaintext, aad=aad)

    def decrypt(self, material: WrappedMaterial, *, sealed: bytes, aad: bytes) -> bytearray:
        with self._reached() as remote:
            return remote.decrypt(material, sealed=sealed, aad=aad)

    def random(self, count: int) -> bytearray:
        with self._reached() as remote:
            return remote.random(count)

    def rewrap(self, materials: Sequence[WrappedMaterial]) -> list[WrappedMaterial]:
        with self._reached() as remote:
            return remote.rewrap(materials)

    def generation(self) -> int:
        with self._reached() as remote:
            return remote.generation()

    def retire(self, *, older_than: int) -> None:
        with self._reached() as remote:
            remote.retire(older_than=older_than)

    @contextmanager
    def _reached(self) -> Iterator[RemoteStore]:
        """What the AWS KMS says when it cannot reach a key store."""
        try:
            yield self._connection.reach(self._store, self._home)
        except (HsmUnavailableError, TokenMissingError, WrongPinError) as error:
            raise InvalidStateError(_UNREACHABLE) from error


def _conforms(store: _Reconnecting) -> MaterialStore:
    return store
