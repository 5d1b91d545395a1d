"""Stock cryptsetup reads what the XTS kernel writes, and the other way: the exit door.

`cryptsetup reencrypt` does its cipher in user space when it is not root, so this needs no device
mapper. It runs in a mount namespace of its own with a private /run, which it wants to write to,
and with the files under /mnt, which an unprivileged user can reach.
"""

import random
import subprocess
from pathlib import Path

from volcrypt.crypto.xts import XtsKernel

UNIT = 4096
SIZE_BYTES = 2 * 2**20
HEADER_BYTES = 16 * 2**20
KEY = random.Random(1).randbytes(64)
PLAINTEXT = random.Random(2).randbytes(SIZE_BYTES)
LUKS2 = ["--type=luks2", "--cipher=aes-xts-plain64", "--key-size=512", "--sector-size=4096"]
CHEAP_PBKDF = ["--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000"]
UNPRIVILEGED = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]


def run_cryptsetup(directory: Path, *arguments: str) -> None:
    """Run cryptsetup unprivileged; `directory`, whose files it may change, is its /mnt."""
    (directory / "passphrase").write_bytes(b"open")
    subprocess.run(["chown", "-R", "65534:65534", directory], check=True)
    prepare = (
        "mount -t tmpfs -o mode=0777 tmpfs /run && mkdir -m 0777 /run/cryptsetup"
        ' && mount --bind "$0" /mnt && cd /mnt && exec "$@"'
    )
    command = ["cryptsetup", "--batch-mode", "--key-file=passphrase", "--header=header"]
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", prepare, directory, *UNPRIVILEGED, *command, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def make_sparse(path: Path, size_bytes: int) -> None:
    with path.open("wb") as file:
        file.truncate(size_bytes)


def test_cryptsetup_decrypts_what_the_kernel_encrypted(tmp_path: Path) -> None:
    kernel, stored = XtsKernel(KEY), bytearray(SIZE_BYTES)
    # In runs of different lengths, as requests come.
    unit = 0
    for units in [1, 7, 8, 100, SIZE_BYTES // UNIT - 116]:
        run = slice(unit * UNIT, (unit + units) * UNIT)
        kernel.encrypt_units(unit, PLAINTEXT[run], memoryview(stored)[run])
        unit += units
    (tmp_path / "data").write_bytes(stored)
    (tmp_path / "key").write_bytes(KEY)
    make_sparse(tmp_path / "header", HEADER_BYTES)

    run_cryptsetup(tmp_path, "luksFormat", *LUKS2, *CHEAP_PBKDF, "--volume-key-file=key", "data")
    assert (tmp_path / "data").read_bytes() == stored
    run_cryptsetup(
        tmp_path, "reencrypt", "--decrypt", "--force-offline-reencrypt", "--resilience=none", "data"
    )
    assert (tmp_path / "data").read_bytes() == PLAINTEXT


def test_the_kernel_decrypts_what_cryptsetup_encrypted(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(PLAINTEXT)
    (tmp_path / "key").write_bytes(KEY)
    make_sparse(tmp_path / "header", HEADER_BYTES)

    run_cryptsetup(
        tmp_path,
        "reencrypt",
        "--encrypt",
        "--force-offline-reencrypt",
        "--resilience=none",
        *LUKS2,
        *CHEAP_PBKDF,
        "--volume-key-file=key",
        "data",
    )
    stored = (tmp_path / "data").read_bytes()
    assert stored != PLAINTEXT
    output = bytearray(SIZE_BYTES)
    XtsKernel(KEY).decrypt_units(0, stored, output)
    assert output == PLAINTEXT
