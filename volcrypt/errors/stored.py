"""Stored bytes: what does not parse, and what parses and is wrong."""

from volcrypt.errors.base import VolcryptError


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


class IntegrityError(VolcryptError):
    """Bytes that parse and are wrong: changed, swapped, missing or older than they should be."""


class SealError(IntegrityError):
    """The MAC or signature of a document does not hold."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}: its seal does not hold, it was changed or is another's")
        self.what = what


class StoreReplacedError(SealError):
    """Another snapshot store than the one that is registered for a place lies there."""

    def __init__(self, location: str, *, found: str, expected: str) -> None:
        what = f"snapshot store {location}"
        IntegrityError.__init__(
            self,
            f"{what} is {found}, an older or foreign one in place of {expected}",
            hint=f"put {expected} back; 'volcrypt store trust' joins the other one, where that is "
            "moved to",
        )
        self.what = what


class RollbackError(IntegrityError):
    """A document that is not the current one."""

    def __init__(self, what: str, *, hint: str | None = None) -> None:
        super().__init__(
            f"{what}: it is not the current version; it is damaged, or an older or foreign one was "
            "put in its place",
            hint=hint,
        )
        self.what = what


class RecordMissingError(IntegrityError):
    """Something the register knows is not on disk."""

    def __init__(self, what: str, *, hint: str | None = None) -> None:
        super().__init__(f"{what} is registered, and missing on disk", hint=hint)
        self.what = what


class DeviceMissingError(RecordMissingError):
    """The device with the data of a volume is not there: it may not be yet, after a boot."""

    def __init__(self, device: str) -> None:
        IntegrityError.__init__(
            self, f"data device {device} is not there", hint="connect it, and try again"
        )
        self.what = f"data device {device}"


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
