"""The door to cryptsetup: what it is given reaches nobody else, and what it says is understood."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cryptsetup import CHEAP_PBKDF
from volcrypt.crypto.data_key import DataKey
from volcrypt.errors import (
    ComponentMissingError,
    VolcryptError,
    WrongPassphraseError,
)
from volcrypt.volume import cryptsetup
from volcrypt.volume.cryptsetup import HEADER_BYTES, make_header, open_volume_key

KEY = bytes(range(100, 164))
PASSPHRASE = b"correct horse battery staple"


@pytest.fixture(scope="module")
def header() -> bytes:
    with DataKey(bytearray(KEY)) as key:
        return make_header(key, bytearray(PASSPHRASE), label="vol-x", pbkdf=CHEAP_PBKDF)


def opened(header: bytes, passphrase: bytes = PASSPHRASE) -> bytes:
    with open_volume_key(header, bytearray(passphrase), what="it") as key:
        return bytes(key.view())


def test_a_header_gives_its_key_for_its_passphrase(header: bytes) -> None:
    assert len(header) == HEADER_BYTES
    assert opened(header) == KEY
    assert KEY not in header
    for wrong in (b"wrong", PASSPHRASE + b"\n", b"x" * 4096):
        with pytest.raises(WrongPassphraseError, match="the passphrase does not open it"):
            opened(header, wrong)


@pytest.mark.parametrize("passphrase", [b"\0\xff\n\r", b"x" * 4096, "Grüße".encode()])
def test_a_passphrase_is_bytes(passphrase: bytes) -> None:
    with DataKey(bytearray(KEY)) as key:
        made = make_header(key, bytearray(passphrase), label="vol-x", pbkdf=CHEAP_PBKDF)
    assert opened(made, passphrase) == KEY


def test_a_header_that_is_none(header: bytes) -> None:
    for damaged in (bytes(HEADER_BYTES), header[:4096], b"x"):
        with pytest.raises(VolcryptError, match="it: cryptsetup: "):
            opened(damaged)
    with pytest.raises(VolcryptError, match="Nothing to read"):
        opened(header, b"")


def test_options_that_cryptsetup_does_not_take() -> None:
    with DataKey(bytearray(KEY)) as key, pytest.raises(VolcryptError, match="cryptsetup: "):
        make_header(key, bytearray(PASSPHRASE), label="x", pbkdf=["--pbkdf=none-such"])


def test_without_cryptsetup(header: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert opened(header) == KEY  # where administrators' programs are is looked at in any case
    monkeypatch.setattr(cryptsetup, "_SYSTEM_PATH", "/nonexistent")
    with pytest.raises(ComponentMissingError, match="cryptsetup is missing"):
        opened(header)


PROGRAM = """
import sys
from volcrypt.crypto.data_key import DataKey
from volcrypt.volume.cryptsetup import make_header, open_volume_key
key = DataKey(bytearray(range(100, 164)))
passphrase = bytearray(sys.stdin.buffer.read())
header = make_header(key, passphrase, label="vol-x", pbkdf=sys.argv[1:])
open_volume_key(header, passphrase, what="it").wipe()
"""


def test_secrets_are_in_no_argument_environment_or_file(tmp_path: Path) -> None:
    log = tmp_path / "log"
    trace = "trace=execve,openat,open,creat,link,linkat,rename,mkdir,write,pwrite64"
    subprocess.run(
        [
            *("strace", "-f", "-v", "-xx", "-s", "100000", "-o", str(log), "-e", trace),
            *(sys.executable, "-c", PROGRAM, *CHEAP_PBKDF),
        ],
        input=PASSPHRASE,
        check=True,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )
    text = log.read_text()
    started = [line for line in text.splitlines() if "execve(" in line]
    assert sum(hexed(b"luksFormat") in line for line in started) == 1
    assert sum(hexed(b"luksDump") in line for line in started) == 2
    for secret in (KEY, KEY.hex().encode(), PASSPHRASE):
        assert not any(hexed(secret[:16]) in line for line in started)
    # What is opened for writing is memory, /dev/null, or not there at all.
    writing = [
        bytes.fromhex(found[1].replace("\\x", "")).decode()
        for line in text.splitlines()
        if (found := re.search(r'(?:openat\(AT_FDCWD|open|creat)[(,] ?"([^"]*)", (.*)', line))
        and re.search(r"O_WRONLY|O_RDWR|O_CREAT", found[2])
        and "= -1" not in line
    ]
    assert any(path.startswith("/proc/self/fd/") for path in writing)
    allowed = ("/proc/self/fd/", "/dev/null", "/dev/mapper/control")
    assert [path for path in writing if not path.startswith(allowed)] == []
    # The control: this would have been seen.
    assert any(hexed(KEY) in line for line in text.splitlines() if "write(" in line)


def hexed(data: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in data)
