"""The one tree of exceptions, and nothing else.

Fields are typed; the message is made from them, in lower case and without a full stop, fit to
stand behind `error: `. `hint`, where there is one, says what the user can do. An error is
translated once at each edge, from a table: errno, AWS error name and exit code are the edges'
business (`volume.fuse`, `kms.protocol`, `cli.main`), not this module's.

A broken invariant of our own is no error of this tree: it is an AssertionError or RuntimeError
that says "internal error".
"""

from typing import ClassVar


class VolcryptError(Exception):
    """Something that the user can be told about in one line."""

    hint: str | None = None

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        if hint is not None:
            self.hint = hint


class InvalidArgumentError(VolcryptError):
    """A value from outside is not acceptable: a size, a name, a combination of options."""


class ConfigurationError(VolcryptError):
    """The host or the configuration file lacks something."""


class ComponentMissingError(ConfigurationError):
    """A program, device or library that volcrypt stands on is not there."""

    def __init__(self, component: str, *, package: str | None = None) -> None:
        super().__init__(
            f"{component} is missing", hint=f"apt-get install {package}" if package else None
        )
        self.component = component
        self.package = package


class HomeNotInitialisedError(ConfigurationError):
    """The home directory holds no key management state."""

    hint = "run 'volcrypt init'"

    def __init__(self, home: str) -> None:
        super().__init__(f"no volcrypt home at {home}")
        self.home = home


class WrongPinError(ConfigurationError):
    """The PIN is not the token's."""


class PinLockedError(WrongPinError):
    """The token takes no PIN any more: too many wrong ones were tried."""


class WrongPassphraseError(ConfigurationError):
    """The passphrase does not open the backup, or the LUKS2 image; a backup whose beginning is
    damaged looks alike."""


class WrongCustomerKeyError(VolcryptError):
    """The customer-provided key is not the one that the data key is wrapped under."""


class KeyGoneError(VolcryptError):
    """The KMS does not know the key that a data key is wrapped under: what that encrypts is there,
    and cannot be read."""

    hint = "if it was deleted, what is under it is lost; 'volcrypt report key' says what and when"

    def __init__(self, key: str) -> None:
        super().__init__(f"key {key} does not exist, and nothing that is under it can be read")
        self.key = key


class CustomerKeyMissingError(InvalidArgumentError):
    """A data key is wrapped under a customer-provided key, and none was given."""


class TokenMissingError(ConfigurationError):
    """The PKCS#11 module cannot be loaded, or has no token of that label."""


class PrivilegeError(VolcryptError):
    """The operation needs a privilege that the process lacks."""


class TryAgainError(VolcryptError):
    """Something is busy or away for now; the same call may succeed later."""


class SourceChangedError(TryAgainError):
    """Somebody writes to what is imported."""


# ---------------------------------------------------------------- formats


class FormatError(VolcryptError):
    """Bytes that do not parse as what they should be."""

    def __init__(self, what: str, problem: str) -> None:
        super().__init__(f"{what}: {problem}")
        self.what = what
        self.problem = problem


class BadMagicError(FormatError):
    """Not the kind of document that was expected at this place."""

    def __init__(self, what: str) -> None:
        super().__init__(what, "not a volcrypt document of this kind")


class UnsupportedVersionError(FormatError):
    """A document of a version that this release does not know."""

    def __init__(self, what: str, version: int, known: int) -> None:
        super().__init__(what, f"version {version} is not supported, this release knows {known}")
        self.version = version
        self.known = known


class MalformedError(FormatError):
    """The right kind and version, and yet it does not parse: truncated, or damaged."""


# ---------------------------------------------------------------- integrity


class IntegrityError(VolcryptError):
    """Bytes that parse and are wrong: changed, swapped, missing or older than they should be."""


class SealError(IntegrityError):
    """The MAC or signature of a document does not hold."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}: its seal does not hold, it was changed or is another's")
        self.what = what


class RollbackError(IntegrityError):
    """A document with a valid seal that is not the current one."""

    def __init__(self, what: str, *, hint: str | None = None) -> None:
        super().__init__(
            f"{what}: it is not the current version, an older or foreign one was put in its place",
            hint=hint,
        )
        self.what = what


class RecordMissingError(IntegrityError):
    """Something the register knows is not on disk."""

    def __init__(self, what: str, *, hint: str | None = None) -> None:
        super().__init__(f"{what} is registered, and missing on disk", hint=hint)
        self.what = what


class ChunkMissingError(IntegrityError):
    """A manifest names an object that the store does not hold."""

    def __init__(self, digest: str, where: str) -> None:
        super().__init__(f"{where}: object {digest} is missing from the store")
        self.digest = digest


class ChunkCorruptError(IntegrityError):
    """A stored object does not have the digest that its name promises."""

    def __init__(self, digest: str, where: str) -> None:
        super().__init__(f"{where}: object {digest} is damaged")
        self.digest = digest


class ObjectLostError(IntegrityError):
    """A service said that it stored an object, and has not, or not all of it."""

    hint = "nothing that was complete is lost; do not rely on this service before you know why"

    def __init__(self, location: str, name: str, length: int | None) -> None:
        found = "there is none" if length is None else f"it has {length} bytes"
        super().__init__(
            f"snapshot store {location}: the service said that it stored object {name}, and {found}"
        )
        self.name = name


class VerificationError(IntegrityError):
    """Data read back does not equal the data that was written."""


class AuditChainError(IntegrityError):
    """The audit log was edited, cut or reordered."""


class UnknownGenerationError(IntegrityError):
    """Key material is wrapped under a key that the token does not have, or has no more."""

    def __init__(self, generation: int) -> None:
        super().__init__(
            f"key material is wrapped under key {generation} of the token, which it does not have"
        )
        self.generation = generation


# ---------------------------------------------------------------- key management


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
    """The signature does not fit, or its time is too far from ours."""

    code = "InvalidSignatureException"


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


# ---------------------------------------------------------------- volumes


class VolumeError(VolcryptError):
    """Something about one volume."""


class VolumeNotFoundError(VolumeError):
    def __init__(self, volume: str) -> None:
        super().__init__(f"volume {volume} does not exist")
        self.volume = volume


class RecordCopyNotFoundError(VolumeNotFoundError):
    """There is no copy of the volume's record where it was looked for."""

    def __init__(self, volume: str, what: str, *, hint: str | None = None) -> None:
        VolumeError.__init__(self, f"there is no {what}", hint=hint)
        self.volume = volume


