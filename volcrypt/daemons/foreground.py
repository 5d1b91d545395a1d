"""`attach --foreground` without a service manager: stay until the volume is detached or we are told
to stop, then detach it.

A program of its own, which the command becomes by exec, so that nothing of what it knew (the PIN)
stays in memory: `python -I -m volcrypt.daemons.foreground HOME VOLUME PID`.
"""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final, NoReturn

_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def hold_signals() -> None:
    """From here on a signal to stop waits for `stay_attached`, which knows how to stop."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)


def stay_attached(home: Path, volume: str, pid: int) -> NoReturn:
    """Become the program that waits for the process `pid`, which serves the volume."""
    sys.stdout.flush()
    command = [sys.executable, "-I", "-m", __name__, str(home), volume, str(pid)]
    os.execv(sys.executable, command)  # noqa: S606 this very program, no shell


def main(home: str, volume: str, pid: int) -> int:
    """Exit code 0 after an orderly end, 1 when the process that served ended by itself."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writer)
    for number in _STOP_SIGNALS:
        signal.signal(number, lambda _number, _frame: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)
    process = os.pidfd_open(pid)
    while True:
        ready, _, _ = select.select([reader, process], [], [])
        if process in ready:
            sys.stderr.write(f"error: the process that served {volume} has ended\n")
            return 1
        os.read(reader, 64)
        detach = [str(Path(sys.executable).with_name("volcrypt")), "--home", home, "detach", volume]
        if subprocess.run(detach, check=False).returncode == 0:
            return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
