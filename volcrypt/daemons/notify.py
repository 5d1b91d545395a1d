"""Talking to systemd: the protocol of sd_notify(3) and of its file descriptor store, and what a
service finds at its start (sd_listen_fds(3))."""

import os
import select
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

_FIRST_PASSED: Final = 3
_BARRIER_SECONDS: Final = 10.0


def notify(state: str) -> None:
    """Send `READY=1`, `STOPPING=1` and the like; does nothing outside of a notify service."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        # A manager that does not listen is no reason to stop serving.
        with suppress(OSError):
            _send(address, state)


class DescriptorStore:
    """Where a service manager, which listens at `address` (NOTIFY_SOCKET), keeps descriptors for
    the next process of a service. It gives no answer: those that it has no room for it closes."""

    def __init__(self, address: str) -> None:
        self._address = address

    def keep(self, descriptors: Mapping[str, int]) -> None:
        """Have it keep a copy of each under its name, in place of what it had under that; returns
        when it has read that. Raises OSError, TimeoutError."""
        self.forget(list(descriptors))
        for name, descriptor in descriptors.items():
            _send(self._address, f"FDSTORE=1\nFDNAME={name}", [descriptor])
        self._synchronize()

    def forget(self, names: Sequence[str]) -> None:
        """Have it close what it keeps under these names. Raises OSError."""
        for name in names:
            _send(self._address, f"FDSTOREREMOVE=1\nFDNAME={name}")

    def forgotten(self, names: Sequence[str]) -> None:
        """The same, and wait until it has. Raises OSError, TimeoutError."""
        self.forget(names)
        self._synchronize()

    def _synchronize(self) -> None:
        """Messages are read in order, and of a process that has ended meanwhile they are not
        believed."""
        reader, writer = os.pipe2(os.O_CLOEXEC)
        try:
            try:
                _send(self._address, "BARRIER=1", [writer])
            finally:
                os.close(writer)
            poll = select.poll()
            poll.register(reader, 0)  # its end alone
            if not poll.poll(_BARRIER_SECONDS * 1000):
                raise TimeoutError("the service manager does not read what it is told")
        finally:
            os.close(reader)


def passed_descriptors(environment: Mapping[str, str], pid: int) -> dict[str, int]:
    """The descriptors that the service manager gave to process `pid`, by name; of several with one
    name the first. They are not inherited any further."""
    if environment.get("LISTEN_PID") != str(pid):
        return {}
    count = environment.get("LISTEN_FDS", "")
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    found: dict[str, int] = {}
    if count.isascii() and count.isdigit():
        for descriptor, name in zip(
            range(_FIRST_PASSED, _FIRST_PASSED + int(count)), names, strict=False
        ):
            os.set_inheritable(descriptor, False)
            found.setdefault(name, descriptor)
    return found


def _send(address: str, message: str, descriptors: Sequence[int] = ()) -> None:
    if address.startswith("@"):
        address = "\0" + address[1:]  # the abstract namespace
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.connect(address)
        if descriptors:
            socket.send_fds(channel, [message.encode()], list(descriptors))
        else:
            channel.send(message.encode())
