"""Requests of nobody: how many are let through, and what is remembered of them. Pure.

Who has no valid signature costs little: a token bucket for each address bounds how often it makes
us look up an access key, and a summary a minute is all that the audit log gets. Both are bounded,
however many addresses there are: the one seen longest ago is forgotten first, and IPv6 addresses
count by their /64, which is what one host has.
"""

import ipaddress
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Any, Final

BURST: Final = 100.0
PER_SECOND: Final = 10.0
MAX_ADDRESSES: Final = 1024
_SHOWN_ADDRESSES: Final = 10
_IPV6_NETWORK_BITS: Final = 64


@dataclass(slots=True)
class _Bucket:
    tokens: float
    updated_at: float
    failures: int = 0


class FloodGuard:
    """Times are seconds on any clock that only goes forward."""

    def __init__(
        self,
        *,
        burst: float = BURST,
        per_second: float = PER_SECOND,
        max_addresses: int = MAX_ADDRESSES,
    ) -> None:
        self._burst = burst
        self._per_second = per_second
        self._max_addresses = max_addresses
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self._by_error: Counter[str] = Counter()
        self.totals: Counter[str] = Counter()
        """By error code, since the beginning."""
        self._throttled = 0

    def is_open(self, address: str, now: float) -> bool:
        """Whether an access key that we do not know yet may be looked up for this address."""
        bucket = self._buckets.get(network_of(address))
        return bucket is None or self._filled(bucket, now) >= 1

    def note_failure(self, address: str, code: str, now: float) -> bool:
        """Count a request that failed to say who it is from; False when there were too many."""
        bucket = self._bucket(network_of(address), now)
        bucket.tokens = self._filled(bucket, now)
        bucket.updated_at = now
        bucket.failures += 1
        self._by_error[code] += 1
        self.totals[code] += 1
        if bucket.tokens < 1:
            self._throttled += 1
            return False
        bucket.tokens -= 1
        return True

    def take_summary(self) -> dict[str, Any] | None:
        """What was counted since the last call, as details of an audit event; None for nothing."""
        if not self._by_error:
            return None
        counted = [(b.failures, a) for a, b in self._buckets.items() if b.failures]
        shown = sorted(counted, reverse=True)[:_SHOWN_ADDRESSES]
        summary = {
            "requests": self._by_error.total(),
            "throttled": self._throttled,
            "byErrorCode": dict(self._by_error),
            "byAddress": {address: failures for failures, address in shown},
            "fromOtherAddresses": self._by_error.total() - sum(failures for failures, _ in shown),
        }
        self._by_error.clear()
        self._throttled = 0
        for bucket in self._buckets.values():
            bucket.failures = 0
        return summary

    @property
    def address_count(self) -> int:
        return len(self._buckets)

    def _filled(self, bucket: _Bucket, now: float) -> float:
        return min(self._burst, bucket.tokens + (now - bucket.updated_at) * self._per_second)

    def _bucket(self, address: str, now: float) -> _Bucket:
        bucket = self._buckets.get(address)
        if bucket is None:
            if len(self._buckets) >= self._max_addresses:
                self._buckets.popitem(last=False)
            bucket = self._buckets[address] = _Bucket(self._burst, now)
        self._buckets.move_to_end(address)
        return bucket


def network_of(address: str) -> str:
    """What counts as one sender."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, _IPV6_NETWORK_BITS), strict=False))
