"""Limits on the members of requests, those of the AWS KMS, and the texts that refuse. Pure.

A text names every limit that a request breaks, in the order of the request's members:

    2 validation errors detected: Value '' at 'keyId' failed to satisfy constraint: Member must have
    length greater than or equal to 1; Value null at 'plaintext' failed to satisfy constraint: ...

Binary and sensitive values stand in no text. A limit belongs to a member's name, wherever it
occurs; a request or structure whose member is another in the AWS KMS says so in its `LIMITS`.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, Final, Protocol

from volcrypt.errors import KmsValidationError
from volcrypt.kms.context import check_context
from volcrypt.kms.messages.choices import (
    DATA_KEY_SPECS,
    ENCRYPTION_ALGORITHMS,
    KEY_SPECS,
    KEY_SPECS_LISTED,
    KEY_USAGES,
    KEY_USAGES_LISTED,
    MASTER_KEY_SPECS,
    ORIGINS,
)

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
MAX_SHOWN: Final = 2048
"""Characters of a value that a text shows; so long no text of the AWS KMS is that we know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of a member: of its length, or of its value if it is a number.

    `choices` are what is accepted; `listed` how the text of the AWS KMS lists them, where that is
    another order or an older list. `each` bounds the elements of a list.
    """

    minimum: int | None = None
    maximum: int | None = None
    pattern: str | None = None
    choices: tuple[str, ...] | None = None
    listed: tuple[str, ...] | None = None
    each: "Limits | None" = None


class Members(Protocol):
    """A request or a structure in one, all of it there or not."""

    def own_limits(self) -> Mapping[str, Limits]:
        """Where a member's limits are others than those of its name elsewhere."""
        ...

    def members(self) -> Mapping[str, Any]:
        """By their names in Python, in order; None for those that are absent."""
        ...

    def missing_members(self) -> frozenset[str]:
        """Which of them are required and absent."""
        ...


_KEY_ID: Final = Limits(minimum=1, maximum=2048)
_ALGORITHM: Final = Limits(choices=ENCRYPTION_ALGORITHMS)
MATERIAL_ID: Final = Limits(minimum=64, maximum=64, pattern="^[a-f0-9]+$")
PRINCIPAL: Final = Limits(minimum=1, maximum=256, pattern=r"^[\w+=,.@:/-]+$")
MEMBER_LIMITS: Final = MappingProxyType(
    {
        "alias_name": Limits(minimum=1, maximum=256, pattern="^[a-zA-Z0-9:/_-]+$"),
        "ciphertext_blob": Limits(minimum=1, maximum=6144),
        "custom_key_store_id": Limits(minimum=1, maximum=64),
        "customer_master_key_spec": Limits(choices=MASTER_KEY_SPECS, listed=KEY_SPECS_LISTED),
        "description": Limits(minimum=0, maximum=8192),
        "destination_encryption_algorithm": _ALGORITHM,
        "destination_key_id": _KEY_ID,
        "encryption_algorithm": _ALGORITHM,
        "grant_tokens": Limits(minimum=0, maximum=10, each=Limits(minimum=1, maximum=8192)),
        "key_id": _KEY_ID,
        "key_material_id": MATERIAL_ID,
        "key_spec": Limits(choices=DATA_KEY_SPECS),
        "key_usage": Limits(choices=KEY_USAGES, listed=KEY_USAGES_LISTED),
        "limit": Limits(minimum=1, maximum=1000),
        "marker": Limits(minimum=1, maximum=1024, pattern=r"[\u0020-\u00FF]*"),
        "number_of_bytes": Limits(minimum=1, maximum=1024),
        "origin": Limits(choices=ORIGINS),
        "plaintext": Limits(minimum=1, maximum=4096),
        "policy": Limits(minimum=1, maximum=131072, pattern=r"[\u0009\u000A\u000D\u0020-\u00FF]+"),
        "policy_name": Limits(minimum=1, maximum=128, pattern=r"[\w]+"),
        "source_encryption_algorithm": _ALGORITHM,
        "source_key_id": _KEY_ID,
        "target_key_id": _KEY_ID,
    }
)
CREATE_KEY_SPEC: Final = Limits(choices=KEY_SPECS, listed=KEY_SPECS_LISTED)


