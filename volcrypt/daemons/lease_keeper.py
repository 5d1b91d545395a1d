"""What happens when nobody can say any more whether a volume's lease is held.

    EARLY_SECONDS before the gate closes    what was written is synced, so that little is left
    the gate closes (`volume.lease_gate`)   writes and syncs wait; reads of what is here do not
    then                                    writes under way end, and all is synced: nothing may
                                            reach a shared device late, out of the page cache
    the lease is held                       writes go on
    it was lost                             the volume is fenced (`daemons.fencing`)

Whoever overrides the lease waits for longer than that takes: `operations.leases.TAKE_OVER_SECONDS`.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from volcrypt.errors import VolcryptError
from volcrypt.volume.device import Device
from volcrypt.volume.lease_gate import LeaseGate

EARLY_SECONDS: Final = 15.0
LOOK_SECONDS: Final = 1.0
_SETTLINGS: Final = 2
"""The second is for what a fetch of an absent chunk was just writing at the first."""

_log: Final = logging.getLogger(__name__)


async def keep_lease(gate: LeaseGate, device: Device) -> None:
    """From when the gate was first open until the volume is fenced."""
    is_synced = False
    settled = 0
    while not device.admission.is_fenced:
        await trio.sleep(LOOK_SECONDS)
        if gate.left_seconds > EARLY_SECONDS:
            if settled:
                _log.warning("the lease is held: writes go on")
            is_synced, settled = False, 0
        elif gate.is_open:
            if not is_synced:
                is_synced = True
                await _try(device.settle)
        elif settled < _SETTLINGS:
            if not settled:
                _log.warning("whether the lease is held cannot be told: writes wait")
            settled += 1
            await _try(device.quiesce)


async def _try(step: Callable[[], Awaitable[None]]) -> None:
    try:
        await step()
    except (VolcryptError, OSError) as error:
        _log.error("what was written is not on the medium: %s", error)
