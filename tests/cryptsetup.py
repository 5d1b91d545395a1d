"""The real cryptsetup, for tests: encrypts and decrypts images without device mapper.

`cryptsetup reencrypt` does its cipher in user space when it is not root. It runs in a mount
namespace of its own with a private /run, which it wants to write to, and with the files under /mnt,
which an unprivileged user can reach.
"""

import subprocess
from pathlib import Path

HEADER_BYTES = 16 * 2**20
PASSPHRASE = b"open"
LUKS2 = ["--type=luks2", "--cipher=aes-xts-plain64", "--key-size=512", "--sector-size=4096"]
CHEAP_PBKDF = ["--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000"]
REAL_PROGRAM = "/usr/sbin/cryptsetup"
CHEAP_PROGRAM = f"""#!/bin/sh
# The real one, but that what it formats is opened in no time.
case " $* " in *" luksFormat "*) set -- "$@" {" ".join(CHEAP_PBKDF)} ;; esac
exec {REAL_PROGRAM} "$@"
"""
OFFLINE = ["--force-offline-reencrypt", "--resilience=none"]
UNPRIVILEGED = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]


def run_cryptsetup(directory: Path, *arguments: str, header: str | None = "header") -> None:
    """Run cryptsetup unprivileged; `directory`, whose files it may change, is its /mnt. Its
    passphrase is in the file `passphrase` there, "open" where there is none."""
    if not (directory / "passphrase").exists():
        (directory / "passphrase").write_bytes(PASSPHRASE)
    subprocess.run(["chown", "-R", "65534:65534", directory], check=True)
    prepare = (
        "mount -t tmpfs -o mode=0777 tmpfs /run && mkdir -m 0777 /run/cryptsetup"
        ' && mount --bind "$0" /mnt && cd /mnt && exec "$@"'
    )
    command = [REAL_PROGRAM, "--batch-mode", "--key-file=passphrase"]
    if header is not None:
        command.append(f"--header={header}")
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


def decrypt(directory: Path) -> bytes:
    """The plaintext of the image `data` as `header` and the passphrase in `directory` open it."""
    run_cryptsetup(directory, "reencrypt", "--decrypt", *OFFLINE, "data")
    return (directory / "data").read_bytes()


def encrypt(directory: Path, *options: str) -> None:
    """Encrypt the image `data` in place, with a detached `header`."""
    make_sparse(directory / "header", HEADER_BYTES)
    run_cryptsetup(
        directory, "reencrypt", "--encrypt", *OFFLINE, *LUKS2, *CHEAP_PBKDF, *options, "data"
    )
