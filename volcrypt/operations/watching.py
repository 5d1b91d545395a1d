"""What has to stay true while a volume is served, and how it is asked: the checks of a watcher.

The key check asks the KMS for a Decrypt with DryRun: the very request with which the process got
the data key, by the same principal, without an answer that holds a key. Only what a KMS says about
*this key and this principal* is a loss:

    AccessDeniedException                  policy, grant, or the key is unknown to that principal
    DisabledException, NotFoundException   the key is disabled, or gone
    KMSInvalidStateException               pending deletion or pending import; not a key whose
                                           custom key store is away, which DescribeKey tells apart

Everything else is no answer: a KMS that is not there, answers 5xx or throttles, a home that is held
or full, no PIN, credentials that are missing or not known, ciphertext that it does not understand.
"""

from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

from volcrypt.errors import (
    AccessDeniedError,
    ConfigurationError,
    DryRunSucceededError,
    InvalidArgumentError,
    InvalidStateError,
    KeyDisabledError,
    KeyNotFoundError,
    KmsError,
    VolcryptError,
)
from volcrypt.formats.volume_record import VolumeRecord
from volcrypt.kms.messages.data import DecryptRequest
from volcrypt.kms.messages.keys import DescribeKeyRequest, KeyMetadata
from volcrypt.kms.model import Caller, KeyManager, KeyState
from volcrypt.names import VolumeId
from volcrypt.operations.home import Home
from volcrypt.operations.leases import LOOK_SECONDS, confirm_stopped, lease_loss
from volcrypt.operations.mount_grants import host_principal
from volcrypt.operations.vault import Kms
from volcrypt.volume.fence import (
    CheckOrder,
    Held,
    KeyCheckOrder,
    LeaseCheckOrder,
    Lost,
    Unanswered,
    WatchAnswer,
    WatchOrder,
    check_name,
)
from volcrypt.volume.lease_time import boot_seconds

_LOSSES: Final = (AccessDeniedError, KeyDisabledError, KeyNotFoundError)
_LOST_STATES: Final = frozenset(
    {KeyState.DISABLED.value, KeyState.PENDING_DELETION.value, KeyState.PENDING_IMPORT.value}
)
_NO_DRY_RUN: Final = "the KMS does not know DryRun, and would hand out the key at every check"


@dataclass(frozen=True, slots=True, kw_only=True)
class Watching:
    """How it is asked whether a volume may still be served: as a client of the home in this
    profile, every `interval_seconds`. About its key only with `key`; about its lease always."""

    profile: str
    region: str | None
    interval_seconds: float
    key: bool = True


def order_for(home: Home, record: VolumeRecord, watching: Watching | None) -> WatchOrder | None:
    """As `watch_order`; None where there is nothing to watch."""
    if watching is None or not (watching.key or record.lease is not None):
        return None
    return watch_order(home, record, watching)


def watch_order(home: Home, record: VolumeRecord, watching: Watching) -> WatchOrder:
    """What the process that serves the volume has to have watched.

    Raises InvalidArgumentError for a volume without a KMS key, ConfigurationError where nobody
    could ask while the volume is served.
    """
    checks: list[CheckOrder] = []
    if watching.key:
        checks.append(_key_check(home, record))
    if record.lease is not None:
        checks.append(LeaseCheckOrder(volume_id=record.volume_id))
    # The lease is asked for with what the home's own KMS seals, wherever the keys are.
    needs_own_kms = record.lease is not None or home.access.other_kms is None
    if needs_own_kms and not home.opens_unattended:
        why = "is fenced on key loss" if watching.key else "has a lease"
        raise ConfigurationError(
            f"a volume that {why} needs a KMS that answers without a person, and this home would "
            "ask for the PIN",
            hint="run 'volcrypt kms serve' beside it, or give the PIN as pin_file or systemd "
            "credential",
        )
    return WatchOrder(
        home=str(home.path),
        profile=watching.profile,
        region=watching.region,
        interval_seconds=min(watching.interval_seconds, LOOK_SECONDS)
        if record.lease is not None
        else watching.interval_seconds,
        checks=checks,
    )


def _key_check(home: Home, record: VolumeRecord) -> KeyCheckOrder:
    wrapped = record.wrapped_key
    if wrapped is None:
        raise InvalidArgumentError(
            f"volume {record.name or record.volume_id} is not encrypted: there is no key to lose"
        )
    if wrapped.kms_key_arn is None:
        raise InvalidArgumentError(
            f"volume {record.name or record.volume_id} is under a key of your own, which no KMS "
            "can take away"
        )
    host = host_principal(home)
    return KeyCheckOrder(
        kms_key_arn=wrapped.kms_key_arn,
        ciphertext=wrapped.ciphertext,
        encryption_context=wrapped.encryption_context,
        principal=host.arn,
        account=host.account,
    )


