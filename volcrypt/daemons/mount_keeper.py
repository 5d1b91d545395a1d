"""MountKeeper: has the service manager keep the mount of a process that serves it, so that another
can take it over (`volcrypt.volume.kept_mount`) when this one ends unasked.

It is kept from when the service manager listens to this process, after the first read that worked,
to the orderly end. Where the kernel cannot send requests again, or nobody keeps anything, a mount
ends with its process, as ever.
"""

import logging
import os
import select
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from volcrypt.daemons.notify import DescriptorStore
from volcrypt.errors import LostMountError, MountError
from volcrypt.volume.allocation import open_data
from volcrypt.volume.fence import FenceNote
from volcrypt.volume.kept_mount import (
    DATA,
    FACTS,
    FUSE,
    KEPT,
    OWNER,
    WITNESS,
    HandedMount,
    KeptMount,
    add_fence,
    mounted_device,
    write_facts,
)
from volcrypt.volume.launch import Assignment
from volcrypt.volume.owner import OwnerLock

_HINT: Final = "the mount has ended: detach it, check the file system, and attach it again"

_REFUSAL: Final = (
    "the mount ends with this process: the service manager keeps too few descriptors of it "
    "(FileDescriptorStoreMax=8)"
)
_REFUSAL_MILLISECONDS: Final = 200
"""systemd closes what it refuses in a thread of its own."""

_log: Final = logging.getLogger(__name__)


class MountKeeper:
    def __init__(
        self,
        store: DescriptorStore,
        assignment: Assignment,
        owner: OwnerLock,
        *,
        data: int,
        facts: int | None,
    ) -> None:
        """Internal: use `of`. Takes the descriptors over; with `facts` it is kept already."""
        self._store = store
        self._assignment = assignment
        self._owner = owner
        self._data = data
        self._facts = facts
        self._witness: int | None = None
        # Whoever keeps and forgets waits for the service manager, in threads.
        self._turn = threading.Lock()
        self._has_ended = False
        if facts is not None:
            owner.keep()

    @classmethod
    def of(
        cls, assignment: Assignment, owner: OwnerLock, handed: HandedMount | None
    ) -> Self | None:
        """None where nobody keeps it. Before the data file is written to by this process.

        Raises LostMountError when what was handed on is of no use.
        """
        if assignment.keeper is None:
            return None
        store = DescriptorStore(assignment.keeper)
        if handed is None:
            data, _ = open_data(Path(assignment.data_path), os.O_RDONLY)
            return cls(store, assignment, owner, data=data, facts=None)
        keeper = cls(store, assignment, owner, data=handed.data, facts=handed.facts)
        try:
            # Also what the process before this one wrote, and an error that only that one was told.
            os.fdatasync(handed.data)
        except OSError as error:
            raise LostMountError(
                f"what was written to volume {assignment.label} is lost: {error.strerror}",
                hint=_HINT,
            ) from error
        data_path = Path(assignment.data_path)
        if data_path.exists() and not os.path.samestat(os.fstat(handed.data), data_path.stat()):
            # Nobody knows what the process before this one was told of the new data.
            raise LostMountError(
                f"the process of volume {assignment.label} ended as it went over to new data",
                hint=_HINT,
            )
        return keeper

    @property
    def is_kept(self) -> bool:
        """As far as the service manager lets us know; of what was handed to this process until
        `confirm` has asked, yes."""
        witness = self._witness
        return self._facts is not None and (witness is None or not _has_hung_up(witness))

    def keep(self, fuse: int, agreement: tuple[bytes, bytes]) -> None:
        """Have the mount with this connection kept, if it is not yet. A service manager that does
        not is no reason not to serve."""
        with self._turn:
            if self._facts is None and not self._has_ended:
                self._keep(fuse, agreement)

    def confirm(self) -> None:
        """Find out whether what was handed to this process is kept further."""
        with self._turn:
            if self._facts is not None and not self._has_ended:
                self._confirm(self._facts, {})

    def _confirm(self, facts: int, kept: Mapping[str, int]) -> None:
        """Have this kept, and a witness after it: was there room for that, there was for all."""
        self._witness, writer = os.pipe2(os.O_CLOEXEC)
        try:
            self._store.keep({**kept, WITNESS: writer})
        except OSError as error:
            _log.warning("the mount ends with this process: the service manager: %s", error)
            self._drop(facts)
            return
        finally:
            os.close(writer)
        self._facts = facts
        if _has_hung_up(self._witness, _REFUSAL_MILLISECONDS):
            _log.warning(_REFUSAL)
            self._drop(facts)

    def _keep(self, fuse: int, agreement: tuple[bytes, bytes]) -> None:
        assignment = self._assignment
        directory = Path(assignment.mount_directory)
        try:
            device = mounted_device(directory)
        except MountError:
            return  # it has just been unmounted
        mount = KeptMount(
            volume_id=assignment.volume_id,
            mount_directory=str(directory),
            device=device,
            read_only=assignment.read_only,
            discard=assignment.discards.requests,
            discard_zeros=assignment.discards.zeros,
            init_request=agreement[0],
            init_reply=agreement[1],
            lease_epoch=assignment.lease_epoch,
        )
        if not mount.resends:
            _log.warning("the mount ends with this process: that takes Linux 6.9")
            return
        facts = write_facts(mount)
        kept = {FUSE: fuse, OWNER: self._owner.descriptor, DATA: self._data, FACTS: facts}
        self._owner.keep()
        self._confirm(facts, kept)

    def note_fence(self, note: FenceNote) -> None:
        """Whoever takes the mount over is to leave it fenced."""
        if self._facts is not None:
            add_fence(self._facts, note)

    def follow(self, data_path: Path) -> None:
        """Other data is served from now on; before this process writes to that alone. `kept_anew`
        is to be called next: until it returns, the end of this process is the mount's."""
        data, _ = open_data(data_path, os.O_RDONLY)
        with self._turn:
            os.dup2(data, self._data, inheritable=False)
        os.close(data)

    def kept_anew(self) -> None:
        """Have the service manager keep what `follow` opened, or nothing."""
        with self._turn:
            if self._facts is None:
                return
            try:
                self._store.keep({DATA: self._data})
            except OSError as error:
                _log.warning("the mount ends with this process: the service manager: %s", error)
                self._forget()

    def forget(self) -> None:
        """The mount ends with this process."""
        with self._turn:
            self._has_ended = True
            self._forget()

    def _forget(self) -> None:
        if self._facts is not None:
            self._drop(self._facts)

    def _drop(self, facts: int) -> None:
        self._facts = None
        os.close(facts)
        self._owner.is_kept = False
        with suppress(OSError):
            self._store.forgotten(KEPT)
        witness, self._witness = self._witness, None
        if witness is not None:
            os.close(witness)

    def close(self) -> None:
        """Our copy of the data file."""
        os.close(self._data)


def _has_hung_up(reader: int, milliseconds: int = 0) -> bool:
    """Whether nobody has the other end of a pipe, or gives it up in this time."""
    poll = select.poll()
    poll.register(reader, 0)  # POLLHUP alone
    return bool(poll.poll(milliseconds))
