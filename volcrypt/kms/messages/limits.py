"""Limits on the members of requests, those of the AWS KMS, and the texts that refuse. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import msgspec

from volcrypt.errors import KmsValidationError
from volcrypt.kms.context import check_context

SYMMETRIC_DEFAULT: Final = "SYMMETRIC_DEFAULT"
UNSHOWN_MEMBERS: Final = frozenset(
    {
        "plaintext",
        "ciphertext_blob",
        "encrypted_key_material",
        "import_token",
        "key_store_password",
        "secret_access_key",
    }
)
"""Never in a text or in the audit log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of a member: of its length, or of its value if it is a number."""

    minimum: int
    maximum: int
    pattern: str | None = None
    choices: tuple[str, ...] | None = None


_KEY_ID: Final = Limits(minimum=1, maximum=2048)
_ALIAS: Final = Limits(minimum=1, maximum=256, pattern="^[a-zA-Z0-9:/_-]+$")
_ALGORITHM: Final = Limits(minimum=0, maximum=64, choices=(SYMMETRIC_DEFAULT,))
MEMBER_LIMITS: Final = MappingProxyType(
    {
        "key_id": _KEY_ID,
        "source_key_id": _KEY_ID,
        "destination_key_id": _KEY_ID,
        "target_key_id": _KEY_ID,
        "alias_name": _ALIAS,
        "plaintext": Limits(minimum=1, maximum=4096),
        "ciphertext_blob": Limits(minimum=1, maximum=6144),
        "number_of_bytes": Limits(minimum=1, maximum=1024),
        "key_spec": Limits(minimum=0, maximum=64, choices=("AES_256", "AES_128")),
        "encryption_algorithm": _ALGORITHM,
        "source_encryption_algorithm": _ALGORITHM,
        "destination_encryption_algorithm": _ALGORITHM,
        "description": Limits(minimum=0, maximum=8192),
        "limit": Limits(minimum=1, maximum=1000),
        "grant_tokens": Limits(minimum=0, maximum=10),
        "marker": Limits(minimum=1, maximum=1024),
        "policy_name": Limits(minimum=1, maximum=128, pattern=r"^[\w]+$"),
    }
)


def check_members(request: msgspec.Struct, own: Mapping[str, Limits]) -> None:
    """Raises KmsValidationError with the text of the AWS KMS; `own` are limits of this request's
    operation that go before the general ones."""
    for name in request.__struct_fields__:
        value = getattr(request, name)
        if isinstance(value, dict):
            check_context(value)
        if isinstance(value, str) and not _is_text(value):
            raise KmsValidationError(f"the value of '{camel_case(name)}' is not valid Unicode")
        limits = own.get(name, MEMBER_LIMITS.get(name))
        if limits is None or value is None:
            continue
        problem = _problem(value, limits)
        if problem is not None:
            shown = "" if name in UNSHOWN_MEMBERS else f" '{value}'"
            raise KmsValidationError(
                f"1 validation error detected: Value{shown} at '{camel_case(name)}' "
                f"failed to satisfy constraint: Member must {problem}"
            )


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _problem(value: Any, limits: Limits) -> str | None:
    if limits.choices is not None:
        if value in limits.choices:
            return None
        return f"satisfy enum value set: [{', '.join(limits.choices)}]"
    is_number = isinstance(value, int)
    size = value if is_number else len(value)
    what = "value" if is_number else "length"
    if size > limits.maximum:
        return f"have {what} less than or equal to {limits.maximum}"
    if size < limits.minimum:
        return f"have {what} greater than or equal to {limits.minimum}"
    if limits.pattern is not None and re.fullmatch(limits.pattern, value, re.ASCII) is None:
        return f"satisfy regular expression pattern: {limits.pattern}"
    return None


def camel_case(name: str) -> str:
    """How texts and audit records name a member: `key_id` is keyId."""
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others)