def check_members(request: Members) -> None:
    """Raises KmsValidationError with the text of the AWS KMS."""
    found = list(_violations(request, ""))
    if found:
        noun = "error" if len(found) == 1 else "errors"
        raise KmsValidationError(f"{len(found)} validation {noun} detected: {'; '.join(found)}")


def _violations(message: Members, path: str) -> Iterator[str]:
    own, missing = message.own_limits(), message.missing_members()
    for name, value in message.members().items():
        where = f"{path}{camel_case(name)}"
        if name in missing:
            yield f"Value null at '{where}' failed to satisfy constraint: Member must not be null"
        if value is None:
            continue
        _check_text(name, value)
        for problem in _problems(value, own.get(name, MEMBER_LIMITS.get(name))):
            yield (
                f"Value{_shown(name, value)} at '{where}' failed to satisfy constraint: "
                f"Member must {problem}"
            )
        for place, structure in _structures(value):
            yield from _violations(structure, f"{where}{place}.")


def _structures(value: Any) -> Iterator[tuple[str, Members]]:
    """The structures in the value of a member, and how the AWS KMS names their places."""
    if hasattr(value, "missing_members"):
        yield "", value
    elif isinstance(value, list):
        for number, element in enumerate(value, start=1):
            if hasattr(element, "missing_members"):
                yield f".{number}.member", element


def _check_text(name: str, value: Any) -> None:
    """Raises KmsValidationError for text without a form in UTF-8: a lone surrogate."""
    if isinstance(value, dict):
        check_context(value)
        return
    texts = value if isinstance(value, list) else [value]
    for text in texts:
        try:
            if isinstance(text, str):
                text.encode()
        except UnicodeEncodeError:
            raise KmsValidationError(
                f"the value of '{camel_case(name)}' is not valid Unicode"
            ) from None


def _problems(value: Any, limits: Limits | None) -> Iterator[str]:
    """What `value` breaks, each as the end of the sentence "Member must ..."."""
    if limits is None:
        return
    if limits.choices is not None:
        if value not in limits.choices:
            yield f"satisfy enum value set: [{', '.join(limits.listed or limits.choices)}]"
        return
    is_number = isinstance(value, int | float)
    size = value if is_number else len(value)
    what = "value" if is_number else "length"
    if limits.maximum is not None and size > limits.maximum:
        yield f"have {what} less than or equal to {limits.maximum}"
    if limits.minimum is not None and size < limits.minimum:
        yield f"have {what} greater than or equal to {limits.minimum}"
    if limits.pattern is not None and re.fullmatch(limits.pattern, value, re.ASCII) is None:
        yield f"satisfy regular expression pattern: {limits.pattern}"
    if limits.each is not None and any(any(_problems(each, limits.each)) for each in value):
        yield f"satisfy constraint: [{', '.join(_constraints(limits.each))}]"


def _constraints(limits: Limits) -> Iterator[str]:
    """What the text for a list says that its elements must be."""
    if limits.choices is not None:
        listed = ", ".join(limits.listed or limits.choices)
        yield f"Member must satisfy enum value set: [{listed}]"
    if limits.maximum is not None:
        yield f"Member must have length less than or equal to {limits.maximum}"
    if limits.minimum is not None:
        yield f"Member must have length greater than or equal to {limits.minimum}"
    if limits.pattern is not None:
        yield f"Member must satisfy regular expression pattern: {limits.pattern}"


def _shown(name: str, value: Any) -> str:
    if name in UNSHOWN_MEMBERS or isinstance(value, bytes | bytearray):
        return ""
    text = f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value)
    return f" '{text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + '...'}'"


@cache
def camel_case(name: str) -> str:
    """How texts and audit records name a member: `key_id` is keyId."""
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others)
