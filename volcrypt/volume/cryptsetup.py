"""The door to the real cryptsetup: it makes LUKS2 headers, and opens their keyslots.

Headers are in anonymous memory when cryptsetup sees them (memfd_create(2)), passphrases and volume
keys in pipes: nothing secret is in a file, an argument or the environment, and cryptsetup writes to
nothing of ours or of the user's. What it prints of a key is read into one buffer that is wiped.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Final

from volcrypt.crypto.data_key import DATA_KEY_BYTES, DataKey
from volcrypt.errors import (
    ComponentMissingError,
    IntegrityError,
    MalformedError,
    VolcryptError,
    WrongPassphraseError,
)
from volcrypt.geometry import UNIT_BYTES

HEADER_BYTES: Final = 16 * 2**20
"""A header with its keyslots, as cryptsetup makes them."""
_NO_PASSPHRASE: Final = 2
_NO_MEMORY: Final = 3
_LARGEST_OUTPUT: Final = 2**16
_KEY: Final = re.compile(rb"dump:\s*((?:[0-9a-f]{2}\s*)+)")
_DIGITS: Final = {digit: value for value, digit in enumerate(b"0123456789abcdef")}
_SYSTEM_PATH: Final = "/usr/sbin:/sbin"


def make_header(
    data_key: DataKey, passphrase: bytearray, *, label: str, pbkdf: Sequence[str] = ()
) -> bytes:
    """A detached LUKS2 header with the data key in a keyslot under the passphrase; `pbkdf` are
    cryptsetup's options for what makes guessing that slow, its own defaults when none.

    The header was tried: the passphrase gives the key. Raises ComponentMissingError, VolcryptError.
    """
    with ExitStack() as stack:
        header = stack.enter_context(_memory("header", HEADER_BYTES))
        # cryptsetup wants to see a device for the data; the header says nothing of it.
        device = stack.enter_context(_memory("data", HEADER_BYTES))
        key = stack.enter_context(_pipe_with(data_key.view()))
        _run(
            [
                "luksFormat",
                "--type=luks2",
                "--cipher=aes-xts-plain64",
                f"--key-size={DATA_KEY_BYTES * 8}",
                f"--sector-size={UNIT_BYTES}",
                f"--label={label}",
                "--subsystem=volcrypt",
                *pbkdf,
                f"--volume-key-file={_path(key)}",
                f"--header={_path(header)}",
                _path(device),
            ],
            passphrase,
            descriptors=[key, header, device],
        )
        made = os.pread(header, HEADER_BYTES, 0)
    with open_volume_key(made, passphrase, what="the new header") as found:
        if found.view() != data_key.view():
            raise IntegrityError("cryptsetup made a header with another key than it was given")
    return made


def open_volume_key(header: bytes, passphrase: bytearray, *, what: str) -> DataKey:
    """The volume key that a LUKS2 header with its keyslots has under a passphrase; the caller wipes
    it. `what` names the header in errors.

    Raises WrongPassphraseError, MalformedError, ComponentMissingError, VolcryptError.
    """
    with ExitStack() as stack:
        memory = stack.enter_context(_memory("header", len(header)))
        _write_fully(memory, header)
        output = bytearray(_LARGEST_OUTPUT)
        stack.callback(_wipe, output)
        try:
            length = _run(
                ["luksDump", "--disable-external-tokens", "--dump-volume-key", _path(memory)],
                passphrase,
                descriptors=[memory],
                output=output,
            )
        except _FailedError as error:
            if error.code == _NO_PASSPHRASE:
                raise WrongPassphraseError(f"the passphrase does not open {what}") from None
            raise VolcryptError(f"{what}: {error}", hint=error.hint) from None
        material = _key_in(memoryview(output)[:length])
    try:
        return DataKey(material)
    except ValueError as error:
        raise MalformedError(what, f"its volume key cannot be used: {error}") from error


class _FailedError(VolcryptError):
    """cryptsetup ended with `code`."""

    def __init__(self, code: int, message: str, *, hint: str | None) -> None:
        super().__init__(message, hint=hint)
        self.code = code


def _run(
    arguments: list[str],
    passphrase: bytearray,
    *,
    descriptors: list[int],
    output: bytearray | None = None,
) -> int:
    """Run cryptsetup to its end; how much of `output` it filled. Raises _FailedError."""
    search = f"{os.environ.get('PATH', os.defpath)}:{_SYSTEM_PATH}"
    program = shutil.which("cryptsetup", path=search)
    if program is None:
        raise ComponentMissingError("cryptsetup", package="cryptsetup-bin")
    process = subprocess.Popen(
        # The header is memory that nobody else has: cryptsetup's own locks have nothing to do.
        [program, "--batch-mode", "--disable-locks", "--key-file=-", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL if output is None else subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=descriptors,
        env={"PATH": search, "LC_ALL": "C"},
        bufsize=0,
    )
    assert process.stdin is not None
    assert process.stderr is not None
    length = 0
    with process:
        with suppress(BrokenPipeError):  # it ended before; its exit code says why
            process.stdin.write(passphrase)
        process.stdin.close()
        if output is not None:
            assert process.stdout is not None
            view = memoryview(output)
            while count := os.readv(process.stdout.fileno(), [view[length:]]):
                length += count
            view.release()
        complaint = process.stderr.read(_LARGEST_OUTPUT).decode(errors="replace")
    if process.returncode:
        raise _failed(process.returncode, complaint)
    return length


def _failed(code: int, complaint: str) -> _FailedError:
    hint = "its keyslot asks for more memory than there is" if code == _NO_MEMORY else None
    lines = [line.strip().rstrip(".") for line in complaint.splitlines() if line.strip()]
    return _FailedError(
        code, f"cryptsetup: {lines[-1] if lines else f'exit code {code}'}", hint=hint
    )


def _key_in(output: memoryview) -> bytearray:
    """The key that `luksDump` prints in hexadecimal, byte by byte: no copy is left behind."""
    found = _KEY.search(output)
    start, end = found.span(1) if found is not None else (0, 0)
    digits = [index for index in range(start, end) if output[index] in _DIGITS]
    key = bytearray(len(digits) // 2)
    for position, index in enumerate(digits):
        key[position // 2] = key[position // 2] << 4 | _DIGITS[output[index]]
    return key


@contextmanager
def _memory(name: str, size_bytes: int) -> Iterator[int]:
    """A file of zeros in memory, without a name."""
    descriptor = os.memfd_create(f"volcrypt-{name}", os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, size_bytes)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _pipe_with(content: memoryview) -> Iterator[int]:
    """The end of a pipe that gives the content, which has to fit into it."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        try:
            _write_fully(writer, content)
        finally:
            os.close(writer)
        yield reader
    finally:
        os.close(reader)


def _write_fully(descriptor: int, content: bytes | memoryview) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def _path(descriptor: int) -> str:
    return f"/proc/self/fd/{descriptor}"


def _wipe(buffer: bytearray) -> None:
    buffer[:] = bytes(len(buffer))
