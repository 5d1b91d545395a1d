"""Starting a process of ours that outlives us and gets descriptors under numbers that it knows."""

import fcntl
import os
import sys
from collections.abc import Mapping, Sequence

from volcrypt.errors import MountError


def start_process(
    module: str,
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str],
    descriptors: Mapping[int, int],
    errors: int | None = None,
) -> int:
    """The pid of `python -I -m module`, in a session of its own.

    `descriptors`: our descriptor for each number, from 3 on, under which the process gets it.
    Standard error is `errors`; that where it is None, standard input and output are /dev/null.
    Raises MountError.
    """
    # Out of the way of the numbers that they get, one of which another may have.
    high = {
        number: fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 16)
        for number, descriptor in descriptors.items()
    }
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDWR, 0),
        (os.POSIX_SPAWN_DUP2, 0, 1),
        (os.POSIX_SPAWN_DUP2, 0 if errors is None else errors, 2),
        *((os.POSIX_SPAWN_DUP2, descriptor, number) for number, descriptor in high.items()),
    ]
    try:
        return os.posix_spawn(
            sys.executable,
            python_arguments(module, arguments),
            environment,
            file_actions=actions,
            setsid=True,
        )
    except OSError as error:
        raise MountError(f"cannot start {sys.executable}: {error.strerror}") from error
    finally:
        for descriptor in high.values():
            os.close(descriptor)


def python_arguments(module: str, arguments: Sequence[str]) -> list[str]:
    """The whole argument list. -I: neither the working directory nor PYTHON* variables decide what
    code runs, and gets keys."""
    return [sys.executable, "-I", "-m", module, *arguments]
