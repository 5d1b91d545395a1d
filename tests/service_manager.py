"""A small systemd: starts a command as a service, keeps its descriptors, starts it again.

It speaks the protocols of sd_notify(3), sd_pid_notify_with_fds(3) and sd_listen_fds(3): what a
service sends with FDSTORE=1 is kept, and passed to its next process; all of it is closed when the
service is given up. Messages are read by a thread; `BARRIER=1` is answered when all before it were.
"""

import array
import os
import select
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from volcrypt.volume.kept_mount import KEPT

_READY_SECONDS: Final = 60


class ServiceManager:
    def __init__(self, directory: Path, *, max_descriptors: int = 8) -> None:
        self.address = directory / "notify"
        self.kept: list[tuple[str, int]] = []
        self.messages: list[str] = []
        self.main_pid = 0
        self.errors = ""
        self._max = max_descriptors
        self._changed = threading.Condition()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.bind(str(self.address))
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def has_room(self) -> bool:
        """For all that a volume's process wants to have kept."""
        return self._max >= len(KEPT)

    @property
    def names(self) -> list[str]:
        with self._changed:
            self._drop()
            return sorted(name for name, _ in self.kept)

    def _drop(self) -> None:
        """What has hung up, or of which nobody has the other end; as systemd does."""
        poll = select.poll()
        for _, descriptor in self.kept:
            poll.register(descriptor, 0)
        gone = {descriptor for descriptor, _ in poll.poll(0)}
        for each in [each for each in self.kept if each[1] in gone]:
            self.kept.remove(each)
            os.close(each[1])

    def start(self, command: Sequence[str | Path], *, expect_ready: bool = True) -> int:
        """Start the service, and wait until it is ready, or with not `expect_ready` until it has
        failed; its exit code, if it has ended."""
        with self._changed:
            self._drop()
            kept = list(self.kept)
            self.main_pid = 0
            before = len(self.messages)
        # The descriptors are to be 3, 4, ... in the child.
        high = [os.dup(descriptor) for _, descriptor in kept]
        environment = {**os.environ, "NOTIFY_SOCKET": str(self.address)}
        if kept:
            environment["LISTEN_FDS"] = str(len(kept))
            environment["LISTEN_FDNAMES"] = ":".join(name for name, _ in kept)
        script = "".join(f" {3 + i}<&{descriptor}" for i, descriptor in enumerate(high))
        closing = "".join(f" {descriptor}<&-" for descriptor in high if descriptor >= 3 + len(high))
        process = subprocess.Popen(
            [
                "bash",
                "-c",
                f'export LISTEN_PID=$$; exec "$@"{script}{closing}',
                "service",
                *command,
            ],
            env=environment,
            pass_fds=high,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for descriptor in high:
            os.close(descriptor)
        _, self.errors = process.communicate(timeout=_READY_SECONDS)
        if not expect_ready:
            assert process.returncode, "it did not fail"
            return process.returncode
        assert process.returncode == 0, self.errors
        with self._changed:
            assert self._changed.wait_for(
                lambda: any("READY=1" in each for each in self.messages[before:]), _READY_SECONDS
            )
        return 0

    def passed(self) -> dict[str, int]:
        """Copies of what is kept, by name."""
        with self._changed:
            return {name: os.dup(descriptor) for name, descriptor in self.kept}

    def wait_for_end(self) -> None:
        """Of the main process, which is not our child."""
        with suppress(ProcessLookupError), open(os.pidfd_open(self.main_pid)) as process:
            assert select.select([process], [], [], _READY_SECONDS)[0]

    def give_up(self) -> None:
        """Close what is kept, as systemd does when a unit has failed for good."""
        with self._changed:
            for _, descriptor in self.kept:
                os.close(descriptor)
            self.kept.clear()

    def close(self) -> None:
        self._ended = True
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as wake:
            wake.sendto(b"", str(self.address))
        self._reader.join()
        self._socket.close()
        self.give_up()

    def wait_until_kept(self, names: Sequence[str]) -> None:
        deadline = time.monotonic() + 30
        while self.names != sorted(names):
            assert time.monotonic() < deadline, self.names
            time.sleep(0.01)

    def _read(self) -> None:
        while not self._ended:
            data, ancillary, _, _ = self._socket.recvmsg(4096, 4096, socket.MSG_CMSG_CLOEXEC)
            descriptors = array.array("i")
            for _, _, content in ancillary:
                descriptors.frombytes(content)
            with self._changed:
                self._take(data.decode(), list(descriptors))
                self._changed.notify_all()

    def _take(self, message: str, descriptors: list[int]) -> None:
        lines = dict(line.partition("=")[::2] for line in message.splitlines())
        self.messages.append(message)
        name = lines.get("FDNAME", "stored")
        if "MAINPID" in lines:
            self.main_pid = int(lines["MAINPID"])
        if lines.get("FDSTORE") == "1":
            room = self._max - len(self.kept)
            self.kept += [(name, descriptor) for descriptor in descriptors[:room]]
            descriptors = descriptors[room:]
        elif lines.get("FDSTOREREMOVE") == "1":
            for each in [each for each in self.kept if each[0] == name]:
                self.kept.remove(each)
                os.close(each[1])
        for descriptor in descriptors:
            os.close(descriptor)


@contextmanager
def service_manager(directory: Path, *, max_descriptors: int = 8) -> Iterator[ServiceManager]:
    manager = ServiceManager(directory, max_descriptors=max_descriptors)
    try:
        yield manager
    finally:
        manager.close()
