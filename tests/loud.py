"""Programs of ours that say all that any of their parts could say, and who takes that down.

A `Listener` is a mount namespace. In it each Python begins with every logger, those of libraries
too, at its most talkative, and writes what they say, and how it crashes, to a file of its own. The
socket of the journal is there, as a process under systemd finds it, and what comes is kept.
"""

import array
import os
import socket
import subprocess
import sysconfig
import threading
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.command import Command, disposable_home, on_data_plane
from tests.forked import Forker

BODIES: Final = "VOLCRYPT_TESTS_BODIES"
"""A variable of the environment: botocore is made to log what it sends and gets, whatever we do."""

_AT_START: Final = """
import faulthandler, logging, os, traceback

_said = os.open(f"{DIRECTORY!r}/{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

class _Everything(logging.Handler):
    def emit(self, record):
        lines = [f"{record.name} {record.levelname} {record.getMessage()} {record.args!r}\\n"]
        if record.exc_info:
            lines += traceback.format_exception(*record.exc_info)
        os.write(_said, "".join(lines).encode(errors="backslashreplace"))

logging.root.addHandler(_Everything())
logging.root.setLevel(1)
if BODIES in os.environ:
    logging.getLogger("botocore").setLevel = lambda level: None
faulthandler.enable(_said)
"""

_NAMESPACE: Final = """
set -e
mount -t tmpfs -o mode=0755 volcrypt-tests /run
mkdir -p /run/systemd/journal
mount --bind "$1" "$2"
echo ready
exec cat
"""


def forms(secret: bytes) -> set[bytes]:
    """How a secret looks where somebody shows it: as it is, base64, hexadecimal, as Python writes
    bytes and as a list of numbers. Pieces, that what is cut is found too."""
    piece = secret[:32]
    shown = {
        piece,
        b64encode(secret)[:40].rstrip(b"="),
        piece.hex().encode(),
        piece.hex().upper().encode(),
        repr(piece)[2:-1].encode(),
        ", ".join(map(str, piece)).encode(),
    }
    assert min(map(len, shown)) >= 16
    return shown


def found(content: bytes, secrets: Mapping[str, bytes]) -> set[str]:
    """The names of the secrets of which a form is in it."""
    return {
        name for name, secret in secrets.items() if any(each in content for each in forms(secret))
    }


def contents(roots: Iterable[Path]) -> Iterator[tuple[Path, bytes]]:
    """All files below some directories."""
    for root in roots:
        for path in sorted(root.rglob("*")):
            if path.is_file() and not path.is_symlink():
                yield path, path.read_bytes()


class Listener:
    """`directory` has a file for each process; `journal` is what came to its socket."""

    def __init__(self, directory: Path, pid: int) -> None:
        self.directory = directory
        self.journal: list[bytes] = []
        self.root = Path(f"/proc/{pid}/root")
        """How those outside see the files of the namespace."""
        self.prefix = ("nsenter", f"--mount=/proc/{pid}/ns/mnt", f"--wdns={Path.cwd()}")
        self.forker = Forker(self.prefix)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**22)
        self._socket.bind(str(self.root / "run/systemd/journal/socket"))
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def close(self) -> None:
        self.forker.close()
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _listen(self) -> None:
        while True:
            data, ancillary, _, _ = self._socket.recvmsg(2**20, socket.CMSG_SPACE(4))
            if not data and not ancillary:
                return
            for _level, _kind, content in ancillary:  # what was too long for a datagram
                (descriptor,) = array.array("i", content)
                with os.fdopen(descriptor, "rb") as file:
                    file.seek(0)
                    data = file.read()
            self.journal.append(data)

    def said(self) -> bytes:
        """By all processes, to their files."""
        return b"".join(content for _, content in contents([self.directory]))


class LoudCommand(Command):
    """Runs in the namespace; `output` is all that commands printed."""

    def __init__(self, home: Path, listener: Listener) -> None:
        super().__init__(home, forked=False)
        self.listener = listener
        self.output = b""

    def try_run(
        self, *arguments: str | Path, stdin: bytes = b"", prefix: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        """With a prefix, in a process that is not forked."""
        if prefix:
            prefix = (*self.listener.prefix, *prefix)
            done = super().try_run(*arguments, stdin=stdin, prefix=prefix)
        else:
            words = ["--home", *map(str, (self.home, *on_data_plane(*arguments)))]
            done = self.listener.forker.run(words, stdin=stdin.decode(errors="surrogateescape"))
        self.output += (done.stdout + done.stderr).encode(errors="surrogateescape")
        return done


@contextmanager
def loud_home(home: Path, listener: Listener) -> Iterator[LoudCommand]:
    with disposable_home(home):
        yield LoudCommand(home, listener)


@contextmanager
def listening(directory: Path) -> Iterator[Listener]:
    """A namespace that lasts as long as the context; `directory` is a new one, for its files."""
    said = directory / "said"
    said.mkdir(parents=True)
    begin = directory / "begin"
    begin.write_text(_AT_START.replace("{DIRECTORY!r}", str(said)).replace("BODIES", repr(BODIES)))
    # Our processes start with -I: nothing but what is installed decides what they run.
    (installed, *_) = sorted(Path(sysconfig.get_path("purelib")).glob("*.pth"))
    changed = directory / installed.name
    changed.write_text(
        f"{installed.read_text()}\nimport sys; exec(open({str(begin)!r}).read(), {{}})\n"
    )
    holder = subprocess.Popen(
        [
            *("unshare", "--mount", "--propagation", "private"),
            *("sh", "-c", _NAMESPACE, "sh", changed, installed),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        listener = Listener(said, holder.pid)
        try:
            yield listener
        finally:
            listener.close()
    finally:
        holder.communicate("")
