"""ObjectStore: the port to where objects lie, shaped like S3. What each promise means is a test in
`tests/conformance/test_objects.py`, which every implementation passes.

Names are flat: segments of letters, digits, `.`, `_` and `-`, joined by `/`. Objects are written
whole or not at all, and never change, but by `replace`. All methods may be called by several
threads and processes at once; all may raise ObjectStoreError, and those that write NoSpaceError.
"""

from collections.abc import Iterator
from typing import Protocol

from typing_extensions import Buffer


class ObjectStore(Protocol):
    """Objects by name."""

    @property
    def location(self) -> str:
        """For messages: where this is."""
        ...

    @property
    def in_flight(self) -> int:
        """How many calls at once make good use of it."""
        ...

    def put_if_absent(self, name: str, data: Buffer, *, batched: bool = False) -> bool:
        """Store `data` as `name`; False when there is such an object already, which stays as it is.

        False may also mean an earlier try of this very call, where a network lies in between: who
        must be the first compares what is there with `data`.

        The object is durable on return, or with `batched` after the next `sync`. A power cut
        before that may leave the name with fewer or other bytes: a name of many batched objects
        must tell what its bytes should be.
        """
        ...

    def replace(self, name: str, data: Buffer, *, batched: bool = False) -> None:
        """Store `data` as `name` in place of what is there, if anything.

        Durable on return, or with `batched` after the next `sync`: a power cut before that may
        leave the name with what was there, with `data`, or with neither.
        """
        ...

    def get(self, name: str) -> bytes:
        """Raises ObjectNotFoundError."""
        ...

    def get_into(self, name: str, buffer: Buffer) -> int:
        """Read the object's first bytes into `buffer`; answers its whole length.

        Raises ObjectNotFoundError.
        """
        ...

    def list(self, prefix: str) -> Iterator[str]:
        """The names that start with `prefix`, in no promised order.

        Objects put or deleted while the list is read may be in it or not.
        """
        ...

    def delete(self, name: str) -> None:
        """Forget the object, if it is there; for good after the next `sync`."""
        ...

    def sync(self) -> None:
        """Everything that was put or deleted through this port before is durable afterwards.

        When it fails, batched objects since the last `sync` may be lost, and nothing more can be
        written through this port.
        """
        ...
