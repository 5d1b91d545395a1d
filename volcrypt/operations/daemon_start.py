"""The moment in which a process has taken the home to serve it, and does not listen yet: it opens
the token. Who comes then waits, since a little later the same would be answered."""

import socket
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep
from typing import Final

START_SECONDS: Final = 5.0
"""A token opens in one or two; a process that is not there after this may hang."""
_PAUSE_SECONDS: Final = 0.05


def daemon_that_listens(find: Callable[[], Path | None]) -> Path | None:
    """The socket of the process that serves the home, by `find`, which gives None where there is
    none (any more). At the end of its patience one on which nobody listens, who then says so."""
    deadline = monotonic() + START_SECONDS
    while (found := find()) is not None and not _listens(found) and monotonic() < deadline:
        sleep(_PAUSE_SECONDS)
    return found


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a hung one, whose queue is full, would have us wait for ever
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except OSError:
            return True  # what is wrong there is for whoever calls to say
        return True
