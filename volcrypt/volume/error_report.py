"""Errors of `volcrypt.errors` on their way from one process to another, as part of a JSON document.

What arrives is the same class with the same message, hint and plain fields, so that the edge that
shows it needs no second table. An error of the system arrives as VolumeError with what its number
means; anything else is a bug of the sender, and does with its kind.
"""

import errno
import os

import msgspec

from volcrypt import errors
from volcrypt.errors import VolcryptError, VolumeError

Field = str | int | None


class ErrorReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`kind` is the name of a class in `volcrypt.errors`; `fields` are its attributes."""

    kind: str
    message: str
    hint: str | None = None
    fields: dict[str, Field] = {}

    @classmethod
    def of(cls, error: Exception) -> "ErrorReport":
        if isinstance(error, OSError | MemoryError):
            number = getattr(error, "errno", None) or (
                errno.ENOMEM if isinstance(error, MemoryError) else errno.EIO
            )
            return cls(kind="VolumeError", message=f"the system's answer: {os.strerror(number)}")
        if not isinstance(error, VolcryptError):
            # The message of a foreign exception may hold anything; its kind is enough to find it.
            return cls(kind="VolumeError", message=f"internal error: {type(error).__name__}")
        return cls(
            kind=type(error).__name__,
            message=str(error),
            hint=error.hint,
            fields={
                name: value
                for name, value in vars(error).items()
                if name != "hint" and isinstance(value, str | int | None)
            },
        )

    def error(self) -> VolcryptError:
        """The error, to be raised."""
        kind = getattr(errors, self.kind, None)
        if not (isinstance(kind, type) and issubclass(kind, VolcryptError)):
            kind = VolumeError
        # Its own constructor would make the message anew, from arguments that only it knows.
        error = kind.__new__(kind)
        VolcryptError.__init__(error, self.message, hint=self.hint)
        for name, value in self.fields.items():
            setattr(error, name, value)
        return error
