"""One request on its way: what it decides through, and what it is going to do."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from volcrypt.errors import (
    AccessDeniedError,
)
from volcrypt.formats.audit_record import Resource
from volcrypt.kms.keyring import is_connected
from volcrypt.kms.lifecycle import check_state, current_state
from volcrypt.kms.messages.base import NO_CONTEXT
from volcrypt.kms.model import Caller, KeyState, KmsKey, volume_service
from volcrypt.kms.policy import AccessRequest, Decision, evaluate, evaluate_account
from volcrypt.kms.view import Change

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect(Generic[T]):
    """What an allowed request does. `change` runs in the transaction, `act` after it."""

    act: Callable[[], T]
    change: Callable[[Change], None] | None = None


@dataclass(slots=True, kw_only=True)
class Attempt:
    """One request on its way. Decisions are made through it, so that it knows what to record.

    `now` is when it came, in seconds since 1970-01-01 UTC.
    """

    caller: Caller
    operation: str
    account: str
    region: str
    change: Change
    now: float
    parameters: dict[str, Any] | None
    request_id: str
    resources: list[Resource] = field(default_factory=list)
    response_elements: dict[str, Any] | None = None

    def authorise(
        self, key: KmsKey, action: str, *, context: Mapping[str, str] = NO_CONTEXT
    ) -> None:
        """Raises AccessDeniedError unless the key's policy lets the caller do `action`."""
        self.concern(key)
        self._demand(evaluate(key.policy, self._access(action, key.arn, context)), action, key.arn)

    def authorise_account(self, action: str, *, resource: str = "*") -> None:
        """The same for an action on the account, or on one of its aliases."""
        access = self._access(action, resource, NO_CONTEXT)
        self._demand(evaluate_account(access, account=self.account), action, resource)

    def check_state(self, key: KmsKey) -> None:
        """Raises KeyDisabledError, InvalidStateError, UnsupportedOperationError."""
        state = self.state_of(key)
        check_state(self.operation, arn=key.arn, state=state, origin=key.origin)

    def state_of(self, key: KmsKey) -> KeyState:
        """The key's state as this request sees it."""
        return current_state(key, now=self.now, is_connected=is_connected(self.change, key))

    def concern(self, key: KmsKey) -> None:
        """Record that the request is about this key."""
        resource = Resource(arn=key.arn, account_id=key.account)
        if resource not in self.resources:
            self.resources.append(resource)

    def _access(self, action: str, resource: str, context: Mapping[str, str]) -> AccessRequest:
        return AccessRequest(
            principal=self.caller.arn,
            principal_account=self.caller.account,
            action=f"kms:{action}",
            resource=resource,
            via_service=volume_service(self.region) if self.caller.via_service else None,
            encryption_context=context,
        )

    def _demand(self, decision: Decision, action: str, resource: str) -> None:
        if not decision.allowed:
            raise AccessDeniedError(
                f"User: {self.caller.arn} is not authorized to perform: kms:{action} "
                f"on resource: {resource} because {decision.reason}"
            )
