"""strace on a process that runs already: see its calls, make them fail, kill it at one of them."""

import re
import signal
import subprocess
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def strace(
    pid: int, *expressions: str, log: Path = Path("/dev/null"), paths: Collection[Path] = ()
) -> Iterator[None]:
    """All threads of the process, from here to the end of the context, or until it has died; of
    its calls those that concern `paths`, where there are some.

    `expressions` are what strace takes with -e. Of `when=N` in an injection strace counts for each
    thread by itself, from here. One that kills has killed before the context ends.
    """
    options = [part for expression in expressions for part in ("-e", expression)]
    options += [part for path in paths for part in ("-P", str(path))]
    process = subprocess.Popen(
        ["strace", "-f", "-p", str(pid), "-o", str(log), *options],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        first = process.stderr.readline()
        assert "attached" in first, first
        yield
    finally:
        # Told to let go while the process dies, strace can wait for ever, and keep the dead from
        # its parent: one that kills ends by itself, and a killed strace gives back what it had.
        if "signal=KILL" not in str(expressions):
            process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
        process.kill()
        process.communicate()


def injection(calls: str, action: str) -> tuple[str, str]:
    """For `strace`: trace these calls and do this to them."""
    return f"trace={calls}", f"inject={calls}:{action}"


def calls_in(log: Path, *names: str) -> list[str]:
    """Names of the calls in a log, those of `names`, in the order in which they were made."""
    pattern = rf"^\d+ +(?:\d+\.\d+ +)?({'|'.join(names)})\("
    return re.findall(pattern, log.read_text(), re.MULTILINE)


def calls_by_thread(log: Path) -> dict[str, list[str]]:
    """Names of all calls in a log, in order, of each thread."""
    found: dict[str, list[str]] = {}
    for thread, call in re.findall(r"^(\d+) +([a-z0-9_]+)\(", log.read_text(), re.MULTILINE):
        found.setdefault(thread, []).append(call)
    return found
