"""KmsService: the AWS KMS, for one account and region.

For every operation the groups have one method, of its name in snake case, that decides through an
`Attempt` and says what is to be done as an `Effect`; `perform` has it checked, logged and done, in
that order. Sync and safe for several threads. An operation that is not
here is answered with UnsupportedOperationError.

A home has one service per account and region (`scope`). They share catalogue, HSM and audit log,
and `perform_all` carries out requests to any of them together.

Policy is asked before key state: who may not use a key does not learn its state. To Decrypt and
ReEncrypt, a blob of an unknown key and one of a forbidden key look the same.
"""

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Final, cast

from volcrypt.errors import InvalidArgumentError, VolcryptError
from volcrypt.formats.audit_record import AuditHead, Resource
from volcrypt.kms import principals
from volcrypt.kms.access_key_operations import AccessKeyOperations
from volcrypt.kms.alias_operations import AliasOperations
from volcrypt.kms.attempt import Attempt, Effect
from volcrypt.kms.census import Census
from volcrypt.kms.data_operations import DataOperations
from volcrypt.kms.deletion_operations import DeletionOperations
from volcrypt.kms.facts import context_facts
from volcrypt.kms.grant_operations import GrantOperations
from volcrypt.kms.import_operations import ImportOperations
from volcrypt.kms.key_operations import KeyOperations
from volcrypt.kms.key_store_operations import KeyStoreOperations
from volcrypt.kms.maintenance import Maintenance
from volcrypt.kms.messages.base import NO_CONTEXT, A, Request, Response
from volcrypt.kms.model import Caller
from volcrypt.kms.performer import Job, Performer
from volcrypt.kms.policy_operations import PolicyOperations
from volcrypt.kms.protocol import (
    READ_ONLY_OPERATIONS,
    decode_request,
    encode_response,
    find_operation,
    operation_of,
    snake_case,
)
from volcrypt.kms.register import Register
from volcrypt.kms.rotation_operations import RotationOperations
from volcrypt.kms.scope import Parts
from volcrypt.kms.tag_operations import TagOperations
from volcrypt.kms.volume_settings import VolumeSettingsOperations

_OPERATION_NAME: Final = re.compile(r"[A-Za-z]{1,64}")
_ACCOUNT: Final = re.compile(r"[0-9]{12}")
_REGION: Final = re.compile(r"[a-z0-9-]{1,64}")
_KEY_MEMBERS: Final = ("key_id", "destination_key_id")
_HOME_KEY_INFO: Final = b"volcrypt home key 1\0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """In the place of a request: one that could not even be read, and why. It is recorded."""

    operation: str
    error: VolcryptError


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One of many requests that are carried out together, by any service of the home.

    `request_id` is what the audit log calls it; a new one is drawn where there is none yet.
    """

    service: "KmsService"
    caller: Caller
    request: Request[Any] | Refusal
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class _Shared:
    """What the services of one home have in common."""

    performer: Performer
    services: "dict[tuple[str, str], KmsService]" = field(default_factory=dict)
    mutex: threading.Lock = field(default_factory=threading.Lock)


