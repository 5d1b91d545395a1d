"""Stock cryptsetup reads what the XTS kernel writes, and the other way: the exit door."""

import random
from pathlib import Path

from tests.cryptsetup import (
    CHEAP_PBKDF,
    HEADER_BYTES,
    LUKS2,
    decrypt,
    encrypt,
    make_sparse,
    run_cryptsetup,
)
from volcrypt.crypto.xts import XtsKernel

UNIT = 4096
SIZE_BYTES = 2 * 2**20
KEY = random.Random(1).randbytes(64)
PLAINTEXT = random.Random(2).randbytes(SIZE_BYTES)


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
    assert decrypt(tmp_path) == PLAINTEXT


def test_the_kernel_decrypts_what_cryptsetup_encrypted(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(PLAINTEXT)
    (tmp_path / "key").write_bytes(KEY)

    encrypt(tmp_path, "--volume-key-file=key")
    stored = (tmp_path / "data").read_bytes()
    assert stored != PLAINTEXT
    output = bytearray(SIZE_BYTES)
    XtsKernel(KEY).decrypt_units(0, stored, output)
    assert output == PLAINTEXT
