"""Counting encryptions under each key material, so that none is used 2^32 times.

    calls    id = material id    body = Calls

A process takes calls out of the catalogue in blocks, before it uses them: what it does not use is
lost, what it uses is counted, whatever happens to it. Blocks grow, so that a short command takes
few and a daemon seldom comes back. A block may be used by the very requests that share the
transaction which takes it, and by later ones when it is durable.
"""

import threading
from dataclasses import dataclass
from typing import Final

import msgspec

from volcrypt.errors import LimitExceededError
from volcrypt.kms.model import KeyMaterial
from volcrypt.kms.sealing import Item
from volcrypt.kms.view import Change

CALLS: Final = "calls"
MAX_CALLS: Final = 2**32
"""Encryptions under one key material with random IVs (NIST SP 800-38D, 8.3)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """How many encryptions under a material were handed out, used or not."""

    leased: int


class CallCounter:
    """One per process and home. Safe for several threads; one change at a time, as in a
    catalogue."""

    FIRST_BLOCK: Final = 16
    LARGEST_BLOCK: Final = 2**16

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._left: dict[str, int] = {}
        self._next_block: dict[str, int] = {}
        self._change: Change | None = None
        self._taken: dict[str, int] = {}
        """What is left of the blocks that `_change` takes; they are ours when it is durable."""

    def take(self, change: Change, material: KeyMaterial) -> None:
        """Take one call, for an effect that waits until the change is durable. Raises
        LimitExceededError when the material is used up."""
        id_ = material.material_id
        with self._mutex:
            if self._left.get(id_, 0) > 0:
                self._left[id_] -= 1
                return
            if change is not self._change:
                # What another change took, and did not make durable, was never ours.
                self._change, self._taken = change, {}
            if self._taken.get(id_, 0) == 0:
                self._taken[id_] = self._take_block(change, id_)
            self._taken[id_] -= 1

    def _take_block(self, change: Change, id_: str) -> int:
        item = change.get(CALLS, id_)
        leased = 0 if item is None else item.decoded(Calls).leased
        block = min(self._next_block.get(id_, self.FIRST_BLOCK), MAX_CALLS - leased)
        if block <= 0:
            raise LimitExceededError(
                f"key material {id_} has encrypted {MAX_CALLS} times, its key must be rotated"
            )
        change.put(Item(kind=CALLS, id=id_, body=msgspec.json.encode(Calls(leased=leased + block))))
        self._next_block[id_] = min(block * 8, self.LARGEST_BLOCK)
        change.when_durable.append(lambda: self._credit(change, id_))
        return block

    def _credit(self, change: Change, id_: str) -> None:
        with self._mutex:
            if change is self._change:
                self._left[id_] = self._left.get(id_, 0) + self._taken.pop(id_, 0)
