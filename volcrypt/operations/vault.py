"""Ports: key management as the operations see it, and the choice of the one that a command uses.

`Kms` carries out requests, whoever does that: the home's own service in this process, the daemon
that serves the home, or another KMS over the network. `Vault` is what belongs to the home alone and
no other KMS can do: the register, the keys that seal what lies in the home, the audit log's head,
principals, upkeep. `KmsService` is both.

The home's own service runs in one place at a time: in any number of commands, which hold
HOME/kms/serving shared while they have it open, or in one `kms serve`, which holds it exclusively;
then commands go through its socket, and need no PIN.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from volcrypt.errors import TryAgainError
from volcrypt.formats.audit_record import AuditHead
from volcrypt.kms.messages.base import NO_CONTEXT, A, Request
from volcrypt.kms.model import HOME_KMS, Caller, VolumeSettings
from volcrypt.kms.protocol import HOME_OPERATIONS, decode_request, encode_response
from volcrypt.kms.register import NOTHING, RegisterEntry

SOCKET: Final = "kms.sock"


class Kms(Protocol):
    """Carries out requests for one account and region."""

    def perform(self, caller: Caller, request: Request[A], /) -> A:
        """Raises KmsError. To another KMS the caller is known by its own credentials."""
        ...


class RegisterPort(Protocol):
    """`kms.register.Register`, which says what the methods mean."""

    def get(self, kind: str, id_: str, /) -> RegisterEntry | None: ...
    def find(self, kind: str, name: str, /) -> RegisterEntry | None: ...
    def entries(self, kind: str, /) -> list[RegisterEntry]: ...
    def apply(
        self,
        *,
        put: Sequence[RegisterEntry] = (),
        delete: Sequence[tuple[str, str]] = (),
        expect: Mapping[tuple[str, str], int | None] = NOTHING,
    ) -> None: ...


class Vault(Kms, Protocol):
    """The home's own KMS, with all that belongs to the home alone."""

    @property
    def register(self) -> RegisterPort: ...

    def scope(self, account: str, region: str, /) -> Kms:
        """The same KMS for another account or region."""
        ...

    def derive_home_key(self, info: bytes, /) -> bytearray:
        """32 bytes for sealing what lies in the home, another one for each `info`."""
        ...

    def audit_head(self) -> AuditHead:
        """The sealed end of the audit log."""
        ...

    def has_principal(self, arn: str, /) -> bool: ...

    def authorise(
        self,
        caller: Caller,
        action: str,
        /,
        *,
        key_arn: str | None = None,
        context: Mapping[str, str] = NO_CONTEXT,
    ) -> None:
        """Check and record that the caller may do something to the home as a whole, such as
        `volcrypt:Backup`; or to what `context` names, which is under the key `key_arn` (None for
        a customer-provided one), such as `volcrypt:ExportHeader`. Raises AccessDeniedError."""
        ...

    def volume_settings(self, account: str, region: str, /) -> VolumeSettings:
        """What new volumes and copies of an account and region are made by."""
        ...

    def maintain(self) -> None:
        """Do what is due: deletions, expiries, rotations."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """As whom a command acts, and which KMS holds its keys: a profile, in plain values.

    `principal` is a name or ARN, None for the account root. `other_kms` opens a KMS that is not
    the home's, and `kms_name` tells it from others. `grantee` is the ARN that serves volumes with
    keys of that.
    """

    region: str | None = None
    account: str | None = None
    principal: str | None = None
    default_kms_key: str | None = None
    grantee: str | None = None
    served_regions: frozenset[str] = frozenset()
    served_accounts: frozenset[str] = frozenset()
    other_kms: "Callable[[], Kms] | None" = None
    kms_name: str = HOME_KMS


def call(kms: Kms, caller: Caller, operation: str, members: Mapping[str, Any]) -> dict[str, Any]:
    """An operation by its AWS name; members as in JSON, in and out. Raises KmsError."""
    request = decode_request(HOME_OPERATIONS[operation].request, members)
    return encode_response(kms.perform(caller, request))


def no_daemon(socket: Path, _account: str, _region: str) -> Vault:
    """For a process that cannot reach the daemon which serves the home."""
    raise TryAgainError(f"'volcrypt kms serve' holds the home, and {socket} is not to be used here")
