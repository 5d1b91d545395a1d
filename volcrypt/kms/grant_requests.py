"""From a CreateGrant request to what its grant says, checked; and what policies can ask of it.

Pure. Whether the principals exist is not asked here.
"""

from typing import Final

from volcrypt.errors import InvalidArnError, KmsValidationError
from volcrypt.kms.facts import Given
from volcrypt.kms.grants import (
    CREATE_GRANT,
    OTHER_OPERATIONS,
    Constraints,
    Permission,
)
from volcrypt.kms.messages.choices import SYMMETRIC_DEFAULT
from volcrypt.kms.messages.grants import CreateGrantRequest, GrantConstraints
from volcrypt.kms.policy_document import principal_account

MAX_CONSTRAINT_PAIRS: Final = 8
MAX_CONSTRAINT_CHARACTERS: Final = 384


def read_permission(request: CreateGrantRequest) -> Permission:
    """What is asked for. Raises KmsValidationError, and InvalidArnError for principals that are
    none."""
    constraints = _constraints(request.constraints)
    return Permission(
        grantee=_grantee(request, constraints),
        operations=_operations(request.operations),
        constraints=constraints,
        retiring=_retiring(request),
        name=request.name or "",
    )


def grant_facts(permission: Permission, *, for_service: bool) -> Given:
    """The condition keys of a CreateGrant."""
    constraints = permission.constraints
    types = {
        "EncryptionContextEquals": constraints.equals,
        "EncryptionContextSubset": constraints.subset,
        "SourceArn": constraints.source_arn,
    }
    given: dict[str, tuple[str, ...]] = {
        "kms:GrantConstraintType": tuple(name for name, value in types.items() if value),
        "kms:GrantOperations": permission.operations,
        "kms:GranteePrincipal": (permission.grantee,),
        **resource_facts(for_service=for_service),
    }
    if permission.retiring is not None:
        given["kms:RetiringPrincipal"] = (permission.retiring,)
    return given


def resource_facts(*, for_service: bool) -> Given:
    """The condition key that CreateGrant, ListGrants and RevokeGrant share."""
    return {"kms:GrantIsForAWSResource": ("true" if for_service else "false",)}


def _operations(operations: list[str]) -> tuple[str, ...]:
    if not operations:
        raise KmsValidationError("Grants must contain at least one operation.")
    others = [operation for operation in operations if operation in OTHER_OPERATIONS]
    if others:
        raise KmsValidationError(
            f"Grants on keys of key spec {SYMMETRIC_DEFAULT} cannot contain the operation "
            f"{others[0]}."
        )
    if set(operations) == {CREATE_GRANT}:
        raise KmsValidationError("Grants must not contain only the CreateGrant operation.")
    return tuple(dict.fromkeys(operations))


def _constraints(given: GrantConstraints | None) -> Constraints:
    if given is None:
        return Constraints()
    for name, pairs in (
        ("encryptionContextSubset", given.encryption_context_subset),
        ("encryptionContextEquals", given.encryption_context_equals),
    ):
        if len(pairs) > MAX_CONSTRAINT_PAIRS:
            raise KmsValidationError(
                f"{name} has {len(pairs)} pairs, at most {MAX_CONSTRAINT_PAIRS} are allowed"
            )
        if any(len(value) > MAX_CONSTRAINT_CHARACTERS for value in pairs.values()):
            raise KmsValidationError(
                f"a value in {name} has more than {MAX_CONSTRAINT_CHARACTERS} characters"
            )
        if "" in pairs:
            raise KmsValidationError(f"a key in {name} is empty")
    return Constraints(
        equals=given.encryption_context_equals,
        subset=given.encryption_context_subset,
        source_arn=given.source_arn,
    )


def _grantee(request: CreateGrantRequest, constraints: Constraints) -> str:
    grantee, service = request.grantee_principal, request.grantee_service_principal
    if (grantee is None) == (service is None):
        raise KmsValidationError(
            "You must specify either GranteePrincipal or GranteeServicePrincipal, but not both."
        )
    if grantee is not None:
        _check_principal(grantee)
        return grantee
    assert service is not None, "internal error: a grant to nobody"
    if constraints.source_arn is None:
        raise KmsValidationError(
            "You must specify a SourceArn grant constraint with GranteeServicePrincipal."
        )
    if request.retiring_principal is None and request.retiring_service_principal is None:
        raise KmsValidationError(
            "You must specify either RetiringPrincipal or RetiringServicePrincipal with "
            "GranteeServicePrincipal."
        )
    return service


def _retiring(request: CreateGrantRequest) -> str | None:
    retiring, service = request.retiring_principal, request.retiring_service_principal
    if retiring is not None and service is not None:
        raise KmsValidationError(
            "You can specify either RetiringPrincipal or RetiringServicePrincipal, but not both."
        )
    if retiring is not None:
        _check_principal(retiring)
    return retiring or service


def _check_principal(arn: str) -> None:
    if principal_account(arn) is None:
        raise invalid_principal(arn)


def invalid_principal(arn: str) -> InvalidArnError:
    """For an ARN of no principal, and of one that does not exist."""
    return InvalidArnError(f"ARN does not refer to a valid principal: {arn}")
