"""The `volcrypt` command in processes that are forked from one which has imported everything.

Of a command's time most is importing. A forked one is a process of its own like any other, with
its own arguments, environment, standard streams, locks and end; only its start is not tested.

As a program this is that one process: it reads requests, one JSON document a line, and answers with
exit codes. It has no thread and has opened nothing, so that a fork of it is as good as new.
"""

import gc
import importlib
import json
import os
import pkgutil
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from tests.storage_calls import TROUBLE, meet_trouble

TIMEOUT_SECONDS = 120
IMPATIENT = "VOLCRYPT_TESTS_IMPATIENT"
"""A variable of the environment: commands give stores up that fail after two tries and a second."""


class Forker:
    """Such processes: as many as commands run at a time, begun when they are needed. `prefix` is a
    program to begin them under."""

    def __init__(self, prefix: Sequence[str] = ()) -> None:
        self._prefix = prefix
        self._idle: list[subprocess.Popen[bytes]] = []

    def run(
        self, arguments: Sequence[str], *, stdin: str = "", strace: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        """As `subprocess.run` with the output captured, in this process's environment.

        `strace` are options under which that looks on, from the first thing that the command does
        to the end of all that it leaves behind."""
        with tempfile.TemporaryDirectory() as directory:
            files = [os.path.join(directory, name) for name in ("in", "out", "err")]
            Path(files[0]).write_bytes(stdin.encode(errors="surrogateescape"))
            code = self._ask(
                {
                    "arguments": list(arguments),
                    "environment": dict(os.environ),
                    "directory": os.getcwd(),
                    "files": files,
                    "strace": list(strace),
                }
            )
            out, err = (Path(name).read_text(errors="surrogateescape") for name in files[1:])
        return subprocess.CompletedProcess(list(arguments), code, out, err)

    def _ask(self, request: dict[str, Any]) -> int:
        # Lists push and pop atomically: the callers may be threads.
        try:
            process = self._idle.pop()
        except IndexError:
            process = _start(self._prefix)
        requests, answers = process.stdin, process.stdout
        assert requests is not None
        assert answers is not None
        requests.write(json.dumps(request).encode() + b"\n")
        requests.flush()
        if not select.select([answers], [], [], TIMEOUT_SECONDS)[0]:
            process.kill()  # nobody is to take the late answer for his own
            process.communicate()
            raise subprocess.TimeoutExpired(request["arguments"], TIMEOUT_SECONDS)
        code = int(answers.readline())
        self._idle.append(process)
        return code

    def close(self) -> None:
        """When no command runs."""
        while self._idle:
            process = self._idle.pop()
            process.kill()
            process.communicate()


FORKER = Forker()


def _start(prefix: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*prefix, sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
    )


def _serve() -> None:
    _import_everything()
    assert len(os.listdir("/proc/self/task")) == 1, "a process with threads cannot be forked"
    gc.freeze()
    for line in sys.stdin.buffer:
        request = json.loads(line)
        may_begin, begin = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(begin)
            os.read(may_begin, 1)
            os.close(may_begin)
            _become(request)
        os.close(may_begin)
        with _traced(child, request["strace"]) if request["strace"] else nullcontext():
            os.close(begin)
            _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


@contextmanager
def _traced(pid: int, options: list[str]) -> Iterator[None]:
    """Under strace until it and all that it began have ended."""
    process = subprocess.Popen(
        ["strace", "-p", str(pid), *options], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    first = process.stderr.readline()
    assert b"attached" in first, first
    yield
    process.communicate()


def _import_everything() -> None:
    import volcrypt

    for module in pkgutil.walk_packages(volcrypt.__path__, "volcrypt."):
        if not module.name.startswith("volcrypt.daemons"):
            importlib.import_module(module.name)
    for name in ("botocore.session", "botocore.credentials", "obstore.store"):
        importlib.import_module(name)


def _become(request: dict[str, Any]) -> None:
    """Be the command, to its end."""
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["directory"])
    flags = (os.O_RDONLY, *[os.O_WRONLY | os.O_CREAT | os.O_APPEND] * 2)
    for number, (path, flag) in enumerate(zip(request["files"], flags, strict=True)):
        opened = os.open(path, flag, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin, sys.stdout = os.fdopen(0), os.fdopen(1, "w")
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace")

    if IMPATIENT in os.environ:
        _be_impatient()

    from volcrypt.cli.main import main

    if TROUBLE in os.environ:
        meet_trouble(os.environ[TROUBLE])
    sys.argv = ["volcrypt", *request["arguments"]]
    main()


def _be_impatient() -> None:
    from volcrypt.snapshot.s3 import Patience

    defaults = Patience.__init__.__kwdefaults__
    assert defaults is not None
    defaults.update(request_seconds=1, retry_seconds=1, retries=1)


if __name__ == "__main__":
    _serve()
