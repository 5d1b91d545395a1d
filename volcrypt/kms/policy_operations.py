"""Operations on key policies, and what a new policy must be like."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from volcrypt.errors import (
    KeyNotFoundError,
    KmsValidationError,
    LimitExceededError,
    MalformedPolicyError,
)
from volcrypt.kms.attempt import Attempt, Effect
from volcrypt.kms.keyring import put_key
from volcrypt.kms.messages.base import EmptyResponse
from volcrypt.kms.messages.policies import (
    ListKeyPoliciesRequest,
    ListKeyPoliciesResponse,
    PutKeyPolicyRequest,
)
from volcrypt.kms.policy_document import PolicyKind, parse_policy, principal_account
from volcrypt.kms.principals import exists, is_served
from volcrypt.kms.scope import Scope
from volcrypt.kms.view import View

MAX_POLICY_BYTES: Final = 32_768
DEFAULT_POLICY_NAME: Final = "default"
_SHARING_POLICY_NAME: Final = "AWS_RAM"
_NO_TAGS: Final[Mapping[str, str]] = {}


class PolicyOperations(Scope):
    """Requests raise the errors of the AWS KMS; see the module `service`."""

    def put_key_policy(
        self, attempt: Attempt, request: PutKeyPolicyRequest
    ) -> Effect[EmptyResponse]:
        key = self._find_key(attempt, request.key_id)
        attempt.authorise(key, "PutKeyPolicy")
        if request.policy_name == _SHARING_POLICY_NAME:
            raise KmsValidationError("The AWS_RAM policy can only be managed by the RAM service.")
        if request.policy_name != DEFAULT_POLICY_NAME:
            raise KeyNotFoundError("No such policy exists")
        check_policy(
            attempt,
            request.policy,
            arn=key.arn,
            tags=key.tags,
            bypass_lockout_check=request.bypass_policy_lockout_safety_check,
        )
        attempt.response_elements = {"keyId": key.arn}
        changed = replace(key, policy=request.policy)
        return Effect(change=lambda change: put_key(change, changed), act=EmptyResponse)

    def list_key_policies(
        self, attempt: Attempt, request: ListKeyPoliciesRequest
    ) -> Effect[ListKeyPoliciesResponse]:
        key = self._find_key(attempt, request.key_id)
        attempt.authorise(key, "ListKeyPolicies")
        names = [DEFAULT_POLICY_NAME]
        return Effect(act=lambda: ListKeyPoliciesResponse(policy_names=names, truncated=False))


def check_policy(
    attempt: Attempt,
    policy: str,
    *,
    arn: str,
    tags: Mapping[str, str] = _NO_TAGS,
    bypass_lockout_check: bool = False,
) -> None:
    """Check what is to become the policy of the key `arn` of the attempt's account; for CreateKey
    too, with the tags that the key is going to have.

    Raises LimitExceededError, MalformedPolicyError, InvalidArnError.
    """
    if len(policy.encode()) > MAX_POLICY_BYTES:
        raise LimitExceededError(f"a key policy cannot have more than {MAX_POLICY_BYTES} bytes")
    document = parse_policy(policy, PolicyKind.KEY)
    for principal in sorted(document.principal_arns):
        if not can_exist(attempt.change, principal, account=attempt.account):
            raise MalformedPolicyError(
                "Policy contains a statement with one or more invalid principals."
            )
    if not bypass_lockout_check and not attempt.may_change_policy(
        policy, arn=arn, account=attempt.account, tags=tags
    ):
        raise MalformedPolicyError(
            "The new key policy will not allow you to update the key policy in the future."
        )


def can_exist(view: View, principal: str, *, account: str) -> bool:
    """Whether there is a principal of that ARN, as far as it can be known here: the users of
    `account` and of every other account that has users here are known, others may well exist."""
    of = principal_account(principal)
    if of is None:
        return False
    return exists(view, principal) or not (of == account or is_served(view, of))
