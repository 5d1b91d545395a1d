"""Key policies: the documents that volcrypt writes, and the decision they lead to. Pure.

A request on a key is decided by the key's policy document alone: an explicit Deny wins, then an
Allow that names the caller; nothing is allowed by default, not even to the owner. A statement for
the account principal gives its actions to the account root; other principals of the account would
need an identity policy, and have none. A request on no key (CreateKey, ListKeys, ...) is the
account root's.

The evaluator reads what the documents below use: Effect, Principal (`*` or `AWS`), Action with
`*` and `?`, Resource, and StringEquals over `kms:ViaService` and `kms:CallerAccount`. A statement
with anything else does not allow; if it denies, it denies. So no document means more here than
its author wrote.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from volcrypt.errors import MalformedPolicyError
from volcrypt.kms.model import root_arn, volume_service

_KNOWN_MEMBERS: Final = frozenset({"Sid", "Effect", "Principal", "Action", "Resource", "Condition"})


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRequest:
    """What is to be decided. `action` is like `kms:Decrypt`, `resource` the key's ARN.

    `via_service` is the name of the service that asks on the principal's behalf, or None.
    """

    principal: str
    principal_account: str
    action: str
    resource: str
    via_service: str | None
    encryption_context: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """`reason` completes the sentence "... because ..." when it is a refusal."""

    allowed: bool
    reason: str


def default_policy(account: str) -> str:
    """The policy that the AWS KMS gives to a key made without one."""
    return _document(
        "key-default-1",
        {
            "Sid": "Enable IAM User Permissions",
            "Effect": "Allow",
            "Principal": {"AWS": root_arn(account)},
            "Action": "kms:*",
            "Resource": "*",
        },
    )


def service_managed_policy(account: str, region: str) -> str:
    """The policy of the default key: to be used through the volume service only, by everybody in
    the account; to be looked at by the account. After the one of `alias/aws/ebs`."""
    return _document(
        "auto-ebs-2",
        {
            "Sid": "Allow access through EBS for all principals in the account that are "
            "authorized to use EBS",
            "Effect": "Allow",
            "Principal": {"AWS": "*"},
            "Action": [
                "kms:Encrypt",
                "kms:Decrypt",
                "kms:ReEncrypt*",
                "kms:GenerateDataKey*",
                "kms:CreateGrant",
                "kms:DescribeKey",
            ],
            "Resource": "*",
            "Condition": {
                "StringEquals": {
                    "kms:CallerAccount": account,
                    "kms:ViaService": volume_service(region),
                }
            },
        },
        {
            "Sid": "Allow direct access to key metadata to the account",
            "Effect": "Allow",
            "Principal": {"AWS": root_arn(account)},
            "Action": ["kms:Describe*", "kms:Get*", "kms:List*", "kms:RevokeGrant"],
            "Resource": "*",
        },
    )


def _document(policy_id: str, *statements: dict[str, Any]) -> str:
    document = {"Version": "2012-10-17", "Id": policy_id, "Statement": list(statements)}
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()


def evaluate(policy: str, request: AccessRequest) -> Decision:
    """Decide a request on a key with this policy document. Raises MalformedPolicyError."""
    matching = [s for s in _statements(policy) if _names(s, request)]
    if any(s.get("Effect") == "Deny" for s in matching if _holds(s, request, unknown=True)):
        return Decision(
            allowed=False, reason=f"the key policy denies the {request.action} action explicitly"
        )
    if any(s.get("Effect") == "Allow" for s in matching if _holds(s, request, unknown=False)):
        return Decision(allowed=True, reason="the key policy allows it")
    return Decision(
        allowed=False, reason=f"no resource-based policy allows the {request.action} action"
    )


def evaluate_account(request: AccessRequest, *, account: str) -> Decision:
    """Decide a request that is on no key of its own, in an account: CreateKey, ListKeys, ..."""
    if request.principal == root_arn(account):
        return Decision(allowed=True, reason="the account root may do everything in its account")
    return Decision(
        allowed=False, reason=f"no identity-based policy allows the {request.action} action"
    )


def _statements(policy: str) -> list[dict[str, Any]]:
    try:
        document = msgspec.json.decode(policy, type=dict[str, Any])
        statements = document.get("Statement", [])
        if isinstance(statements, dict):
            statements = [statements]
        return msgspec.convert(statements, list[dict[str, Any]])
    except (msgspec.DecodeError, RecursionError) as error:
        raise MalformedPolicyError("the key policy does not parse") from error


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _matches(pattern: object, text: str) -> bool:
    """`*` and `?` as in IAM; actions are compared without regard to case."""
    if not isinstance(pattern, str):
        return False
    expression = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(expression, text, re.IGNORECASE | re.DOTALL) is not None


def _names(statement: Mapping[str, Any], request: AccessRequest) -> bool:
    """Whether the statement is about this principal and action; the Resource of a key policy is
    `*` or the key itself."""
    principal = statement.get("Principal")
    if isinstance(principal, dict):
        principal = principal.get("AWS")
    account_of = {root_arn(request.principal_account), request.principal_account}
    named = any(
        entry in ("*", request.principal)
        or (entry in account_of and request.principal == root_arn(request.principal_account))
        for entry in _listed(principal)
    )
    return (
        named
        and any(_matches(entry, request.action) for entry in _listed(statement.get("Action")))
        and any(entry in ("*", request.resource) for entry in _listed(statement.get("Resource")))
    )


def _holds(statement: Mapping[str, Any], request: AccessRequest, *, unknown: bool) -> bool:
    """Whether the statement's conditions hold; `unknown` is the answer when they, or another
    member, are beyond this evaluator."""
    known = {
        "kms:ViaService": request.via_service,
        "kms:CallerAccount": request.principal_account,
    }
    condition = statement.get("Condition", {})
    if not (statement.keys() <= _KNOWN_MEMBERS and isinstance(condition, dict)):
        return unknown
    if not condition.keys() <= {"StringEquals"}:
        return unknown
    equals = condition.get("StringEquals", {})
    if not (isinstance(equals, dict) and equals.keys() <= known.keys()):
        return unknown
    return all(known[key] in _listed(value) for key, value in equals.items())
