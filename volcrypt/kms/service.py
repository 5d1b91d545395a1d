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

from volcrypt.errors import VolcryptError
from volcrypt.formats.audit_record import AuditHead
from volcrypt.kms.alias_operations import AliasOperations
from volcrypt.kms.attempt import Attempt, Effect
from volcrypt.kms.data_operations import DataOperations
from volcrypt.kms.deletion_operations import DeletionOperations
from volcrypt.kms.key_operations import KeyOperations
from volcrypt.kms.messages.base import A, Request
from volcrypt.kms.model import Caller
from volcrypt.kms.protocol import (
    decode_request,
    encode_response,
    find_operation,
    operation_of,
    snake_case,
)
from volcrypt.kms.register import Register
from volcrypt.kms.rotation_operations import RotationOperations
from volcrypt.kms.scope import Parts
from volcrypt.kms.tag_operations import TagOperations

_OPERATION_NAME: Final = re.compile(r"[A-Za-z]{1,64}")
_KEY_MEMBERS: Final = ("key_id", "destination_key_id")
_HOME_KEY_INFO: Final = b"volcrypt home key 1\0"


class KmsService(
    KeyOperations,
    TagOperations,
    AliasOperations,
    DataOperations,
    RotationOperations,
    DeletionOperations,
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
            request = decode_request(find_operation(operation).request, request_json)
        except VolcryptError as error:
            return self._refuse(caller, operation, error)
        return encode_response(self.perform(caller, request))

    def _refuse(self, caller: Caller, operation: str, error: VolcryptError) -> dict[str, Any]:
        """Record a request that could not even be read; raises `error`."""

        def decide(attempt: Attempt) -> Effect[dict[str, Any]]:
            raise error

        return self._performer.perform(caller, _shown(operation), None, decide)


def _shown(operation: str) -> str:
    """The name of an operation as it may stand in the log and in a message."""
    return operation if _OPERATION_NAME.fullmatch(operation) else "Unknown"
