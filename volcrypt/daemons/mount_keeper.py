"""MountKeeper: has the service manager keep the mount of a process that serves it, so that another
can take it over (`volcrypt.volume.kept_mount`) when this one ends unasked.

It is kept from the first read that worked to the orderly end. Where the kernel cannot send requests
again, or nobody keeps anything, a mount ends with its process, as ever.
"""

import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from volcrypt.daemons.notify import DescriptorStore
from volcrypt.errors import MountError
from volcrypt.volume.allocation import open_data
from volcrypt.volume.fence import FenceNote
from volcrypt.volume.kept_mount import (
    DATA,
    FACTS,
    FUSE,
    NAMES,
    OWNER,
    HandedMount,
    KeptMount,
    add_fence,
    mounted_device,
    write_facts,
)
from volcrypt.volume.launch import Assignment
from volcrypt.volume.owner import OwnerLock

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
        if facts is not None:
            owner.keep()

    @classmethod
    def of(
        cls, assignment: Assignment, owner: OwnerLock, handed: HandedMount | None
    ) -> Self | None:
        """None where nobody keeps it. Before the data file is written to by this process.

        Raises MountError when what was handed on is of no use; then it is not kept any more.
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
            keeper.forget()
            raise MountError(
                f"what was written to volume {assignment.label} is lost: {error.strerror}",
                hint="the mount has ended: detach it, check the file system, and attach it again",
            ) from error
        return keeper

    @property
    def is_kept(self) -> bool:
        return self._facts is not None

    def keep(self, fuse: int, agreement: tuple[bytes, bytes]) -> None:
        """Have the mount with this connection kept, if it is not yet. A service manager that does
        not is no reason not to serve."""
        if self.is_kept:
            return
        assignment = self._assignment
        directory = Path(assignment.mount_directory)
        mount = KeptMount(
            volume_id=assignment.volume_id,
            mount_directory=str(directory),
            device=mounted_device(directory),
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
        try:
            self._store.keep(kept)
        except OSError as error:
            _log.warning("the mount ends with this process: the service manager: %s", error)
            os.close(facts)
            return
        self._facts = facts
        self._owner.keep()

    def note_fence(self, note: FenceNote) -> None:
        """Whoever takes the mount over is to leave it fenced."""
        if self._facts is not None:
            add_fence(self._facts, note)

    def forget(self) -> None:
        """The mount ends with this process."""
        if self._facts is None:
            return
        os.close(self._facts)
        self._facts = None
        self._owner.is_kept = False
        with suppress(OSError):
            self._store.forgotten(NAMES)

    def close(self) -> None:
        """Our copy of the data file."""
        os.close(self._data)
