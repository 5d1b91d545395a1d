"""Operations on grants: create, list, retire, revoke."""

from typing import Final

from volcrypt.errors import (
    InvalidArnError,
    InvalidGrantIdError,
    KeyNotFoundError,
    KmsValidationError,
    LimitExceededError,
)
from volcrypt.kms.attempt import Attempt, Effect
from volcrypt.kms.grant_items import (
    GRANTS,
    decode_grant,
    delete_grant,
    find_grant,
    find_named,
    follow_token,
    on_key,
    put_grant,
    retiring_owner,
    to_grantee,
)
from volcrypt.kms.grant_requests import (
    grant_facts,
    invalid_principal,
    read_permission,
    resource_facts,
)
from volcrypt.kms.grants import (
    ID_BYTES,
    NONCE_BYTES,
    Grant,
    Permission,
    decode_token,
    encode_token,
    parameters_digest,
)
from volcrypt.kms.keyring import get_key
from volcrypt.kms.messages.base import EmptyResponse
from volcrypt.kms.messages.grants import (
    CreateGrantRequest,
    CreateGrantResponse,
    GrantConstraints,
    GrantListEntry,
    ListGrantsRequest,
    ListGrantsResponse,
    ListRetirableGrantsRequest,
    RetireGrantRequest,
    RevokeGrantRequest,
)
from volcrypt.kms.model import KmsKey, root_arn
from volcrypt.kms.policy_document import principal_account
from volcrypt.kms.policy_operations import can_exist
from volcrypt.kms.principals import find
from volcrypt.kms.scope import Scope

MAX_GRANTS_PER_KEY: Final = 50_000
_HEXADECIMAL: Final = frozenset("0123456789abcdef")


class GrantOperations(Scope):
    """Requests raise the errors of the AWS KMS; see the module `service`."""

    def create_grant(
        self, attempt: Attempt, request: CreateGrantRequest
    ) -> Effect[CreateGrantResponse]:
        key = self._key_by_id(attempt, request.key_id)
        view = attempt.change
        permission = read_permission(request)
        attempt.authorise(
            key,
            "CreateGrant",
            grant_tokens=request.grant_tokens,
            facts=grant_facts(permission, for_service=attempt.caller.via_service),
            passed_on=permission,
        )
        attempt.check_state(key)
        _check_principals(attempt, key, permission)
        permission = _bound_to_user(attempt, permission)
        digest = parameters_digest(permission)
        grant = find_named(view, key, permission.grantee, digest) if permission.name else None
        is_new = grant is None
        if grant is None:
            if view.count(GRANTS, prefix=on_key(key)) >= MAX_GRANTS_PER_KEY:
                raise LimitExceededError(f"a key cannot have more than {MAX_GRANTS_PER_KEY} grants")
            grant = self._new_grant(attempt, key, permission, digest)
        made = grant
        token = encode_token(made, bytes(self._keystore.random(NONCE_BYTES)))
        attempt.response_elements = {"keyId": key.arn, "grantId": made.grant_id}
        return Effect(
            change=(lambda change: put_grant(change, made)) if is_new else None,
            act=lambda: CreateGrantResponse(grant_token=token, grant_id=made.grant_id),
        )

    def list_grants(
        self, attempt: Attempt, request: ListGrantsRequest
    ) -> Effect[ListGrantsResponse]:
        key = self._key_by_id(attempt, request.key_id)
        for_service = resource_facts(for_service=attempt.caller.via_service)
        attempt.authorise(key, "ListGrants", facts=for_service)
        if None not in (request.grantee_principal, request.grantee_service_principal):
            raise KmsValidationError(
                "You can specify either GranteePrincipal or GranteeServicePrincipal, but not both."
            )
        grantee = request.grantee_principal or request.grantee_service_principal
        if request.grant_id is not None:
            found = find_grant(attempt.change, key, request.grant_id)
            is_it = found is not None and grantee in (None, found.permission.grantee)
            response = _response([found] if found is not None and is_it else [], None)
            return Effect(act=lambda: response)
        prefix = on_key(key) if grantee is None else to_grantee(key, grantee)
        items, marker = self._page(attempt.change, GRANTS, request, prefix=prefix)
        response = _response([decode_grant(item) for item in items], marker)
        return Effect(act=lambda: response)

    def list_retirable_grants(
        self, attempt: Attempt, request: ListRetirableGrantsRequest
    ) -> Effect[ListGrantsResponse]:
        principal, service = request.retiring_principal, request.retiring_service_principal
        retiring = principal or service
        if retiring is None or (principal is not None and service is not None):
            raise KmsValidationError(
                "You must specify either RetiringPrincipal or RetiringServicePrincipal, but not "
                "both."
            )
        attempt.authorise_account("ListRetirableGrants", resource=retiring)
        if principal is not None and principal_account(principal) != attempt.account:
            raise invalid_principal(principal)
        owner = retiring_owner(self._region, retiring)
        items, marker = self._page(attempt.change, GRANTS, request, owner=owner, prefix="")
        response = _response([decode_grant(item) for item in items], marker)
        return Effect(act=lambda: response)

    def retire_grant(self, attempt: Attempt, request: RetireGrantRequest) -> Effect[EmptyResponse]:
        grant, key = self._to_be_retired(attempt, request)
        attempt.authorise_retiring(grant, key)
        attempt.response_elements = {"keyId": key.arn}
        return Effect(change=lambda change: delete_grant(change, grant), act=EmptyResponse)

    def revoke_grant(self, attempt: Attempt, request: RevokeGrantRequest) -> Effect[EmptyResponse]:
        key = self._key_by_id(attempt, request.key_id)
        for_service = resource_facts(for_service=attempt.caller.via_service)
        attempt.authorise(key, "RevokeGrant", facts=for_service)
        grant = _existing(attempt, key, request.grant_id)
        attempt.response_elements = {"keyId": key.arn}
        return Effect(change=lambda change: delete_grant(change, grant), act=EmptyResponse)

    def _key_by_id(self, attempt: Attempt, text: str) -> KmsKey:
        """The key; grants are about keys, not about what an alias names at the time."""
        if text.startswith("alias/") or ":alias/" in text:
            raise InvalidArnError("Key Aliases are not supported for this operation.")
        return self._find_key(attempt, text)

    def _to_be_retired(self, attempt: Attempt, request: RetireGrantRequest) -> tuple[Grant, KmsKey]:
        token, key_id, grant_id = request.grant_token, request.key_id, request.grant_id
        if token is not None:
            if key_id is not None or grant_id is not None:
                raise KmsValidationError(
                    "You must specify either a grant token, or a key ID and a grant ID, not both."
                )
            grant = follow_token(attempt.change, decode_token(token))
            key = None if grant is None else get_key(attempt.change, grant.key_id)
            if grant is None or key is None or key.region != self._region:
                raise KeyNotFoundError("The grant of the grant token does not exist")
            return grant, key
        if key_id is None or grant_id is None:
            raise KmsValidationError(
                "You must specify either a grant token, or a key ID and a grant ID."
            )
        key = self._key_by_id(attempt, key_id)
        return _existing(attempt, key, grant_id), key

    def _new_grant(
        self, attempt: Attempt, key: KmsKey, permission: Permission, digest: str
    ) -> Grant:
        drawn = bytes(self._keystore.random(ID_BYTES)).hex()
        return Grant(
            grant_id=digest + drawn[len(digest) :] if permission.name else drawn,
            key_arn=key.arn,
            permission=permission,
            issuing_account=attempt.caller.account,
            created_at=attempt.now,
        )


