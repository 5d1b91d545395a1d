"""From a signed request to the caller: access keys, and the keys that verify signatures.

A signing key is derived once for an access key, day, region and service, where the HSM is (the
engine's thread), and kept; the secret that it comes from is not. What is kept may be out of date:
before a request is carried out, in the engine's thread, `check_current` looks whether its access
key is still what it was.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from volcrypt.errors import InvalidSignatureError, ThrottlingError, UnrecognizedClientError
from volcrypt.kms.model import Caller
from volcrypt.wire.claim import UNKNOWN_KEY, Claim, HttpRequest, check_claim, read_claim
from volcrypt.wire.engine import Engine
from volcrypt.wire.signature import check_signature, derive_signing_key

MAX_KEPT: Final = 4096
_SPARE_LOOKUPS: Final = 64
_USER_AGENT_CHARACTERS: Final = 256


class AccessKey(Protocol):
    """What is known of an access key besides its secret."""

    @property
    def id(self) -> str: ...
    @property
    def principal(self) -> str:
        """Whose it is, an ARN."""
        ...

    @property
    def account(self) -> str: ...
    @property
    def created_at(self) -> float: ...
    @property
    def is_active(self) -> bool: ...
    @property
    def is_for_volumes(self) -> bool: ...


class AccessKeys(Protocol):
    """Where access keys are; both are called in the engine's thread."""

    def find(self, id_: str, /) -> AccessKey | None: ...
    def open_secret(self, access_key: AccessKey, /) -> bytearray: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """An access key with what its signatures are verified by."""

    access_key: AccessKey
    signing_key: bytes

    def __repr__(self) -> str:
        return f"Known(access_key={self.access_key.id!r}, signing_key=<redacted>)"


class Credentials:
    """Called on the loop's thread, but for what says otherwise."""

    def __init__(
        self,
        access_keys: AccessKeys,
        engine: Engine,
        *,
        clock: Callable[[], float],
        regions: frozenset[str] = frozenset(),
    ) -> None:
        """`regions` are those that are served; all of them when empty."""
        self._access_keys = access_keys
        self._engine = engine
        self._clock = clock
        self._regions = regions
        self._kept: OrderedDict[tuple[str, str, str, str], Known] = OrderedDict()
        self._spare: OrderedDict[str, int] = OrderedDict()
        """How many more look-ups an access key that somebody signed with truly has for itself: the
        id is no secret, and who only knows that must not have as many as he likes."""

    async def authenticate(
        self, request: HttpRequest, *, service: str, may_look_up: Callable[[], bool]
    ) -> tuple[Known, Claim]:
        """Who signed. Raises MissingAuthenticationError, IncompleteSignatureError,
        UnrecognizedClientError, InvalidSignatureError; ThrottlingError for an access key that
        nobody signed with truly yet when `may_look_up` says no."""
        claim = read_claim(request)
        check_claim(claim, service=service, now=self._clock(), regions=self._regions)
        known = self._kept.get(_place(claim))
        if known is None:
            known = await self._found(claim, may_look_up)
            check_signature(request, claim, known.signing_key)
        else:
            self._kept.move_to_end(_place(claim))
            try:
                check_signature(request, claim, known.signing_key)
            except InvalidSignatureError:
                # Another key pair may have got its id meanwhile.
                if not may_look_up() or await self._engine.submit(partial(self._is_current, known)):
                    raise
                self.forget(claim)
                known = await self._found(claim, may_look_up)
                check_signature(request, claim, known.signing_key)
        self._spare[claim.access_key_id] = _SPARE_LOOKUPS
        self._spare.move_to_end(claim.access_key_id)
        if len(self._spare) > MAX_KEPT:
            self._spare.popitem(last=False)
        return known, claim

    def forget(self, claim: Claim) -> None:
        """The access key was changed: look it up again next time."""
        self._kept.pop(_place(claim), None)

    def check_current(self, known: Known) -> None:
        """In the engine's thread. Raises UnrecognizedClientError when the access key is not what
        it was."""
        if not self._is_current(known):
            raise UnrecognizedClientError(UNKNOWN_KEY)

    def _is_current(self, known: Known) -> bool:
        """In the engine's thread."""
        found = self._access_keys.find(known.access_key.id)
        return found is not None and _identity(found) == _identity(known.access_key)

    async def _found(self, claim: Claim, may_look_up: Callable[[], bool]) -> Known:
        """An access key that is not kept; it is from now on."""
        if not may_look_up() and not self._take_spare(claim.access_key_id):
            raise ThrottlingError("Rate exceeded")
        known: Known = await self._engine.submit(lambda: self._look_up(claim))
        self._kept[_place(claim)] = known
        if len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
        return known

    def _take_spare(self, access_key_id: str) -> bool:
        """Whether there was one."""
        left = self._spare.get(access_key_id, 0)
        if left:
            self._spare[access_key_id] = left - 1
        return left > 0

    def _look_up(self, claim: Claim) -> Known:
        """In the engine's thread."""
        access_key = self._access_keys.find(claim.access_key_id)
        if access_key is None or not access_key.is_active:
            raise UnrecognizedClientError(UNKNOWN_KEY)
        secret = self._access_keys.open_secret(access_key)
        try:
            signing_key = derive_signing_key(
                secret, date=claim.date, region=claim.region, service=claim.service
            )
        finally:
            secret[:] = bytes(len(secret))
        return Known(access_key=access_key, signing_key=signing_key)


def _place(claim: Claim) -> tuple[str, str, str, str]:
    """What a signing key is good for."""
    return claim.access_key_id, claim.date, claim.region, claim.service


def _identity(access_key: AccessKey) -> tuple[object, ...]:
    """What must still be so; how the secret is sealed may have changed, the secret cannot."""
    return (
        access_key.id,
        access_key.principal,
        access_key.account,
        access_key.is_active,
        access_key.is_for_volumes,
        access_key.created_at,
    )


def caller_of(access_key: AccessKey, request: HttpRequest, *, address: str) -> Caller:
    """The principal, with what the audit log says of where it is."""
    user_agent = request.header("user-agent") or "unknown"
    return Caller(
        arn=access_key.principal,
        account=access_key.account,
        via_service=access_key.is_for_volumes,
        source_address=address,
        user_agent=user_agent.encode(errors="replace").decode()[:_USER_AGENT_CHARACTERS],
        access_key_id=access_key.id,
        is_secure=request.is_secure,
    )
