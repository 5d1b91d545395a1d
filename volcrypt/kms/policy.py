"""Who may do what: the decision on a request by key policy, identity policies and grants. Pure.

In this order, the first that applies decides:

    1  a Deny that fits, in the key policy or in an identity policy       refused
    2  an Allow in the key policy that names the principal                allowed
    3  an Allow in the key policy that names the principal's account,
       and an Allow in one of the principal's identity policies           allowed
    4  a grant on the key to the principal                                allowed
    5  nothing of these                                                   refused

The owner of a key has no right to it but by this. Naming an account lets that account decide: its
root has what was given, its other principals need an identity policy that gives it to them too. For
a principal of another account than the key's, 2 needs the identity policy as well. A Deny that
names an account is for everybody in it. The root of an account has no identity policies; in its
own account it may do everything that is left to identity policies.

NotPrincipal names everybody else. Whatever could be meant either way is read against access: an
Allow for "not this account" is for nobody of the account, a Deny for "not this account" spares its
root alone.

A statement fits a request when its principals, actions, resources and every condition do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from volcrypt.kms.model import root_arn, volume_service
from volcrypt.kms.patterns import Facts
from volcrypt.kms.policy_document import (
    Effect,
    PolicyDocument,
    PolicyKind,
    Principals,
    Statement,
    parse_policy,
)

_KEY_POLICY: Final = "resource-based policy"
_IDENTITY_POLICY: Final = "identity-based policy"
_UNSEEN: Final = (
    "because the resource does not exist in this Region, no resource-based policies allow access, "
    "or a resource-based policy explicitly denies access"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRequest:
    """What is to be decided. `action` is like `kms:Decrypt`; `resource` an ARN, or `*` for an
    action on no resource; `resource_account` the account that the resource belongs to."""

    principal: str
    principal_account: str
    action: str
    resource: str
    resource_account: str
    facts: Facts

    @property
    def is_by_root(self) -> bool:
        return self.principal == root_arn(self.principal_account)

    @property
    def is_across_accounts(self) -> bool:
        return self.principal_account != self.resource_account


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """`reason` completes the sentence "User: X is not authorized to perform: Y on resource: Z ..."
    of a refusal. `is_final` says that no grant can change it, `is_left_to_identity` that an
    identity policy of the principal can."""

    allowed: bool
    reason: str = ""
    is_final: bool = True
    is_left_to_identity: bool = False


ALLOWED: Final = Decision(allowed=True)


def decide_on_key(
    request: AccessRequest, *, key_policy: str, identity_policies: Sequence[str]
) -> Decision:
    """Decide a request on a key, but for grants: those count where the decision is not final.

    Raises MalformedPolicyError.
    """
    document = parse_policy(key_policy, PolicyKind.KEY)
    identities = [parse_policy(text, PolicyKind.IDENTITY) for text in identity_policies]
    if _denies(document, request):
        return _unseen_across_accounts(request, _explicit_deny(_KEY_POLICY))
    if any(_denies(identity, request) for identity in identities):
        return _explicit_deny(_IDENTITY_POLICY)

    allows = [s for s in document.statements if s.effect is Effect.ALLOW and _fits(s, request)]
    names_principal = any(_names_principal(s, request) for s in allows)
    names_account = any(_names_account(s, request) for s in allows)
    is_left_to_identity = names_account or (names_principal and request.is_across_accounts)

    if names_principal and not request.is_across_accounts:
        return ALLOWED
    if is_left_to_identity and _identity_allows(identities, request):
        return ALLOWED
    if is_left_to_identity:
        return _no_allow(_IDENTITY_POLICY, request)
    return _unseen_across_accounts(request, _no_allow(_KEY_POLICY, request))


def decide_in_account(request: AccessRequest, *, identity_policies: Sequence[str]) -> Decision:
    """Decide a request that no key policy is asked for: CreateKey, ListKeys, one on an alias, ...

    Raises MalformedPolicyError.
    """
    identities = [parse_policy(text, PolicyKind.IDENTITY) for text in identity_policies]
    if any(_denies(identity, request) for identity in identities):
        return _explicit_deny(_IDENTITY_POLICY)
    if not request.is_across_accounts and _identity_allows(identities, request):
        return ALLOWED
    return _no_allow(_IDENTITY_POLICY, request)


def _denies(document: PolicyDocument, request: AccessRequest) -> bool:
    return any(
        statement.effect is Effect.DENY
        and _is_denied_by(statement, request)
        and _fits(statement, request)
        for statement in document.statements
    )


def _identity_allows(identities: Sequence[PolicyDocument], request: AccessRequest) -> bool:
    return request.is_by_root or any(
        statement.effect is Effect.ALLOW and _fits(statement, request)
        for identity in identities
        for statement in identity.statements
    )


def _fits(statement: Statement, request: AccessRequest) -> bool:
    """Whether actions, resources and conditions are those of the request."""
    facts = request.facts
    return (
        statement.actions is not None
        and statement.resources is not None
        and statement.actions.match(request.action, facts)
        and statement.resources.match(request.resource, facts)
        and all(
            condition.holds(facts, denies=statement.effect is Effect.DENY)
            for condition in statement.conditions
        )
    )


# ---------------------------------------------------------------- principals


def _lists(principals: Principals, request: AccessRequest) -> bool:
    """Whether the principal itself is in the list."""
    return (
        principals.anyone
        or request.principal in principals.arns
        or (request.is_by_root and request.principal_account in principals.accounts)
    )


def _lists_account(principals: Principals, request: AccessRequest) -> bool:
    return request.principal_account in principals.accounts


def _names_principal(allow: Statement, request: AccessRequest) -> bool:
    principals = allow.principals
    assert principals is not None, "internal error: a key policy without principals"
    if allow.excludes_principals:
        return not (_lists(principals, request) or _lists_account(principals, request))
    return _lists(principals, request)


def _names_account(allow: Statement, request: AccessRequest) -> bool:
    principals = allow.principals
    assert principals is not None, "internal error: a key policy without principals"
    return not allow.excludes_principals and _lists_account(principals, request)


def _is_denied_by(deny: Statement, request: AccessRequest) -> bool:
    """Whether a Deny is for this principal; that of an identity policy always is."""
    principals = deny.principals
    if principals is None:
        return True
    if deny.excludes_principals:
        return not _lists(principals, request)
    return _lists(principals, request) or _lists_account(principals, request)


# ---------------------------------------------------------------- reasons


def _explicit_deny(policy: str) -> Decision:
    article = "an" if policy is _IDENTITY_POLICY else "a"
    return Decision(allowed=False, reason=f"with an explicit deny in {article} {policy}")


def _no_allow(policy: str, request: AccessRequest) -> Decision:
    return Decision(
        allowed=False,
        reason=f"because no {policy} allows the {request.action} action",
        is_final=False,
        is_left_to_identity=policy is _IDENTITY_POLICY,
    )


def _unseen_across_accounts(request: AccessRequest, refusal: Decision) -> Decision:
    """Another account does not learn whether the key exists, nor what its policy says."""
    if not request.is_across_accounts:
        return refusal
    return Decision(allowed=False, reason=_UNSEEN, is_final=refusal.is_final)


def refuse_unseen() -> Decision:
    """The refusal to a principal of another account, whatever the reason."""
    return Decision(allowed=False, reason=_UNSEEN)


def refuse_unknown_principal(request: AccessRequest) -> Decision:
    """The refusal to a principal that does not exist."""
    return refuse_unseen() if request.is_across_accounts else _no_allow(_IDENTITY_POLICY, request)


# ---------------------------------------------------------------- the documents of volcrypt


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
