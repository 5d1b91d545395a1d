"""The process that freezes one file system, and thaws it whatever happens: `--channel-fd`,
`--directory-fd`, `--seconds`.

A frozen file system stops everybody who writes to it, so its thaw must not depend on a process that
may be killed, stopped, swapped out or stuck. This one does nothing else: all of its memory is
locked before it freezes anything, no signal but SIGKILL reaches it, the kernel does not kill it for
memory, and it opens no file any more. Lines on the channel, a socket pair with whoever started it
(`volcrypt.operations.freezers`):

    it says         then it waits for
    ready           "freeze": what could be written before has been, so the freeze will be short
    frozen          "thaw", the end of the channel, or the deadline, whichever comes first
    thawing         nothing: the deadline had not come, so it begins to thaw
    thawed          nothing: it was frozen all the time, and is not any more
    expired         nothing: the deadline came first, and it was thawed
    lost            nothing: somebody else had thawed it
    error NUMBER    nothing: errno of what could not be done; nothing is frozen

A thaw writes to the file system, and so waits for whoever keeps that write waiting. Should the
process be killed all the same, or stopped, the other side sees it, and thaws.
"""

import argparse
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

from volcrypt.confinement import lock_present_memory
from volcrypt.volume.freezing import freeze, sync_file_system, thaw


def freeze_and_thaw(channel: socket.socket, directory: int, seconds: float) -> None:
    """The whole life of the process; `seconds` is how long the file system may be frozen."""
    try:
        sync_file_system(directory)
        _say(channel, "ready")
        if channel.recv(64) != b"freeze\n":
            return
        # From before it is frozen: that writers wait begins there.
        deadline = time.monotonic() + seconds
        freeze(directory)
    except OSError as error:
        _say(channel, f"error {error.errno}")
        return
    outcome = "thawed"
    try:
        _say(channel, "frozen")
        if select.select([channel], [], [], max(0.0, deadline - time.monotonic()))[0]:
            _say(channel, "thawing")
        else:
            outcome = "expired"
    finally:
        try:
            thaw(directory)
        except OSError:
            outcome = "lost"
    _say(channel, outcome)


def _say(channel: socket.socket, line: str) -> None:
    with suppress(OSError):  # nobody is there any more
        channel.sendall(f"{line}\n".encode())


def main() -> int:
    parser = argparse.ArgumentParser(prog="volcrypt-freezer", allow_abbrev=False)
    parser.add_argument("--channel-fd", type=int, required=True)
    parser.add_argument("--directory-fd", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    arguments = parser.parse_args()
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("-1000")
    lock_present_memory()
    with socket.socket(fileno=arguments.channel_fd) as channel:
        freeze_and_thaw(channel, arguments.directory_fd, arguments.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
