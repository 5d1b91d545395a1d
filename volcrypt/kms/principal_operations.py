"""Operations on users and their identity policies, as AWS IAM has them."""

import json
from base64 import b32encode
from dataclasses import replace
from typing import Final

from volcrypt.errors import (
    DeleteConflictError,
    EntityExistsError,
    KmsValidationError,
    MalformedIdentityPolicyError,
    MalformedPolicyError,
    NoSuchEntityError,
    PrincipalLimitError,
)
from volcrypt.kms.attempt import Attempt, Effect
from volcrypt.kms.messages.base import EmptyResponse
from volcrypt.kms.messages.principals import (
    CreateUserRequest,
    DeleteUserPolicyRequest,
    DeleteUserRequest,
    GetUserPolicyRequest,
    GetUserPolicyResponse,
    GetUserRequest,
    ListUserPoliciesRequest,
    ListUserPoliciesResponse,
    ListUsersRequest,
    ListUsersResponse,
    PutUserPolicyRequest,
    User,
    UserResponse,
)
from volcrypt.kms.policy_document import PolicyKind, parse_policy
from volcrypt.kms.principals import (
    PRINCIPALS,
    Principal,
    decode_principal,
    find,
    find_by_name,
    has_access_keys,
    in_account,
    put_principal,
    user_arn,
)
from volcrypt.kms.scope import Scope

MAX_USERS: Final = 5000
MAX_POLICY_BYTES: Final = 32_768
"""Of all identity policies of a user together. IAM has 2,048 here, and managed policies beside."""
_USER_ID_BYTES: Final = 11
_USER_ID_CHARACTERS: Final = 17


class PrincipalOperations(Scope):
    """Requests raise the errors of AWS IAM; see the module `service`."""

    def create_user(self, attempt: Attempt, request: CreateUserRequest) -> Effect[UserResponse]:
        name = request.user_name
        arn = user_arn(self._account, name)
        attempt.authorise_account("CreateUser", resource=arn, service="iam")
        if find_by_name(attempt.change, self._account, name) is not None:
            raise EntityExistsError(f"User with name {name} already exists.")
        if attempt.change.count(PRINCIPALS, prefix=in_account(self._account)) >= MAX_USERS:
            raise PrincipalLimitError(f"Cannot exceed quota for UsersPerAccount: {MAX_USERS}")
        user = Principal(
            arn=arn,
            account=self._account,
            name=name,
            user_id=self._new_user_id(),
            created_at=attempt.now,
        )
        attempt.response_elements = {"user": {"arn": arn, "userName": name, "userId": user.user_id}}
        return Effect(
            change=lambda change: put_principal(change, user),
            act=lambda: UserResponse(user=_shown(user)),
        )

    def get_user(self, attempt: Attempt, request: GetUserRequest) -> Effect[UserResponse]:
        user = self._user(attempt, request.user_name)
        return Effect(act=lambda: UserResponse(user=_shown(user)))

    def list_users(self, attempt: Attempt, request: ListUsersRequest) -> Effect[ListUsersResponse]:
        everybody = user_arn(self._account, "")
        attempt.authorise_account("ListUsers", resource=everybody, service="iam")
        items, marker = self._page(
            attempt.change, PRINCIPALS, request, prefix=in_account(self._account)
        )
        response = ListUsersResponse(
            users=[_shown(decode_principal(item)) for item in items],
            is_truncated=marker is not None,
            marker=marker,
        )
        return Effect(act=lambda: response)

    def delete_user(self, attempt: Attempt, request: DeleteUserRequest) -> Effect[EmptyResponse]:
        user = self._user(attempt, request.user_name)
        if has_access_keys(attempt.change, user):
            raise DeleteConflictError("Cannot delete entity, must delete access keys first.")
        if user.policies:
            raise DeleteConflictError("Cannot delete entity, must delete policies first.")
        return Effect(change=lambda change: change.delete(PRINCIPALS, user.arn), act=EmptyResponse)

    def put_user_policy(
        self, attempt: Attempt, request: PutUserPolicyRequest
    ) -> Effect[EmptyResponse]:
        user = self._user(attempt, request.user_name)
        policies = user.policies | {request.policy_name: request.policy_document}
        if sum(len(text.encode()) for text in policies.values()) > MAX_POLICY_BYTES:
            raise PrincipalLimitError(
                f"Maximum policy size of {MAX_POLICY_BYTES} bytes exceeded for user {user.name}"
            )
        try:
            parse_policy(request.policy_document, PolicyKind.IDENTITY)
        except MalformedPolicyError as error:
            raise MalformedIdentityPolicyError(str(error)) from error
        changed = replace(user, policies=policies)
        return Effect(change=lambda change: put_principal(change, changed), act=EmptyResponse)

    def get_user_policy(
        self, attempt: Attempt, request: GetUserPolicyRequest
    ) -> Effect[GetUserPolicyResponse]:
        user = self._user(attempt, request.user_name)
        text = _policy(user, request.policy_name)
        response = GetUserPolicyResponse(
            user_name=user.name,
            policy_name=request.policy_name,
            policy_document=json.loads(text),
        )
        return Effect(act=lambda: response)

    def list_user_policies(
        self, attempt: Attempt, request: ListUserPoliciesRequest
    ) -> Effect[ListUserPoliciesResponse]:
        user = self._user(attempt, request.user_name)
        names = sorted(user.policies)
        return Effect(act=lambda: ListUserPoliciesResponse(policy_names=names, is_truncated=False))

    def delete_user_policy(
        self, attempt: Attempt, request: DeleteUserPolicyRequest
    ) -> Effect[EmptyResponse]:
        user = self._user(attempt, request.user_name)
        _policy(user, request.policy_name)
        kept = {k: text for k, text in user.policies.items() if k != request.policy_name}
        changed = replace(user, policies=kept)
        return Effect(change=lambda change: put_principal(change, changed), act=EmptyResponse)

    def _user(self, attempt: Attempt, name: str | None) -> Principal:
        """The user that a request is about, the caller without a name; the caller may do the
        operation on it. Raises PrincipalAccessDeniedError, then NoSuchEntityError."""
        if name is None:
            arn = attempt.caller.arn
            if attempt.caller.is_root:
                raise KmsValidationError("Must specify userName when calling with the account root")
        else:
            arn = user_arn(self._account, name)
        attempt.authorise_account(attempt.operation, resource=arn, service="iam")
        user = find(attempt.change, arn)
        if user is None:
            raise NoSuchEntityError(f"The user with name {name} cannot be found.")
        return user

    def _new_user_id(self) -> str:
        drawn = b32encode(bytes(self._keystore.random(_USER_ID_BYTES))).decode()
        return "AIDA" + drawn[:_USER_ID_CHARACTERS]


def _policy(user: Principal, name: str) -> str:
    text = user.policies.get(name)
    if text is None:
        raise NoSuchEntityError(f"The user policy with name {name} cannot be found.")
    return text


def _shown(user: Principal) -> User:
    return User(
        user_name=user.name, user_id=user.user_id, arn=user.arn, create_date=user.created_at
    )
