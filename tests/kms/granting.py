"""Grants for tests: made, listed, and tried."""

from typing import Any

from tests.fakes.kms import ROOT, MemoryKms
from tests.kms.policies import Statement, allow, document
from volcrypt.errors import (
    AccessDeniedError,
)
from volcrypt.kms.messages.data import (
    EncryptRequest,
)
from volcrypt.kms.messages.grants import (
    CreateGrantRequest,
    CreateGrantResponse,
    GrantConstraints,
    GrantListEntry,
    ListGrantsRequest,
)
from volcrypt.kms.messages.policies import PutKeyPolicyRequest
from volcrypt.kms.model import Caller

CONTEXT = {"volcrypt:volume-id": "vol-1"}
EQUALS = GrantConstraints(encryption_context_equals=CONTEXT)
SUBSET = GrantConstraints(encryption_context_subset=CONTEXT)


def grant(
    kms: MemoryKms,
    key_id: str,
    to: Caller | str,
    *operations: str,
    by: Caller = ROOT,
    **members: Any,
) -> CreateGrantResponse:
    request = CreateGrantRequest(
        key_id=key_id,
        grantee_principal=to if isinstance(to, str) else to.arn,
        operations=list(operations or ("Encrypt", "Decrypt")),
        **members,
    )
    return kms.service.perform(by, request)


def grants(kms: MemoryKms, key_id: str, **members: Any) -> list[GrantListEntry]:
    return kms.service.perform(ROOT, ListGrantsRequest(key_id=key_id, **members)).grants


def may(kms: MemoryKms, caller: Caller, request: Any) -> bool:
    try:
        kms.service.perform(caller, request)
    except AccessDeniedError:
        return False
    return True


def encrypt(key_id: str, context: dict[str, str] = CONTEXT, **members: Any) -> EncryptRequest:
    return EncryptRequest(
        key_id=key_id, plaintext=bytearray(1), encryption_context=context, **members
    )


def put_policy(kms: MemoryKms, key_id: str, *statements: Statement) -> None:
    text = document([allow(ROOT.arn), *statements])
    kms.service.perform(ROOT, PutKeyPolicyRequest(key_id=key_id, policy=text))