class KmsService(
    KeyOperations,
    TagOperations,
    AliasOperations,
    DataOperations,
    RotationOperations,
    DeletionOperations,
    ImportOperations,
    PolicyOperations,
    GrantOperations,
    KeyStoreOperations,
    AccessKeyOperations,
    VolumeSettingsOperations,
    Maintenance,
    Census,
):
    """The KMS of a home, for one account and region."""

    def __init__(self, parts: Parts, *, shared: _Shared | None = None) -> None:
        """`shared` is what the services of the same home have in common, if there are others."""
        if shared is None:
            performer = Performer(
                parts.catalog,
                parts.audit,
                account=parts.account,
                region=parts.region,
                clock=parts.clock,
            )
            shared = _Shared(performer)
        self._shared = shared
        super().__init__(parts, self._shared.performer)
        self.account = parts.account
        self.region = parts.region
        self.register = Register(parts.catalog)
        self.audit_log = parts.audit
        self._parts = parts
        self._shared.services[parts.account, parts.region] = self

    def scope(self, account: str, region: str) -> "KmsService":
        """The service of the same home for this account and region; the same one every time.

        Raises InvalidArgumentError for what cannot be one of these.
        """
        if _ACCOUNT.fullmatch(account) is None or _REGION.fullmatch(region) is None:
            raise InvalidArgumentError("an account has 12 digits, a region a name like us-east-1")
        with self._shared.mutex:
            found = self._shared.services.get((account, region))
            if found is None:
                parts = replace(self._parts, account=account, region=region)
                found = KmsService(parts, shared=self._shared)
            return found

    @property
    def has_failed(self) -> bool:
        """Whether an error of the disk has ended the use of catalogue or audit log: every request
        is refused until `reopen`."""
        return self._parts.catalog.has_failed or self._parts.audit.has_failed

    def reopen(self) -> None:
        """Begin anew after such an error, as the next process would; while no request is carried
        out. Raises what opening the home raises."""
        self._parts.audit.reopen()
        self._parts.catalog.reopen()

    def derive_home_key(self, info: bytes) -> bytearray:
        """32 bytes for sealing what lies in the home: HMAC-SHA-256 in the HSM under a service-owned
        key. `info` names the purpose and the object; another one gives an unrelated key."""
        return self._keystore.derive(_HOME_KEY_INFO + info)

    def audit_head(self) -> AuditHead:
        """The sealed end of the audit log."""
        with self._catalog.reading() as view:
            return view.audit_head

    def has_principal(self, arn: str) -> bool:
        with self._catalog.reading() as view:
            return principals.exists(view, arn)

    def authorise(
        self,
        caller: Caller,
        action: str,
        *,
        key_arn: str | None = None,
        context: Mapping[str, str] = NO_CONTEXT,
    ) -> None:
        """Check and record that the caller may do something to the home as a whole, like
        `volcrypt:Backup`; or to what `context` names, whose data key is under the key `key_arn`,
        like `volcrypt:ExportHeader`. Raises AccessDeniedError."""
        service, _, name = action.partition(":")

        def decide(attempt: Attempt) -> Effect[None]:
            if key_arn is not None:
                attempt.resources.append(Resource(arn=key_arn, account_id=key_arn.split(":")[4]))
            attempt.authorise_account(
                name, service=service, resource=key_arn or "*", facts=context_facts(context)
            )
            return Effect(act=lambda: None)

        parameters = {"keyId": key_arn, "encryptionContext": dict(context)} if context else None
        job = replace(self._job_without_request(caller, name, decide), parameters=parameters)
        (result,) = self._performer.perform_all([job])
        if isinstance(result, VolcryptError):
            raise result

    def perform(self, caller: Caller, request: Request[A]) -> A:
        """Carry out a request. Raises KmsError, and when it cannot be recorded NoSpaceError,
        AuditChainError or TryAgainError; then nothing has happened."""
        (result,) = self.perform_all([Call(service=self, caller=caller, request=request)])
        if isinstance(result, VolcryptError):
            raise result
        return cast(A, result)

    def perform_all(self, calls: Sequence[Call]) -> list[Response | VolcryptError]:
        """Carry out many requests at once, in this order, and say of each what `perform` gives or
        raises. Those that change no rows share a sync of the audit log with their neighbours."""
        return self._performer.perform_all(
            [call.service.job(call.caller, call.request, call.request_id) for call in calls]
        )

    def call(
        self, caller: Caller, operation: str, request_json: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Carry out an operation by its AWS name; members as in JSON, in and out."""
        try:
            request = decode_request(find_operation(operation).request, request_json)
        except VolcryptError as error:
            self.refuse(caller, operation, error)
            raise
        return encode_response(self.perform(caller, request))

    def refuse(self, caller: Caller, operation: str, error: VolcryptError) -> None:
        """Record a request that could not even be read, because of `error`. Raises what `perform`
        raises when it cannot be recorded."""
        refusal = Refusal(operation=operation, error=error)
        (result,) = self.perform_all([Call(service=self, caller=caller, request=refusal)])
        if result is not error:
            assert isinstance(result, VolcryptError), "internal error: a refusal with an answer"
            raise result

    def record_event(self, name: str, details: dict[str, Any]) -> None:
        """Record something that happened to the home's service as a whole. Raises what `perform`
        raises when it cannot be recorded."""
        self._performer.record_event(name, details)

    def job(
        self, caller: Caller, request: Request[Any] | Refusal, request_id: str | None = None
    ) -> Job:
        """A request as `perform_all` has it carried out."""
        if isinstance(request, Refusal):
            return self._refusal_job(caller, request, request_id)
        operation, method = _names_of(type(request))
        decide: Callable[[Attempt, Request[Any]], Effect[Any]] = getattr(self, method)
        try:
            for member in _KEY_MEMBERS:
                self._ensure_default_key(caller, getattr(request, member, None))
        except VolcryptError as error:
            refusal = Refusal(operation=operation, error=error)
            return self._refusal_job(caller, refusal, request_id)
        return Job(
            caller=caller,
            operation=operation,
            account=self.account,
            region=self.region,
            request=request,
            decide=lambda attempt: decide(attempt, request),
            changes_rows=operation not in READ_ONLY_OPERATIONS,
            request_id=request_id,
        )

    def _refusal_job(self, caller: Caller, refusal: Refusal, request_id: str | None) -> Job:
        def decide(attempt: Attempt) -> Effect[Any]:
            raise refusal.error

        return self._job_without_request(caller, _shown(refusal.operation), decide, request_id)

    def _job_without_request(
        self,
        caller: Caller,
        operation: str,
        decide: Callable[[Attempt], Effect[Any]],
        request_id: str | None = None,
    ) -> Job:
        return Job(
            caller=caller,
            operation=operation,
            account=self.account,
            region=self.region,
            request=None,
            decide=decide,
            changes_rows=False,
            request_id=request_id,
        )


@cache
def _names_of(request_type: type[Request[Any]]) -> tuple[str, str]:
    """The operation of a request, and the method that decides it."""
    operation = operation_of(request_type)
    return operation, snake_case(operation)


def _shown(operation: str) -> str:
    """The name of an operation as it may stand in the log and in a message."""
    return operation if _OPERATION_NAME.fullmatch(operation) else "Unknown"
