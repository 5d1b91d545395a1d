"""KmsService: the AWS KMS, for one account and region.

For every operation the groups have one method, of its name in snake case, that decides through an
`Attempt` and says what is to be done as an `Effect`; `perform` has it checked, logged and done, in
that order. Sync and safe for several threads. An operation that is not
here is answered with UnsupportedOperationError.

Policy is asked before key state: who may not use a key does not learn its state. To Decrypt and
ReEncrypt, a blob of an unknown key and one of a forbidden key look the same.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from volcrypt.errors import InvalidStateError, UnsupportedOperationError, VolcryptError
from volcrypt.formats.audit_record import AuditHead
from volcrypt.kms.alias_operations import AliasOperations
from volcrypt.kms.attempt import Attempt, Effect
from volcrypt.kms.custom_key_store import KEY_STORES, ConnectionState, decode_key_store
from volcrypt.kms.data_operations import DataOperations
from volcrypt.kms.import_operations import ImportOperations
from volcrypt.kms.key_operations import KeyOperations
from volcrypt.kms.key_store_operations import KeyStoreOperations
from volcrypt.kms.keystore import MaterialStore
from volcrypt.kms.messages.base import A, Request
from volcrypt.kms.model import Caller
from volcrypt.kms.protocol import (
    OPERATIONS,
    decode_request,
    encode_response,
    operation_of,
    snake_case,
)
from volcrypt.kms.register import Register
from volcrypt.kms.rewrap import HOME, rewrap_all
from volcrypt.kms.scope import Parts

_OPERATION_NAME: Final = re.compile(r"[A-Za-z]{1,64}")
_KEY_MEMBERS: Final = ("key_id", "destination_key_id")
_HOME_KEY_INFO: Final = b"volcrypt home key 1\0"


class KmsService(
    KeyOperations, AliasOperations, DataOperations, ImportOperations, KeyStoreOperations
):
    """The KMS of a home."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self.register = Register(parts.catalog)
        self.audit_log = parts.audit

    def derive_home_key(self, info: bytes) -> bytearray:
        """32 bytes for sealing what lies in the home: HMAC-SHA-256 in the HSM under a service-owned
        key. `info` names the purpose and the object; another one gives an unrelated key."""
        return self._keystore.derive(_HOME_KEY_INFO + info)

    def rewrap_all(self) -> None:
        """Make removals of key material final that are not yet (`rewrap`); nothing if all are.

        To be called after deletions and expiries, and now and then: what could not be reached, or
        was killed, goes on. Raises HsmUnavailableError, and what `perform` raises when nothing can
        be recorded.
        """
        rewrap_all(self._catalog, self._performer, self._token_of_mark)

    def audit_head(self) -> AuditHead:
        """The sealed end of the audit log."""
        with self._catalog.reading() as view:
            return view.audit_head

    def perform(self, caller: Caller, request: Request[A]) -> A:
        """Carry out a request. Raises KmsError, and when it cannot be recorded NoSpaceError,
        AuditChainError or TryAgainError; then nothing has happened."""
        operation = operation_of(type(request))
        decide: Callable[[Attempt, Request[A]], Effect[A]] = getattr(self, snake_case(operation))
        for member in _KEY_MEMBERS:
            self._ensure_default_key(caller, getattr(request, member, None))
        return self._performer.perform(
            caller, operation, request, lambda attempt: decide(attempt, request)
        )

    def call(
        self, caller: Caller, operation: str, request_json: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Carry out an operation by its AWS name; members as in JSON, in and out."""
        try:
            if operation not in OPERATIONS:
                raise UnsupportedOperationError(
                    f"the operation {_shown(operation)} is not supported"
                )
            request = decode_request(OPERATIONS[operation].request, request_json)
        except VolcryptError as error:
            return self._refuse(caller, operation, error)
        return encode_response(self.perform(caller, request))

    def _token_of_mark(self, token: str) -> MaterialStore | None:
        if token == HOME:
            return self._keystore
        with self._catalog.reading() as view:
            item = view.get(KEY_STORES, token)
        if item is None:
            return None
        store = decode_key_store(item)
        if store.connection_state is not ConnectionState.CONNECTED:
            raise InvalidStateError(f"custom key store {store.id} is not connected")
        return self._key_stores.material_store(store, self._keystore)

    def _refuse(self, caller: Caller, operation: str, error: VolcryptError) -> dict[str, Any]:
        """Record a request that could not even be read; raises `error`."""

        def decide(attempt: Attempt) -> Effect[dict[str, Any]]:
            raise error

        return self._performer.perform(caller, _shown(operation), None, decide)


def _shown(operation: str) -> str:
    """The name of an operation as it may stand in the log and in a message."""
    return operation if _OPERATION_NAME.fullmatch(operation) else "Unknown"
