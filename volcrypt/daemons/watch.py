"""The watcher: the process that asks whether a volume may still be served. Started by the one that
serves it, as `python -m volcrypt.daemons.watch --channel-fd N`, and supervised by it.

A process of its own, because the one with the data key must have no PIN and no KMS, and because
asking may block, fail or crash without harm there. It is a client of the home like any command: it
goes through `kms serve` while that runs, and opens the home's KMS itself otherwise, for the moment
of each question only, so that `kms serve` can start at any time. It never gets a data key.

It ends when the other end of the channel does.
"""

import argparse
import os
import select
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from volcrypt.access import open_home_unattended
from volcrypt.confinement import (
    CAP_DAC_OVERRIDE,
    CAP_IPC_LOCK,
    drop_capabilities,
    forbid_dumps,
    lock_memory,
)
from volcrypt.errors import VolcryptError
from volcrypt.operations.watching import Check, describe, make_check
from volcrypt.volume.fence import (
    Unanswered,
    WatchAnswer,
    WatchOrder,
    check_name,
    decode_order,
    encode,
)

MAX_ORDER_BYTES: Final = 64 * 1024


def answers(order: WatchOrder, checks: Sequence[Check]) -> Iterator[WatchAnswer]:
    """One round: the answer to each check of the order. Never fails."""
    try:
        with open_home_unattended(
            Path(order.home), profile=order.profile, region=order.region
        ) as home:
            for check in checks:
                yield check.ask(home)
    except (VolcryptError, OSError) as error:
        for each in order.checks:
            yield Unanswered(check=check_name(each), reason=describe(error))


def take_leave(order: WatchOrder, checks: Sequence[Check]) -> None:
    """The volume is served no more: say so to whom a lost check concerns. Never fails."""
    if any(check.has_farewell for check in checks):
        with (
            suppress(VolcryptError, OSError),
            open_home_unattended(
                Path(order.home), profile=order.profile, region=order.region
            ) as home,
        ):
            for check in checks:
                check.take_leave(home)


def watch(channel: socket.socket) -> None:
    """Ask and tell, until nobody listens any more."""
    with channel.makefile("rb") as file:
        order = decode_order(file.readline(MAX_ORDER_BYTES))
    checks = [make_check(each) for each in order.checks]
    while True:
        for answer in answers(order, checks):
            channel.sendall(encode(answer))
        # Nothing is ever said on it again: what makes it readable is its end.
        if select.select([channel], [], [], order.interval_seconds)[0]:
            take_leave(order, checks)
            return


def main() -> int:
    parser = argparse.ArgumentParser(prog="volcrypt-watch", allow_abbrev=False)
    parser.add_argument("--channel-fd", type=int, required=True)
    arguments = parser.parse_args()
    # It has the PIN for the moment of each question.
    forbid_dumps()
    lock_memory()
    if os.geteuid() == 0:
        # What is left for one that is started later, too: files of the home, and locked memory.
        drop_capabilities(keep=frozenset({CAP_DAC_OVERRIDE, CAP_IPC_LOCK}))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = socket.socket(fileno=arguments.channel_fd)
    channel.set_inheritable(False)
    try:
        watch(channel)
    except (BrokenPipeError, ConnectionResetError):
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