class VolumeInUseError(VolumeError):
    """Another process or host holds the volume, or what its data is in."""

    def __init__(
        self, volume: str, holder: str, *, hint: str | None = None, kind: str = "volume"
    ) -> None:
        super().__init__(f"{kind} {volume} is in use by {holder}", hint=hint)
        self.volume = volume
        self.holder = holder


class NotConfirmedError(VolcryptError):
    """Whoever was asked said no."""

    def __init__(self) -> None:
        super().__init__("not confirmed: nothing was done")


class NameTakenError(VolcryptError):
    """A name that must be unique per kind is taken."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"a {kind} named {name} exists already")
        self.name = name


class ReadOnlyError(VolumeError):
    """A write to something that must not be written."""


class OutOfRangeError(VolumeError):
    """An offset or length beyond the end of the volume."""


class KeyWipedError(VolumeError):
    """A data key was wiped while somebody still wanted to use it."""


class FencedError(VolumeError):
    """The volume may not be served any more, and its key was wiped; `reason` says why."""

    hint = "unmount or detach it; it can be mounted again when its key, or lease, can be had again"

    def __init__(self, reason: str) -> None:
        super().__init__(f"the volume is fenced: {reason}")
        self.reason = reason


class NoSpaceError(VolcryptError):
    """The file system under the home, the data or the store is full."""

    hint = "free some space and try again; nothing was lost"


class MountError(VolcryptError):
    """The mount point or the kernel does not let us mount, attach, unmount or detach."""


# ---------------------------------------------------------------- snapshots


class SnapshotError(VolcryptError):
    """Something about one snapshot or its store."""


class SnapshotNotFoundError(SnapshotError):
    def __init__(self, snapshot: str, *, kind: str = "snapshot") -> None:
        super().__init__(f"{kind} {snapshot} does not exist")
        self.snapshot = snapshot


class SnapshotInUseError(SnapshotError):
    """The snapshot is needed by something that is running."""


class SweepBlockedError(IntegrityError):
    """What is garbage cannot be told, since what a damaged snapshot refers to is not known."""

    def __init__(self, store: str, snapshot: str, problem: str) -> None:
        super().__init__(
            f"nothing can be swept from {store} while snapshot {snapshot} is damaged: {problem}",
            hint="all that is damaged is named by 'volcrypt snapshot verify'; that snapshot is "
            f"given up with 'volcrypt snapshot delete {snapshot}'",
        )
        self.snapshot = snapshot


class SnapshotPendingError(TryAgainError):
    """The snapshot is still being made."""

    def __init__(self, snapshot: str) -> None:
        super().__init__(
            f"snapshot {snapshot} is still being made", hint=f"volcrypt snapshot wait {snapshot}"
        )
        self.snapshot = snapshot


class SnapshotFailedError(SnapshotError):
    """The snapshot was begun and is not completed; one that is no unfinished copy never will be."""

    def __init__(
        self, snapshot: str, reason: str, *, unfinished_copy_of: str | None = None
    ) -> None:
        """`unfinished_copy_of`: the snapshot that has to be copied again for this one to go on."""
        removal = f"'volcrypt snapshot delete {snapshot}' removes what is left of it"
        super().__init__(
            f"snapshot {snapshot} was not completed: {reason}",
            hint=removal
            if unfinished_copy_of is None
            else f"the same 'volcrypt snapshot copy {unfinished_copy_of} ...' goes on where it "
            f"stopped; {removal}",
        )
        self.snapshot = snapshot


class StoreNotFoundError(SnapshotError):
    def __init__(self, store: str) -> None:
        super().__init__(f"snapshot store {store} does not exist")
        self.store = store


class BucketNotFoundError(StoreNotFoundError):
    """The bucket that a store lies in is not there."""

    hint = "make the bucket first; volcrypt makes stores in buckets, not buckets"

    def __init__(self, bucket: str) -> None:
        SnapshotError.__init__(self, f"bucket {bucket} does not exist")
        self.store = bucket


class StoreAccessError(SnapshotError):
    """The service of an object store does not let us in, or not do this."""


class ObjectNotFoundError(SnapshotError):
    """The object store holds nothing under this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"object {name} does not exist")
        self.name = name


class ObjectStoreError(TryAgainError):
    """The object store did not do what it was asked; it may later."""
