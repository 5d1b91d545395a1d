"""Words in which tests write policies, and ask what they allow."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from volcrypt.kms.patterns import KnownFacts
from volcrypt.kms.policy import AccessRequest, Decision, decide_in_account, decide_on_key

HOME = "000000000000"
AWAY = "111111111111"
KEY = f"arn:aws:kms:us-east-1:{HOME}:key/1234abcd-12ab-34cd-56ef-1234567890ab"
OTHER_KEY = f"arn:aws:kms:us-east-1:{HOME}:key/ffffffff-12ab-34cd-56ef-1234567890ab"
ALIAS = f"arn:aws:kms:us-east-1:{HOME}:alias/finance"
ROOT = f"arn:aws:iam::{HOME}:root"
ALICE = f"arn:aws:iam::{HOME}:user/alice"
BOB = f"arn:aws:iam::{HOME}:user/bob"
AWAY_ROOT = f"arn:aws:iam::{AWAY}:root"
CAROL = f"arn:aws:iam::{AWAY}:user/carol"
"""Of another account."""

Statement = dict[str, Any]


def _statement(effect: str, members: Mapping[str, Any]) -> Statement:
    statement = {"Effect": effect, "Action": "kms:*", "Resource": "*"} | dict(members)
    return {name: value for name, value in statement.items() if value is not None}


def allow(to: object = None, **members: Any) -> Statement:
    """A statement of a key policy when it says `to` whom, else of an identity policy."""
    return _statement("Allow", members if to is None else {"Principal": _aws(to)} | members)


def deny(to: object = None, **members: Any) -> Statement:
    return _statement("Deny", members if to is None else {"Principal": _aws(to)} | members)


def allow_all_but(*principals: str, **members: Any) -> Statement:
    return _statement("Allow", {"NotPrincipal": {"AWS": list(principals)}} | members)


def deny_all_but(*principals: str, **members: Any) -> Statement:
    return _statement("Deny", {"NotPrincipal": {"AWS": list(principals)}} | members)


def when(operator: str, key: str, *values: object) -> dict[str, Any]:
    """A Condition."""
    return {operator: {key: list(values)}}


def document(statements: Sequence[Statement], version: str = "2012-10-17") -> str:
    return msgspec.json.encode({"Version": version, "Statement": statements}).decode()


def decide(
    who: str,
    action: str,
    *,
    key_policy: Sequence[Statement],
    identity: Sequence[Statement] = (),
    facts: Mapping[str, tuple[str, ...]] | None = None,
    resource: str = KEY,
    version: str = "2012-10-17",
) -> Decision:
    return decide_on_key(
        ask(who, action, facts, resource=resource),
        key_policy=document(key_policy, version),
        identity_policies=[document(identity, version)] if identity else [],
    )


def decide_without_key(
    who: str,
    action: str,
    *,
    identity: Sequence[Statement],
    resource: str = "*",
    facts: Mapping[str, tuple[str, ...]] | None = None,
) -> Decision:
    return decide_in_account(
        ask(who, action, facts, resource=resource),
        identity_policies=[document(identity)] if identity else [],
    )


def ask(
    who: str,
    action: str,
    facts: Mapping[str, tuple[str, ...]] | None = None,
    *,
    resource: str = KEY,
) -> AccessRequest:
    known = {key.lower(): values for key, values in (facts or {}).items()}
    return AccessRequest(
        principal=who,
        principal_account=who.split(":")[4],
        action=f"kms:{action}",
        resource=resource,
        resource_account=HOME,
        facts=KnownFacts(known),
    )


def _aws(to: object) -> object:
    return to if isinstance(to, dict) else {"AWS": to}
