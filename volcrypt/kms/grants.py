"""Grants: what they permit, how they are named, and their tokens. Pure.

A grant lets one principal do some operations with one key, nothing else; it only ever allows. Its
constraints bind the operations that have an encryption context:

    EncryptionContextEquals    the request's context has these pairs and no other
    EncryptionContextSubset    the request's context has these pairs, and may have more
    SourceArn                  the request is made on behalf of this resource

Pairs are compared exactly, keys and values. DescribeKey and RetireGrant have no context and are
not bound by one. CreateGrant is bound otherwise: what a grantee passes on may hold no operation
that its own grant lacks, and must be constrained at least as strictly.

Id: 64 hexadecimal digits. Those of a grant that was given a name begin with 32 that follow from its
parameters, so that the same request finds the grant that it made before.

Token, in base64: one byte 1, the key id (16 bytes), the first 8 bytes of SHA-256 of the grantee,
the grant id (32 bytes), 8 random bytes, and the first 8 bytes of SHA-256 of all that. A token only
points at a grant: it gives nothing to anybody but the grantee. All tokens of a grant are equal.
"""

import hashlib
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final
from uuid import UUID

import msgspec

from volcrypt.errors import InvalidGrantTokenError

CREATE_GRANT: Final = "CreateGrant"
RETIRE_GRANT: Final = "RetireGrant"
SYMMETRIC_OPERATIONS: Final = frozenset(
    {
        "Decrypt",
        "Encrypt",
        "GenerateDataKey",
        "GenerateDataKeyWithoutPlaintext",
        "GenerateDataKeyPair",
        "GenerateDataKeyPairWithoutPlaintext",
        "ReEncryptFrom",
        "ReEncryptTo",
        CREATE_GRANT,
        RETIRE_GRANT,
        "DescribeKey",
    }
)
"""What a grant on a symmetric key may permit."""
OTHER_OPERATIONS: Final = frozenset(
    {
        "Sign",
        "Verify",
        "GetPublicKey",
        "GenerateMac",
        "VerifyMac",
        "DeriveSharedSecret",
        "Encapsulate",
        "Decapsulate",
    }
)
"""What a grant may permit on keys of other kinds."""
ID_BYTES: Final = 32
NONCE_BYTES: Final = 8
_WITHOUT_CONTEXT: Final = frozenset({"DescribeKey", RETIRE_GRANT})
_TOKEN_VERSION: Final = b"\x01"
_DIGEST_BYTES: Final = 8
_TOKEN_BYTES: Final = 1 + 16 + _DIGEST_BYTES + ID_BYTES + NONCE_BYTES + _DIGEST_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraints:
    """A pair of the encryption context is bound by each that is given; empty is not given."""

    equals: dict[str, str] = field(default_factory=dict)
    subset: dict[str, str] = field(default_factory=dict)
    source_arn: str | None = None

    def hold(self, context: Mapping[str, str]) -> bool:
        return (not self.equals or self.equals == dict(context)) and (
            self.subset.items() <= context.items()
        )

    def are_as_strict_as(self, other: "Constraints") -> bool:
        """Whether every context that these let through, `other` lets through too."""
        if other.source_arn not in (None, self.source_arn):
            return False
        if other.equals and self.equals != other.equals:
            return False
        return other.subset.items() <= (self.equals | self.subset).items()


@dataclass(frozen=True, slots=True, kw_only=True)
class Permission:
    """What a grant says: who may do what with its key under which constraints, and who may end it.

    Grantee and retiring principal are ARNs, or names of services. `grantee_user_id` is that of the
    user at the time: a later user of the same name is another.
    """

    grantee: str
    operations: tuple[str, ...]
    constraints: Constraints = Constraints()
    retiring: str | None = None
    name: str = ""
    grantee_user_id: str | None = None

    def bound_to(self, user_id: str) -> "Permission":
        return replace(self, grantee_user_id=user_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A grant on a key. `issuing_account` is the account of who made it."""

    grant_id: str
    key_arn: str
    permission: Permission
    issuing_account: str
    created_at: float

    @property
    def key_id(self) -> str:
        return self.key_arn.rpartition("/")[2]

    def permits(
        self,
        operation: str,
        *,
        context: Mapping[str, str],
        source_arn: str | None = None,
        passed_on: Permission | None = None,
    ) -> bool:
        """Whether it lets its grantee do `operation`; `passed_on` is what a CreateGrant makes."""
        own = self.permission
        if operation not in own.operations:
            return False
        if own.constraints.source_arn not in (None, source_arn) and operation != RETIRE_GRANT:
            return False
        if operation == CREATE_GRANT:
            return passed_on is not None and _is_within(passed_on, own)
        return operation in _WITHOUT_CONTEXT or own.constraints.hold(context)


def _is_within(new: Permission, own: Permission) -> bool:
    return frozenset(new.operations) <= frozenset(
        own.operations
    ) and new.constraints.are_as_strict_as(own.constraints)


def parameters_digest(permission: Permission) -> str:
    """The first half of the id of a grant that has a name: 32 hexadecimal digits."""
    ordered = replace(permission, operations=tuple(sorted(permission.operations)))
    text = msgspec.json.encode(ordered, order="deterministic")
    return hashlib.sha256(text).hexdigest()[:ID_BYTES]


def grantee_digest(grantee: str) -> str:
    return hashlib.sha256(grantee.encode()).hexdigest()[: 2 * _DIGEST_BYTES]


@dataclass(frozen=True, slots=True)
class GrantPointer:
    """What a token says: which grant, and where it is found."""

    key_id: str
    grantee_digest: str
    grant_id: str


def encode_token(grant: Grant, nonce: bytes) -> str:
    """A token of the grant; another for every `nonce` of 8 bytes."""
    assert len(nonce) == NONCE_BYTES, "internal error: wrong amount of randomness"
    body = b"".join(
        (
            _TOKEN_VERSION,
            UUID(grant.key_id).bytes,
            bytes.fromhex(grantee_digest(grant.permission.grantee)),
            bytes.fromhex(grant.grant_id),
            nonce,
        )
    )
    return b64encode(body + _checksum(body)).decode()


def decode_token(token: str) -> GrantPointer:
    """Raises InvalidGrantTokenError for what is no token."""
    try:
        data = b64decode(token, validate=True)
    except ValueError:
        data = b""
    body, checksum = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    if len(data) != _TOKEN_BYTES or body[:1] != _TOKEN_VERSION or checksum != _checksum(body):
        raise InvalidGrantTokenError("the grant token is not one that the KMS gave")
    return GrantPointer(
        key_id=str(UUID(bytes=body[1:17])),
        grantee_digest=body[17:25].hex(),
        grant_id=body[25 : 25 + ID_BYTES].hex(),
    )


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()[:_DIGEST_BYTES]
