"""Principals and access keys as items of the catalogue: who the users of the accounts are.

    principal     id = ARN, name = ACCOUNT:NAME in lower case, owner = account, body = Principal
    access-key    id = access key id, owner = ARN of the principal,             body = AccessKey

The root of an account is no item: it exists, has no policies, and comes in through the home alone.

Knows nothing of callers and permissions.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

import msgspec

from volcrypt.kms.sealing import Item
from volcrypt.kms.view import Change, View

PRINCIPALS: Final = "principal"
ACCESS_KEYS: Final = "access-key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """A user. `policies` are the texts of its identity policies by their names. `user_id` is never
    given again, also not to another user of the same name."""

    arn: str
    account: str
    name: str
    user_id: str
    created_at: float
    policies: dict[str, str] = field(default_factory=dict)


class AccessKeyStatus(Enum):
    ACTIVE = "Active"
    INACTIVE = "Inactive"


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessKey:
    """A key pair to sign requests with. `is_for_volumes` is the class of volcrypt's own volume
    service: its requests are made on the principal's behalf (`kms:ViaService`). `sealed` is the
    secret, encrypted in the HSM."""

    id: str
    principal: str
    account: str
    status: AccessKeyStatus
    created_at: float
    is_for_volumes: bool
    sealed: bytes = field(repr=False)

    @property
    def is_active(self) -> bool:
        return self.status is AccessKeyStatus.ACTIVE


def user_arn(account: str, name: str) -> str:
    return f"arn:aws:iam::{account}:user/{name}"


def find(view: View, arn: str) -> Principal | None:
    item = view.get(PRINCIPALS, arn)
    return None if item is None else decode_principal(item)


def find_by_name(view: View, account: str, name: str) -> Principal | None:
    """Names differ in more than case."""
    item = view.find(PRINCIPALS, _name(account, name))
    return None if item is None else decode_principal(item)


def user_ids(view: View, arns: Iterable[str]) -> dict[str, str]:
    """Those of the ARNs that are of users, with the ids of these: a later user of the same name has
    another."""
    found = {arn: find(view, arn) for arn in arns}
    return {arn: user.user_id for arn, user in found.items() if user is not None}


def exists(view: View, arn: str) -> bool:
    """Whether somebody can ask for something under this ARN: the roots, and users known here."""
    return arn.endswith(":root") or view.get(PRINCIPALS, arn) is not None


def is_served(view: View, account: str) -> bool:
    """Whether users of the account are known here."""
    return view.count(PRINCIPALS, prefix=in_account(account)) > 0


def in_account(account: str) -> str:
    """What the ids of all principals of an account begin with."""
    return f"arn:aws:iam::{account}:"


def decode_principal(item: Item) -> Principal:
    return item.decoded(Principal)


def put_principal(change: Change, principal: Principal) -> None:
    change.put(
        Item(
            kind=PRINCIPALS,
            id=principal.arn,
            name=_name(principal.account, principal.name),
            owner=principal.account,
            body=msgspec.json.encode(principal),
        )
    )


def find_access_key(view: View, id_: str) -> AccessKey | None:
    item = view.get(ACCESS_KEYS, id_)
    return None if item is None else decode_access_key(item)


def decode_access_key(item: Item) -> AccessKey:
    return item.decoded(AccessKey)


def put_access_key(change: Change, key: AccessKey) -> None:
    body = msgspec.json.encode(key)
    change.put(Item(kind=ACCESS_KEYS, id=key.id, owner=key.principal, body=body))


def access_keys_of(view: View, principal: Principal) -> list[AccessKey]:
    return [decode_access_key(item) for item in view.items(ACCESS_KEYS, owner=principal.arn)]


def has_access_keys(view: View, principal: Principal) -> bool:
    return view.count(ACCESS_KEYS, owner=principal.arn) > 0


def _name(account: str, name: str) -> str:
    return f"{account}:{name.lower()}"
