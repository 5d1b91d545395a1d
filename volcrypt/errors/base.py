"""What every error is, and those that are about no part of volcrypt alone."""

import shlex
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Sequence


class VolcryptError(Exception):
    """Something that the user can be told about in one line."""

    hint: str | None = None

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        if hint is not None:
            self.hint = hint

    @property
    def lines(self) -> list[str]:
        """What the user is told, one complaint a line: more than one where all are told at once."""
        return [str(self)]

    def about(self, subject: str = "") -> str:
        """In one line, with what helps, for a list of what is wrong with several objects; `subject`
        stands before what does not name it."""
        text = str(self) if subject in str(self) else f"{subject}: {self}"
        return f"{text}; {self.hint}" if self.hint else text


class InvalidArgumentError(VolcryptError):
    """A value from outside is not acceptable: a size, a name, a combination of options."""


class ConfigurationError(VolcryptError):
    """The host or the configuration file lacks something."""


class ConfigurationFileError(ConfigurationError):
    """The configuration file says what cannot be; `problems` are all of them, each with its line
    where it has one."""

    def __init__(self, path: str, problems: "Sequence[str]") -> None:
        super().__init__(f"{path}: {'; '.join(problems)}")
        self.path = path
        self.problems = list(problems)

    @property
    def lines(self) -> list[str]:
        return [f"{self.path}: {each}" for each in self.problems]


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

    def __init__(self, home: str) -> None:
        super().__init__(
            f"no volcrypt home at {home}",
            hint=f"'volcrypt --home {shlex.quote(home)} init' makes one there; --home or "
            "VOLCRYPT_HOME name another",
        )
        self.home = home


class HomeAccessError(ConfigurationError):
    """The home is another user's, and lets this one see nothing."""

    hint = (
        "run volcrypt as the user that the home belongs to, or name another home with --home or "
        "VOLCRYPT_HOME"
    )

    def __init__(self, path: str) -> None:
        super().__init__(f"no permission to read {path}")
        self.path = path


class WrongPinError(ConfigurationError):
    """The PIN is not the token's."""

    hint = (
        "it is the one that 'volcrypt init' was given or kept: see HOME/kms/pin, pin_file and "
        "pin_command in HOME/config.toml, and systemd's credential volcrypt.pin; a service does "
        "not try again by itself"
    )


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


class WorkNotFoundError(VolcryptError):
    """There is no unfinished work of the kind that was to be gone on with, or given up."""

    @classmethod
    def encryption_of(cls, volume: str) -> Self:
        return cls(f"there is no unfinished encryption or rekeying of {volume}")


class PrivilegeError(VolcryptError):
    """The operation needs a privilege that the process lacks."""


class TryAgainError(VolcryptError):
    """Something is busy or away for now; the same call may succeed later."""


class SourceChangedError(TryAgainError):
    """Somebody writes to what is imported."""