class Check(Protocol):
    """One check, for as long as a watcher lives."""

    def ask(self, home: Home) -> WatchAnswer:
        """Never fails: what is no answer is one of its own kind."""
        ...

    @property
    def has_farewell(self) -> bool:
        """Whether somebody is to hear, by `take_leave`, that the volume is served no more."""
        ...

    def take_leave(self, home: Home) -> None:
        """Raises VolcryptError, OSError."""
        ...


def make_check(order: CheckOrder) -> Check:
    return KeyCheck(order) if isinstance(order, KeyCheckOrder) else LeaseCheck(order)


class LeaseCheck:
    """Whether this host still has the lease of the order. When it was lost, whoever took it over
    waits to hear that the volume is not written to any more."""

    def __init__(self, order: LeaseCheckOrder) -> None:
        self._order = order
        self._volume_id = VolumeId(order.volume_id)
        self.has_farewell = False

    def ask(self, home: Home) -> WatchAnswer:
        name = check_name(self._order)
        asked_at = boot_seconds()
        try:
            reason = lease_loss(home, self._volume_id)
        except (VolcryptError, OSError) as error:
            return Unanswered(check=name, reason=describe(error))
        self.has_farewell = reason is not None
        if reason is not None:
            return Lost(check=name, reason=reason)
        return Held(check=name, asked_at=asked_at)

    def take_leave(self, home: Home) -> None:
        if self.has_farewell:
            confirm_stopped(home, self._volume_id)


class KeyCheck:
    """Whether the KMS still lets the principal of the order have the key.

    Everybody in the account may use a service-managed key through the volume service, so there the
    grant is what counts: it is asked for without the service, and that it is such a key is found
    out once.
    """

    def __init__(self, order: KeyCheckOrder) -> None:
        self._order = order
        self._via_service: bool | None = None
        self.has_farewell = False

    def ask(self, home: Home) -> WatchAnswer:
        name = check_name(self._order)
        try:
            reason = self._lost(home)
        except (VolcryptError, OSError) as error:
            return Unanswered(check=name, reason=describe(error))
        return Held(check=name) if reason is None else Lost(check=name, reason=reason)

    def take_leave(self, home: Home) -> None:
        """Nobody waits for that."""

    def _lost(self, home: Home) -> str | None:
        """Why the KMS does not let go of the key any more; None when it does."""
        order = self._order
        kms = _kms_of(home, order.account)
        if self._via_service is None:
            self._via_service = home.access.other_kms is not None or not self._is_managed(kms)
        request = DecryptRequest(
            key_id=order.kms_key_arn,
            ciphertext_blob=order.ciphertext,
            encryption_context=order.encryption_context,
            dry_run=True,
        )
        try:
            response = kms.perform(self._caller(via_service=self._via_service), request)
        except DryRunSucceededError:
            return None
        except _LOSSES as error:
            return self._reason(error)
        except InvalidStateError as error:
            if not self._is_lost_by_state(kms, error):
                raise
            return self._reason(error)
        response.plaintext[:] = bytes(len(response.plaintext))
        raise ConfigurationError(_NO_DRY_RUN)

    def _is_managed(self, kms: Kms) -> bool:
        try:
            return self._described(kms).key_manager == KeyManager.AWS.value
        except AccessDeniedError:
            return False  # no grant, or a denial: that is what is asked about next

    def _is_lost_by_state(self, kms: Kms, error: InvalidStateError) -> bool:
        """A key may also be unavailable, because its custom key store is away; that passes."""
        with suppress(VolcryptError):
            return self._described(kms).key_state in _LOST_STATES
        return " pending " in str(error)  # as AWS and we write it; who may not describe has no more

    def _described(self, kms: Kms) -> KeyMetadata:
        request = DescribeKeyRequest(key_id=self._order.kms_key_arn)
        return kms.perform(self._caller(via_service=True), request).key_metadata

    def _caller(self, *, via_service: bool) -> Caller:
        order = self._order
        return Caller(arn=order.principal, account=order.account, via_service=via_service)

    def _reason(self, error: KmsError) -> str:
        text = describe(error)
        key = self._order.kms_key_arn.rpartition("/")[2]
        return f"{text} ({error.code})" if key in text else f"{text} ({error.code} for key {key})"


def describe(error: Exception) -> str:
    """In one line, for `status` and the log."""
    if isinstance(error, VolcryptError):
        return " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return f"{type(error).__name__}: {getattr(error, 'strerror', None) or 'internal error'}"


def _kms_of(home: Home, account: str) -> Kms:
    """Not by the profile's principal: whether that may still do something is not the question."""
    if home.access.other_kms is not None:
        return home.kms
    return home.vault.scope(account, home.key_region)
