"""Fencing a volume: what is asked while it is served, and what the answers mean. Values only.

A process that serves a volume may have a *watcher* beside it (`volcrypt.daemons.watch`), which asks
from time to time whether the volume may still be served here: the *checks* of a WatchOrder. Each
check has one of three answers:

    Held         yes
    Unanswered   nobody could tell: unreachable, busy, no PIN, a strange answer. Nothing is lost by
                 that, however long it lasts; `status` says since when. Without word of its lease
                 a volume is not written to (`volcrypt.volume.lease_gate`)
    Lost         a definite no. The volume is fenced: no request is served any more, and the key is
                 wiped (`volcrypt.daemons.fencing`)

Order and answers go over a socket pair, one line of JSON each.
"""

from typing import Final

import msgspec

from volcrypt.errors import FencedError, MalformedError


class _Document(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"
):
    """One line, in either direction, or a part of one."""


class KeyCheckOrder(_Document, frozen=True, tag="key"):
    """Whether the KMS still lets `principal` decrypt a wrapped data key. Holds no secret.

    The principal is that which the key was given to: the host with its grant, or whoever another
    KMS knows by the profile's credentials.
    """

    kms_key_arn: str
    ciphertext: bytes
    encryption_context: dict[str, str]
    principal: str
    account: str


class LeaseCheckOrder(_Document, frozen=True, tag="lease"):
    """Whether this host still has the lease of a volume that several can reach."""

    volume_id: str


CheckOrder = KeyCheckOrder | LeaseCheckOrder


class WatchOrder(_Document, frozen=True, tag="watch"):
    """What a watcher asks every `interval_seconds`, as a client of the home in this profile."""

    home: str
    profile: str
    region: str | None
    interval_seconds: float
    checks: list[CheckOrder]


class Held(_Document, frozen=True, tag="held"):
    """`asked_at` is when the question was begun, by `lease_time.boot_seconds`."""

    check: str
    asked_at: float = 0.0


class Unanswered(_Document, frozen=True, tag="unanswered"):
    check: str
    reason: str


class Lost(_Document, frozen=True, tag="lost"):
    check: str
    reason: str


WatchAnswer = Held | Unanswered | Lost

_orders = msgspec.json.Decoder(WatchOrder)
_answers = msgspec.json.Decoder(WatchAnswer)


class CheckState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One check, for who asks how things are. Times are seconds since 1970.

    `answered_at` is the last time that somebody could tell; `problem` is why nobody could since
    `unanswered_since`, and both are None while the last answer was one.
    """

    check: str
    answered_at: float | None = None
    unanswered_since: float | None = None
    problem: str | None = None

    def after(self, answer: WatchAnswer, now: float) -> "CheckState":
        """The state when `answer` came at `now`."""
        if not isinstance(answer, Unanswered):
            return CheckState(check=self.check, answered_at=now)
        since = self.unanswered_since
        return CheckState(
            check=self.check,
            answered_at=self.answered_at,
            unanswered_since=now if since is None else since,
            problem=answer.reason,
        )


class FenceNote(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why and when (seconds since 1970) a volume was fenced; and when its key was gone from memory,
    None while a request is under way that still uses it."""

    reason: str
    fenced_at: float
    wiped_at: float | None = None

    def error(self) -> FencedError:
        return FencedError(self.reason)


def check_name(check: CheckOrder) -> str:
    """What answers and `status` call a check."""
    return str(type(check).__struct_config__.tag)


LEASE_CHECK: Final = str(LeaseCheckOrder.__struct_config__.tag)


def encode(document: WatchOrder | WatchAnswer) -> bytes:
    """The line of a document."""
    return msgspec.json.encode(document) + b"\n"


def decode_order(line: bytes) -> WatchOrder:
    """Raises MalformedError."""
    try:
        return _orders.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError("watch order", "it does not parse") from error


def decode_answer(line: bytes) -> WatchAnswer:
    """Raises MalformedError."""
    try:
        answer: WatchAnswer = _answers.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError("answer of a watcher", "it does not parse") from error
    return answer
