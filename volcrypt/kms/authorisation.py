"""Authorisation: joins what decides about a request: policies, principals, grants, facts.

The pure rules are in `policy` and `grants`; here they get what the catalogue knows. A caller who
is nobody's root, no host of the home and no user of the catalogue (any more) is refused, whatever a
policy says.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from volcrypt.kms.facts import (
    NOTHING_GIVEN,
    Given,
    RequestFacts,
    caller_facts,
    context_facts,
    key_facts,
    request_facts,
    tag_facts,
)
from volcrypt.kms.grant_items import follow_token, grants_to
from volcrypt.kms.grants import RETIRE_GRANT, Grant, Permission, decode_token
from volcrypt.kms.keyring import alias_names, get_alias
from volcrypt.kms.messages.base import NO_CONTEXT
from volcrypt.kms.model import Caller, KmsKey, root_arn
from volcrypt.kms.patterns import Values
from volcrypt.kms.policy import (
    ALLOWED,
    AccessRequest,
    Decision,
    decide_in_account,
    decide_on_key,
    refuse_unknown_principal,
    refuse_unseen,
)
from volcrypt.kms.principals import Principal, find
from volcrypt.kms.reference import parse_key_reference
from volcrypt.kms.view import View

_ACROSS_ACCOUNTS: Final = frozenset(
    {
        *("Encrypt", "Decrypt", "ReEncryptFrom", "ReEncryptTo", "DescribeKey"),
        *("GenerateDataKey", "GenerateDataKeyWithoutPlaintext", "GetKeyRotationStatus"),
        *("CreateGrant", "ListGrants", "RevokeGrant"),
    }
)
"""What can be done with a key of another account at all."""
_KEY_MEMBERS: Final = ("key_id", "source_key_id", "destination_key_id", "target_key_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A request to be decided upon: who asks, for which operation, and when."""

    view: View
    caller: Caller
    region: str
    operation: str
    request: object
    now: float

    def on_key(
        self,
        key: KmsKey,
        action: str,
        *,
        context: Mapping[str, str] = NO_CONTEXT,
        grant_tokens: Sequence[str] = (),
        given: Given = NOTHING_GIVEN,
        passed_on: Permission | None = None,
    ) -> Decision:
        """Decide an action on a key; `passed_on` is what a CreateGrant gives.

        Raises InvalidGrantTokenError, also where no grant is needed.
        """
        pointers = [decode_token(token) for token in grant_tokens]
        principal = self._principal()
        facts = self._facts(principal, given)
        self._add_key_facts(facts, key)
        facts.add(context_facts(context))
        access = self._access(f"kms:{action}", key.arn, key.account, facts)
        if access.is_across_accounts and action not in _ACROSS_ACCOUNTS:
            return refuse_unseen()
        if not self._exists(principal):
            return refuse_unknown_principal(access)
        policies = _policies(principal)
        decision = decide_on_key(
            _as_named(access, key, principal), key_policy=key.policy, identity_policies=policies
        )
        if decision.allowed or decision.is_final:
            return decision
        pointed_at = [g for p in pointers if (g := follow_token(self.view, p)) is not None]
        for grant in (*pointed_at, *self._grants_on(key)):
            if (
                grant.key_arn == key.arn
                and self._is_to_me(grant, f"kms:{action}", principal, facts)
                and grant.permits(action, context=context, passed_on=passed_on)
            ):
                return ALLOWED
        return decision

    def in_account(
        self, action: str, *, account: str, resource: str, given: Given = NOTHING_GIVEN
    ) -> Decision:
        """Decide an action that no key policy is asked for; `action` with its service."""
        principal = self._principal()
        facts = self._facts(principal, given)
        access = self._access(action, resource, account, facts)
        if not self._exists(principal):
            return refuse_unknown_principal(access)
        return decide_in_account(access, identity_policies=_policies(principal))

    def on_retiring(self, grant: Grant, key: KmsKey) -> Decision:
        """Decide a RetireGrant. That is up to the grant: its retiring principal may, its grantee
        if it includes RetireGrant, and the accounts of the key and of who made it: their roots,
        and whom these let by identity policy. A key policy can only deny it."""
        action = f"kms:{RETIRE_GRANT}"
        principal = self._principal()
        facts = self._facts(principal, NOTHING_GIVEN)
        self._add_key_facts(facts, key)
        access = self._access(action, key.arn, key.account, facts)
        if not self._exists(principal):
            return refuse_unknown_principal(access)
        policies = _policies(principal)
        by_policy = decide_on_key(
            _as_named(access, key, principal), key_policy=key.policy, identity_policies=policies
        )
        if by_policy.is_final and not by_policy.allowed:
            return by_policy
        mine = self._access(action, key.arn, self.caller.account, facts)
        by_identity = decide_in_account(mine, identity_policies=policies)
        permission = grant.permission
        root = root_arn(self.caller.account)
        is_by_account = (
            permission.retiring == root
            or self.caller.account in (key.account, grant.issuing_account)
        ) and by_identity.allowed
        is_by_grantee = self._is_to_me(grant, action, principal, facts) and grant.permits(
            RETIRE_GRANT, context=NO_CONTEXT
        )
        is_by_retiring = permission.retiring == self.caller.arn and (
            principal is None or permission.retiring_user_id in (None, principal.user_id)
        )
        if is_by_retiring or is_by_account or is_by_grantee:
            return ALLOWED
        return refuse_unseen() if access.is_across_accounts else by_identity

    def may_change_policy(
        self, policy: str, *, arn: str, account: str, tags: Mapping[str, str]
    ) -> bool:
        """Whether the caller could put another policy in the place of this one, which is not in
        force yet; grants do not count."""
        principal = self._principal()
        facts = self._facts(principal, {"kms:BypassPolicyLockoutSafetyCheck": ("false",)})
        facts.add({"kms:PolicyName": ("default",), "aws:ResourceAccount": (account,)})
        facts.add(tag_facts("aws:ResourceTag", tags))
        access = self._access("kms:PutKeyPolicy", arn, account, facts)
        decision = decide_on_key(access, key_policy=policy, identity_policies=_policies(principal))
        return self._exists(principal) and decision.allowed

    # ---------------------------------------------------------------- who asks

    def _principal(self) -> Principal | None:
        return None if self.caller.is_root else find(self.view, self.caller.arn)

    def _exists(self, principal: Principal | None) -> bool:
        if self.caller.is_root or self.caller.is_host:
            return True
        return principal is not None and principal.account == self.caller.account

    def _is_to_me(
        self, grant: Grant, action: str, principal: Principal | None, facts: RequestFacts
    ) -> bool:
        """Whether the caller is the grantee. A grant to an account is its root's, and of those
        whom the account lets use it by identity policy."""
        permission = grant.permission
        if permission.grantee == self.caller.arn:
            return principal is None or permission.grantee_user_id in (None, principal.user_id)
        if permission.grantee != root_arn(self.caller.account):
            return False
        mine = self._access(action, grant.key_arn, self.caller.account, facts)
        return decide_in_account(mine, identity_policies=_policies(principal)).allowed

    def _grants_on(self, key: KmsKey) -> list[Grant]:
        """The grants to the caller or the caller's account; no other is looked at."""
        grants = grants_to(self.view, key, self.caller.arn)
        if not self.caller.is_root:
            grants += grants_to(self.view, key, root_arn(self.caller.account))
        return grants

    # ---------------------------------------------------------------- what is asked

    def _access(
        self, action: str, resource: str, account: str, facts: RequestFacts
    ) -> AccessRequest:
        return AccessRequest(
            principal=self.caller.arn,
            principal_account=self.caller.account,
            action=action,
            resource=resource,
            resource_account=account,
            facts=facts,
        )

    def _facts(self, principal: Principal | None, given: Given) -> RequestFacts:
        facts = RequestFacts()
        facts.add_when_asked(
            lambda: caller_facts(self.caller, principal, region=self.region, now=self.now)
        )
        facts.add_when_asked(lambda: request_facts(self.operation, self.request))
        facts.add(given)
        return facts

    def _add_key_facts(self, facts: RequestFacts, key: KmsKey) -> None:
        facts.add_when_asked(lambda: key_facts(key))
        facts.add_source("kms:ResourceAliases", lambda: alias_names(self.view, key))
        facts.add_source("kms:RequestAlias", lambda: self._request_alias(key))

    def _request_alias(self, key: KmsKey) -> Values:
        """The alias by which the request names the key."""
        for member in _KEY_MEMBERS:
            text = getattr(self.request, member, None)
            if text is None or "alias/" not in text:
                continue
            reference = parse_key_reference(text, account=self.caller.account, region=self.region)
            if reference.alias is not None:
                alias = get_alias(
                    self.view, reference.alias, account=reference.account, region=self.region
                )
                if alias is not None and alias.key_id == key.key_id:
                    return ("alias/" + text.partition("alias/")[2],)
        return ()


def _as_named(access: AccessRequest, key: KmsKey, principal: Principal | None) -> AccessRequest:
    """The request as the key's policy knows its principal: by the ARN, or by the user id where the
    policy means an earlier user of that ARN."""
    if principal is None:
        return access
    if key.policy_users.get(principal.arn, principal.user_id) == principal.user_id:
        return access
    return replace(access, principal=principal.user_id)


def _policies(principal: Principal | None) -> tuple[str, ...]:
    return () if principal is None else tuple(principal.policies.values())
