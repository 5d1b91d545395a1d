"""The figures of the KMS, as a monitoring system reads them."""

import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Final

from volcrypt.daemons.openmetrics import Families, Figures
from volcrypt.kms.model import KeyState
from volcrypt.kms.service import KmsService
from volcrypt.wire.call_counts import LATENCY_BOUNDS, CallCounts
from volcrypt.wire.engine import Engine
from volcrypt.wire.flood import FloodGuard

CENSUS_SECONDS: Final = 60.0
_PAGE: Final = 128
"""Keys that are counted in one turn of the engine: requests wait no longer for it."""


class KmsMetrics:
    """Looks at the KMS in its engine's turn."""

    def __init__(
        self,
        service: KmsService,
        engine: Engine,
        guard: FloodGuard,
        counts: CallCounts,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._service = service
        self._engine = engine
        self._guard = guard
        self._counts = counts
        self._clock = clock
        self._states: Counter[str] = Counter()
        self._counted_at: float | None = None

    async def families(self) -> Families:
        """Keys are counted anew once a minute. Raises VolcryptError."""
        figures = Figures()
        self._requests(figures)
        head = await self._engine.run(self._service.audit_head)
        figures.count("volcrypt_kms_audit_records", "Records in the audit log.", head.sequence)
        figures.gauge(
            "volcrypt_kms_hsm_up",
            "1 when the HSM works with a key that is in it.",
            await self._engine.run(self._service.hsm_answers),
        )
        await self._take_census()
        for state in KeyState:
            figures.gauge(
                "volcrypt_kms_keys", "KMS keys.", self._states[state.value], state=state.value
            )
        return figures.families()

    def _requests(self, figures: Figures) -> None:
        for (operation, answer), count in sorted(self._counts.answers.items()):
            figures.count(
                "volcrypt_kms_requests",
                "Requests of somebody that is known.",
                count,
                operation=operation,
                answer=answer,
            )
        for operation, latencies in sorted(self._counts.latencies.items()):
            figures.times(
                "volcrypt_kms_request_seconds",
                "How long they took, with their wait.",
                LATENCY_BOUNDS,
                latencies,
                self._counts.nanoseconds[operation],
                operation=operation,
            )
        for code, count in sorted(self._guard.totals.items()):
            figures.count(
                "volcrypt_kms_unauthenticated_requests",
                "Requests that did not say truly who they are from.",
                count,
                answer=code,
            )
        figures.gauge(
            "volcrypt_kms_waiting_requests",
            "Requests that wait, or are carried out.",
            self._engine.waiting_count,
        )

    async def _take_census(self) -> None:
        now = self._clock()
        if self._counted_at is not None and now - self._counted_at < CENSUS_SECONDS:
            return
        states: Counter[str] = Counter()
        after: str | None = ""
        while after is not None:
            page = await self._engine.run(
                partial(self._service.count_states, after=after, limit=_PAGE)
            )
            states += page.states
            after = page.after
        self._states, self._counted_at = states, now
