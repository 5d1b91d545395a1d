"""Answers of the KMS, under the names that AWS gave them."""

from typing import ClassVar

from volcrypt.errors.base import VolcryptError


class KmsError(VolcryptError):
    """An answer of the KMS; `code` is the AWS name, `http_status` the status on the wire."""

    code: ClassVar[str] = "KMSInternalException"
    http_status: ClassVar[int] = 400
    retryable: ClassVar[bool] = False


class KmsValidationError(KmsError):
    code = "ValidationException"


class AccessDeniedError(KmsError):
    code = "AccessDeniedException"
    hint = "'volcrypt kms get-key-policy' shows who may, 'volcrypt audit list' what was refused"


class KeyNotFoundError(KmsError):
    code = "NotFoundException"


class KeyDisabledError(KmsError):
    code = "DisabledException"
    hint = "enable it with 'volcrypt kms enable-key'"


class InvalidStateError(KmsError):
    code = "KMSInvalidStateException"


class InvalidCiphertextError(KmsError):
    code = "InvalidCiphertextException"


class IncorrectKeyError(KmsError):
    code = "IncorrectKeyException"


class InvalidKeyUsageError(KmsError):
    code = "InvalidKeyUsageException"


class AlreadyExistsError(KmsError):
    code = "AlreadyExistsException"


class InvalidAliasNameError(KmsError):
    code = "InvalidAliasNameException"


class InvalidArnError(KmsError):
    code = "InvalidArnException"


class InvalidMarkerError(KmsError):
    code = "InvalidMarkerException"


class NotAuthorizedError(KmsError):
    code = "NotAuthorizedException"


class LimitExceededError(KmsError):
    code = "LimitExceededException"


class MalformedPolicyError(KmsError):
    code = "MalformedPolicyDocumentException"


class TagError(KmsError):
    code = "TagException"


class UnsupportedOperationError(KmsError):
    code = "UnsupportedOperationException"


class SerializationError(KmsError):
    """A member of a request has the wrong JSON type."""

    code = "SerializationException"


class UnknownOperationError(KmsError):
    """The request names no operation of this service."""

    code = "UnknownOperationException"


class MissingAuthenticationError(KmsError):
    code = "MissingAuthenticationTokenException"


class IncompleteSignatureError(KmsError):
    code = "IncompleteSignatureException"


class UnrecognizedClientError(KmsError):
    """The access key is unknown, inactive, or of another account's endpoint."""

    code = "UnrecognizedClientException"


class InvalidSignatureError(KmsError):
    code = "InvalidSignatureException"


class SignatureTimeError(InvalidSignatureError):
    """The time of the signature is too far from that of the KMS: one of two clocks is wrong, as it
    may be until NTP has set it after a boot."""

    hint = "set the clocks of this host and of the KMS right, or have NTP do it"


class ThrottlingError(KmsError):
    code = "ThrottlingException"
    retryable = True


class InvalidGrantTokenError(KmsError):
    code = "InvalidGrantTokenException"


class InvalidGrantIdError(KmsError):
    code = "InvalidGrantIdException"


class InvalidImportTokenError(KmsError):
    code = "InvalidImportTokenException"


class ExpiredImportTokenError(KmsError):
    code = "ExpiredImportTokenException"


class IncorrectKeyMaterialError(KmsError):
    code = "IncorrectKeyMaterialException"


class ConflictError(KmsError):
    code = "ConflictException"


class CustomKeyStoreNotFoundError(KmsError):
    code = "CustomKeyStoreNotFoundException"


class CustomKeyStoreInvalidStateError(KmsError):
    code = "CustomKeyStoreInvalidStateException"


class CustomKeyStoreNameInUseError(KmsError):
    code = "CustomKeyStoreNameInUseException"


class CustomKeyStoreHasKeysError(KmsError):
    code = "CustomKeyStoreHasCMKsException"


class ClusterInUseError(KmsError):
    code = "CloudHsmClusterInUseException"


class ClusterNotFoundError(KmsError):
    code = "CloudHsmClusterNotFoundException"


class ClusterNotActiveError(KmsError):
    code = "CloudHsmClusterNotActiveException"


class ClusterNotRelatedError(KmsError):
    code = "CloudHsmClusterNotRelatedException"


class IncorrectTrustAnchorError(KmsError):
    code = "IncorrectTrustAnchorException"


class EntityExistsError(KmsError):
    """A principal, policy or access key of that name exists."""

    code = "EntityAlreadyExists"
    http_status = 409


class NoSuchEntityError(KmsError):
    """There is no such principal, policy or access key."""

    code = "NoSuchEntity"
    http_status = 404


class PrincipalAccessDeniedError(AccessDeniedError):
    """A principal may not look at or change principals."""

    hint = (
        "'volcrypt principal put-policy' says what a user may do, "
        "'volcrypt audit list' what was refused"
    )

    code = "AccessDenied"
    http_status = 403


class MalformedIdentityPolicyError(KmsError):
    code = "MalformedPolicyDocument"


class PrincipalLimitError(KmsError):
    """There are as many principals, or as much of a principal, as there can be."""

    code = "LimitExceeded"
    http_status = 409


class DeleteConflictError(KmsError):
    """The principal still has access keys or policies."""

    code = "DeleteConflict"
    http_status = 409


class DryRunSucceededError(KmsError):
    """The request was checked and would have succeeded; AWS reports that as an error."""

    code = "DryRunOperationException"


class KmsInternalError(KmsError):
    """A fault on the side of the KMS; nothing is wrong with the request."""

    code = "KMSInternalException"
    http_status = 500
    retryable = True


class HsmUnavailableError(KmsInternalError):
    """The token or its module is not there or does not answer."""

    code = "KeyUnavailableException"
