"""How a request names a key: id, key ARN, alias name or alias ARN. Pure.

Operations that use or describe a key take all four. Those that change a key, or what belongs to
it, take id and ARN only, as in the AWS KMS: an alias may name another key by the time.
"""

import re
from dataclasses import dataclass
from typing import Final

from volcrypt.errors import InvalidArnError, KeyNotFoundError

_KEY_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_MULTI_REGION_KEY_ID: Final = re.compile(r"mrk-[0-9a-f]{32}")
"""There are no such keys here; but as in the AWS KMS, one of them is not found, not misspelt."""
_NO_ALIAS: Final = "Key Aliases are not supported for this operation."
TAKE_ALIAS: Final = frozenset(
    {
        "Decrypt",
        "DescribeKey",
        "Encrypt",
        "GenerateDataKey",
        "GenerateDataKeyWithoutPlaintext",
        "ReEncrypt",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyReference:
    """Exactly one of `key_id` and `alias` is set; `account` is the one that the key belongs to."""

    account: str
    key_id: str | None = None
    alias: str | None = None


def is_key_id(text: str) -> bool:
    return _KEY_ID.fullmatch(text) is not None


def parse_key_reference(
    text: str, *, account: str, region: str, takes_alias: bool = True
) -> KeyReference:
    """What `text` names, for a caller of `account` in `region`.

    Raises InvalidArnError for an ARN that is none of a key or alias, and for an alias where none is
    taken; KeyNotFoundError for an ARN of another region and for an id that cannot be one. The texts
    are those of the AWS KMS.
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
            return _key(name.removeprefix("key/"), account)
        if not name.startswith("alias/"):
            raise InvalidArnError(f"Invalid arn {text}")
    if name.startswith("alias/"):
        if not takes_alias:
            raise InvalidArnError(_NO_ALIAS)
        return KeyReference(account=account, alias=name)
    return _key(name, account)


def _key(key_id: str, account: str) -> KeyReference:
    if not is_key_id(key_id) and _MULTI_REGION_KEY_ID.fullmatch(key_id) is None:
        raise KeyNotFoundError(
            f"Invalid keyId '{key_id}'",
            hint="a key is named by its id or ARN, or by an alias as alias/NAME",
        )
    return KeyReference(account=account, key_id=key_id)
