"""One request on its way: what it decides through, and what it is going to do."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from volcrypt.errors import AccessDeniedError, PrincipalAccessDeniedError
from volcrypt.formats.audit_record import Resource
from volcrypt.kms.authorisation import Question
from volcrypt.kms.facts import NOTHING_GIVEN, Given
from volcrypt.kms.grants import Grant, Permission
from volcrypt.kms.keyring import is_connected
from volcrypt.kms.lifecycle import check_state, current_state
from volcrypt.kms.messages.base import NO_CONTEXT, Request
from volcrypt.kms.model import Caller, KeyState, KmsKey
from volcrypt.kms.policy import Decision, refuse_unseen
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

    `now` is when it came, in seconds since 1970-01-01 UTC. `request` is None for one that could
    not be read.
    """

    caller: Caller
    operation: str
    account: str
    region: str
    change: Change
    request: Request[Any] | None
    now: float
    parameters: dict[str, Any] | None
    request_id: str
    resources: list[Resource] = field(default_factory=list)
    response_elements: dict[str, Any] | None = None
    named_as: dict[str, str] = field(default_factory=dict)
    """Keys of other accounts by ARN, and what the request called them: all that a refusal says."""

    @property
    def event_source(self) -> str:
        return (self.request or Request).EVENT_SOURCE

    def authorise(
        self,
        key: KmsKey,
        action: str,
        *,
        context: Mapping[str, str] = NO_CONTEXT,
        grant_tokens: Sequence[str] = (),
        facts: Given = NOTHING_GIVEN,
        passed_on: Permission | None = None,
    ) -> None:
        """Raises AccessDeniedError unless key policy, identity policies or a grant let the caller
        do `action` with the key, InvalidGrantTokenError.

        `facts` are condition keys of this request with their values, beside those that follow from
        caller, key, context and the request's members. `passed_on` is what a CreateGrant gives.
        """
        self.concern(key)
        decision = self._question().on_key(
            key,
            action,
            context=context,
            grant_tokens=grant_tokens,
            given=facts,
            passed_on=passed_on,
        )
        self._demand(decision, f"kms:{action}", key.arn, hint=_hint_on_key(decision))

    def authorise_account(
        self,
        action: str,
        *,
        resource: str = "*",
        facts: Given = NOTHING_GIVEN,
        service: str = "kms",
    ) -> None:
        """The same for an action that no key policy is asked for: on the account, on one of its
        aliases or principals. `service` is `iam` for those on principals."""
        name = f"{service}:{action}"
        decision = self._question().in_account(
            name, account=self.account, resource=resource, given=facts
        )
        self._demand(decision, name, resource, hint=PrincipalAccessDeniedError.hint)

    def authorise_retiring(self, grant: Grant, key: KmsKey) -> None:
        """The same for the retirement of a grant, which is up to the grant."""
        self.concern(key)
        decision = self._question().on_retiring(grant, key)
        self._demand(decision, "kms:RetireGrant", key.arn, hint=_hint_on_key(decision))

    def may_change_policy(
        self, policy: str, *, arn: str, account: str, tags: Mapping[str, str]
    ) -> bool:
        """Whether a key's new policy would let the caller change it again."""
        return self._question().may_change_policy(policy, arn=arn, account=account, tags=tags)

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

    def _question(self) -> Question:
        return Question(
            view=self.change,
            caller=self.caller,
            region=self.region,
            operation=self.operation,
            request=self.request,
            now=self.now,
        )

    def _demand(self, decision: Decision, action: str, resource: str, *, hint: str | None) -> None:
        if decision.allowed:
            return
        is_about_keys = action.startswith("kms:")
        error = AccessDeniedError if is_about_keys else PrincipalAccessDeniedError
        raise error(
            f"User: {self.caller.arn} is not authorized to perform: {action} "
            f"on resource: {self.named_as.get(resource, resource)} {decision.reason}",
            hint=hint,
        )

    def unseen(self, named: str) -> AccessDeniedError:
        """The refusal of what may or may not be in another account."""
        return AccessDeniedError(
            f"User: {self.caller.arn} is not authorized to perform: kms:{self.operation} "
            f"on resource: {named} {refuse_unseen().reason}"
        )


def _hint_on_key(decision: Decision) -> str | None:
    """Where the key's policy leaves it to identity policies, either of them can be changed."""
    if not decision.is_left_to_identity:
        return None
    return (
        "'volcrypt principal put-policy' says what a user may do, "
        "'volcrypt kms get-key-policy' who may use the key"
    )
