"""Exit codes, and which error gives which. Scripts rely on them: a retired number stays retired.

| code | meaning |
|---|---|
| 0 | done |
| 1 | failed |
| 2 | usage: an argument or a combination of them is not acceptable |
| 3 | not found |
| 4 | in use, or the name is taken |
| 5 | access denied, a wrong PIN, passphrase or customer-provided key, or the key is not usable |
| 6 | integrity: something is damaged, missing, substituted or rolled back |
| 7 | try again later |
| 8 | finding: something is there that somebody should change (`doctor`, `report encryption`) |
| 130 | interrupted by Ctrl-C |
"""

from enum import IntEnum
from typing import Final

from volcrypt import errors


class Exit(IntEnum):
    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    IN_USE = 4
    DENIED = 5
    INTEGRITY = 6
    TRY_AGAIN = 7
    FINDING = 8
    INTERRUPTED = 130


_TABLE: Final[tuple[tuple[type[errors.VolcryptError], Exit], ...]] = (
    # The first row that fits decides; a class stands before its base.
    (errors.InvalidArgumentError, Exit.USAGE),
    (errors.MountPointError, Exit.USAGE),
    (errors.KmsValidationError, Exit.USAGE),
    (errors.InvalidAliasNameError, Exit.USAGE),
    (errors.InvalidArnError, Exit.USAGE),
    (errors.MalformedPolicyError, Exit.USAGE),
    (errors.MalformedIdentityPolicyError, Exit.USAGE),
    (errors.TagError, Exit.USAGE),
    (errors.UnsupportedOperationError, Exit.USAGE),
    (errors.SerializationError, Exit.USAGE),
    (errors.UnknownOperationError, Exit.USAGE),
    (errors.InvalidMarkerError, Exit.USAGE),
    (errors.InvalidGrantTokenError, Exit.USAGE),
    (errors.HomeNotInitialisedError, Exit.NOT_FOUND),
    (errors.VolumeNotFoundError, Exit.NOT_FOUND),
    (errors.WorkNotFoundError, Exit.NOT_FOUND),
    (errors.SnapshotNotFoundError, Exit.NOT_FOUND),
    (errors.StoreNotFoundError, Exit.NOT_FOUND),
    (errors.KeyGoneError, Exit.DENIED),
    (errors.KeyNotFoundError, Exit.NOT_FOUND),
    (errors.InvalidGrantIdError, Exit.NOT_FOUND),
    (errors.CustomKeyStoreNotFoundError, Exit.NOT_FOUND),
    (errors.ClusterNotFoundError, Exit.NOT_FOUND),
    (errors.NoSuchEntityError, Exit.NOT_FOUND),
    (errors.VolumeInUseError, Exit.IN_USE),
    (errors.MountPointTakenError, Exit.IN_USE),
    (errors.SnapshotInUseError, Exit.IN_USE),
    (errors.NameTakenError, Exit.IN_USE),
    (errors.AlreadyExistsError, Exit.IN_USE),
    (errors.EntityExistsError, Exit.IN_USE),
    (errors.DeleteConflictError, Exit.IN_USE),
    (errors.ConflictError, Exit.IN_USE),
    (errors.CustomKeyStoreNameInUseError, Exit.IN_USE),
    (errors.CustomKeyStoreHasKeysError, Exit.IN_USE),
    (errors.ClusterInUseError, Exit.IN_USE),
    (errors.HomeAccessError, Exit.DENIED),
    (errors.WrongPinError, Exit.DENIED),
    (errors.WrongPassphraseError, Exit.DENIED),
    (errors.WrongCustomerKeyError, Exit.DENIED),
    (errors.PrivilegeError, Exit.DENIED),
    (errors.StoreAccessNowError, Exit.TRY_AGAIN),
    (errors.StoreAccessError, Exit.DENIED),
    (errors.AccessDeniedError, Exit.DENIED),
    (errors.NotAuthorizedError, Exit.DENIED),
    (errors.KeyDisabledError, Exit.DENIED),
    (errors.InvalidStateError, Exit.DENIED),
    (errors.IncorrectKeyError, Exit.DENIED),
    (errors.IncorrectKeyMaterialError, Exit.DENIED),
    (errors.InvalidImportTokenError, Exit.DENIED),
    (errors.ExpiredImportTokenError, Exit.DENIED),
    (errors.CustomKeyStoreInvalidStateError, Exit.DENIED),
    (errors.ClusterNotActiveError, Exit.DENIED),
    (errors.ClusterNotRelatedError, Exit.DENIED),
    (errors.IncorrectTrustAnchorError, Exit.DENIED),
    (errors.MissingAuthenticationError, Exit.DENIED),
    (errors.IncompleteSignatureError, Exit.DENIED),
    (errors.UnrecognizedClientError, Exit.DENIED),
    (errors.SignatureTimeError, Exit.TRY_AGAIN),
    (errors.InvalidSignatureError, Exit.DENIED),
    (errors.InvalidKeyUsageError, Exit.DENIED),
    (errors.InvalidCiphertextError, Exit.INTEGRITY),
    (errors.DeviceMissingError, Exit.TRY_AGAIN),
    (errors.IntegrityError, Exit.INTEGRITY),
    (errors.FormatError, Exit.INTEGRITY),
    (errors.TryAgainError, Exit.TRY_AGAIN),
    (errors.ThrottlingError, Exit.TRY_AGAIN),
    (errors.HsmUnavailableError, Exit.TRY_AGAIN),
)


def exit_code_of(error: errors.VolcryptError) -> Exit:
    for kind, code in _TABLE:
        if isinstance(error, kind):
            return code
    return Exit.FAILED