def _check_principals(attempt: Attempt, key: KmsKey, permission: Permission) -> None:
    """Users must exist; roles and sessions are others' to know. Raises InvalidArnError."""
    for arn in (permission.grantee, permission.retiring or ""):
        if ":user/" in arn and not can_exist(attempt.change, arn, account=key.account):
            raise invalid_principal(arn)


def _bound_to_user(attempt: Attempt, permission: Permission) -> Permission:
    """Bound to the user who has the grantee's ARN now, if it is one of ours."""
    user = find(attempt.change, permission.grantee)
    return permission if user is None else permission.bound_to(user.user_id)


def _existing(attempt: Attempt, key: KmsKey, grant_id: str) -> Grant:
    if not _HEXADECIMAL.issuperset(grant_id):
        raise InvalidGrantIdError(f"Invalid grant ID {grant_id}")
    grant = find_grant(attempt.change, key, grant_id)
    if grant is None:
        raise KeyNotFoundError(f"Grant ID {grant_id} not found")
    return grant


def _response(grants: list[Grant], marker: str | None) -> ListGrantsResponse:
    return ListGrantsResponse(
        grants=[_entry(grant) for grant in grants],
        truncated=marker is not None,
        next_marker=marker,
    )


def _entry(grant: Grant) -> GrantListEntry:
    permission = grant.permission
    constraints = GrantConstraints(
        encryption_context_subset=permission.constraints.subset,
        encryption_context_equals=permission.constraints.equals,
        source_arn=permission.constraints.source_arn,
    )
    grantee, retiring = permission.grantee, permission.retiring
    return GrantListEntry(
        key_id=grant.key_arn,
        grant_id=grant.grant_id,
        name=permission.name,
        creation_date=grant.created_at,
        issuing_account=root_arn(grant.issuing_account),
        operations=list(permission.operations),
        grantee_principal=grantee if _is_arn(grantee) else None,
        grantee_service_principal=None if _is_arn(grantee) else grantee,
        retiring_principal=retiring if _is_arn(retiring) else None,
        retiring_service_principal=None if _is_arn(retiring) else retiring,
        constraints=None if constraints == GrantConstraints() else constraints,
    )


def _is_arn(principal: str | None) -> bool:
    return principal is not None and principal.startswith("arn:")
