"""The search for keys, against the published key expansion and where something is to be found."""

import ctypes
import mmap
import os
import subprocess
import sys
from pathlib import Path

from tests.key_search import (
    ROUNDS,
    _pieces,
    decryption_schedule,
    found_in_files,
    found_in_process,
    schedule,
    traces,
)

KERNEL = """
import os
from volcrypt.crypto.data_key import DataKey
material = bytearray(64)
assert os.readv(0, [material]) == 64
key = DataKey(material)
kernel = key.kernel()
kernel.encrypt_units(0, bytes(4096), bytearray(4096))
print("made", flush=True)
os.read(0, 1)
kernel.wipe()
key.wipe()
print("wiped", flush=True)
os.read(0, 1)
"""

LOOK = """
import os
from tests.key_search import found_in_process, mapping_flags, traces
key = os.urandom(64)
wanted = traces(key)
assert found_in_process(os.getpid(), wanted) == set(wanted)
assert mapping_flags(os.getpid(), key)
"""


def test_the_schedule_of_fips_197() -> None:
    """Appendix A.3; of the inverse cipher, appendix C.3."""
    half = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    assert schedule(half)[14].hex() == "fe4890d1e6188d0b046df344706c631e"
    keys = decryption_schedule(bytes(range(32)))
    assert keys[14].hex() == "24fc79ccbf0979e9371ac23c6d68de36"
    assert keys[13].hex() == "34f1d1ffbfceaa2ffce9e25f2558016e"


def test_a_kernel_is_found_until_it_is_wiped() -> None:
    """In a process that knows nothing but the key."""
    key = os.urandom(64)
    wanted = traces(key)
    child = subprocess.Popen(
        [sys.executable, "-c", KERNEL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdin.write(key)
        assert child.stdout.readline() == b"made\n"
        # Schedules in both directions; XTS needs that of the tweak for encryption alone.
        found = found_in_process(child.pid, wanted)
        halves = ("data", "tweak", "data decrypting")
        assert {f"{half} {i}" for half in halves for i in ROUNDS} <= found
        child.stdin.write(b"x")
        assert child.stdout.readline() == b"wiped\n"
        assert found_in_process(child.pid, wanted) == set()
    finally:
        child.communicate()


def test_who_computes_all_traces_has_them_all() -> None:
    """A process of its own: the one that tests has too much to look through by now."""
    subprocess.run([sys.executable, "-c", LOOK], check=True)


def test_files_and_pieces(tmp_path: Path) -> None:
    key = os.urandom(64)
    wanted = traces(key)
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "a").write_bytes(os.urandom(16 * 2**20 - 20) + key)
    (tmp_path / "b").write_bytes(os.urandom(4096))
    found = found_in_files([tmp_path], wanted)
    assert set(found) == {tmp_path / "below" / "a"}
    assert {"data 0", "data 1", "tweak 0", "tweak 1"} <= found[tmp_path / "below" / "a"]


def test_a_mapping_of_a_file_that_became_shorter(tmp_path: Path) -> None:
    key = os.urandom(64)
    (tmp_path / "file").write_bytes(bytes(2 * mmap.PAGESIZE))
    with (
        open(tmp_path / "file", "r+b") as file,
        mmap.mmap(file.fileno(), 0) as mapped,
        open("/proc/self/mem", "rb", buffering=0) as memory,
    ):
        mapped[:64] = key
        file.truncate(mmap.PAGESIZE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
        pieces = list(_pieces(memory.fileno(), start, start + 2 * mmap.PAGESIZE))
    assert b"".join(pieces) == key + bytes(mmap.PAGESIZE - 64)
