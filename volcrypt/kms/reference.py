"""How a request names a key: id, key ARN, alias name or alias ARN. Pure."""

import re
from dataclasses import dataclass
from typing import Final

from volcrypt.errors import InvalidArnError, KeyNotFoundError
from volcrypt.kms.model import DEFAULT_KEY_ALIAS, DEFAULT_KEY_SYNONYM

_KEY_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyReference:
    """Exactly one of `key_id` and `alias` is set; `account` is the one that the key belongs to."""

    account: str
    key_id: str | None = None
    alias: str | None = None


def is_key_id(text: str) -> bool:
    return _KEY_ID.fullmatch(text) is not None


def canonical_alias(name: str) -> str:
    """`alias/aws/ebs` is another name for volcrypt's default key."""
    return DEFAULT_KEY_ALIAS if name == DEFAULT_KEY_SYNONYM else name


def parse_key_reference(text: str, *, account: str, region: str) -> KeyReference:
    """What `text` names, for a caller of `account` in `region`.

    Raises InvalidArnError for an ARN that is none of a key or alias, KeyNotFoundError for one of
    another region and for an id that cannot be one; the texts are those of the AWS KMS.
    """
    name = text
    if text.startswith("arn:"):
        parts = text.split(":", 5)
        if len(parts) != 6 or parts[1] != "aws" or parts[2] != "kms" or not parts[4]:
            raise InvalidArnError(f"Invalid arn {text}")
        if parts[3] != region:
            raise KeyNotFoundError(f"Invalid arn {parts[3]}")
        account, name = parts[4], parts[5]
        if name.startswith("key/"):
            name = name.removeprefix("key/")
        elif not name.startswith("alias/"):
            raise InvalidArnError(f"Invalid arn {text}")
    if name.startswith("alias/"):
        return KeyReference(account=account, alias=canonical_alias(name))
    if not is_key_id(name):
        raise KeyNotFoundError(f"Invalid keyId '{name}'")
    return KeyReference(account=account, key_id=name)
