"""The XTS kernel over runs of data units; the oracle is the `cryptography` package."""

import copy
import pickle
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import XTS
from hypothesis import given
from hypothesis import strategies as st

from volcrypt.crypto.xts import DATA_UNIT_BYTES, KEY_BYTES, XtsKernel, is_zero

UNIT = 4096
SECTOR = 512
LAST_UNIT = 2**64 // 8 - 1
"""The last unit whose tweak, a count of 512-byte sectors, fits into 64 bits."""

KEY = bytes(range(64))

keys = st.binary(min_size=64, max_size=64).filter(lambda key: key[:32] != key[32:])


def oracle_encrypt(key: bytes, first_unit: int, plaintext: bytes) -> bytes:
    units = []
    for index in range(len(plaintext) // UNIT):
        tweak = ((first_unit + index) * 8).to_bytes(16, "little")
        encryptor = Cipher(AES(key), XTS(tweak)).encryptor()
        units.append(encryptor.update(plaintext[index * UNIT : (index + 1) * UNIT]))
    return b"".join(units)


def random_bytes(length: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(length)


def test_constants() -> None:
    assert (KEY_BYTES, DATA_UNIT_BYTES) == (64, UNIT)


@given(
    key=keys,
    units=st.integers(1, 20),  # from eight units on the interpreter lock is released
    seed=st.integers(0, 2**32),
    from_end=st.integers(0, 3),
    first_unit=st.one_of(st.none(), st.integers(0, 2**35), st.integers(0, LAST_UNIT - 20)),
)
def test_runs_match_the_oracle(
    key: bytes, units: int, seed: int, from_end: int, first_unit: int | None
) -> None:
    if first_unit is None:
        first_unit = LAST_UNIT + 1 - units - from_end
    plaintext = random_bytes(units * UNIT, seed)
    expected = oracle_encrypt(key, first_unit, plaintext)
    kernel = XtsKernel(key)

    output = bytearray(len(plaintext))
    kernel.encrypt_units(first_unit, plaintext, output)
    assert output == expected
    kernel.decrypt_units(first_unit, expected, output)
    assert output == plaintext
    kernel.decrypt_sparse_units(first_unit, expected, output)
    assert output == plaintext

    kernel.encrypt_units(first_unit, output, output)
    assert output == expected
    kernel.decrypt_units(first_unit, output, output)
    assert output == plaintext


def test_the_tweak_counts_from_the_start_of_the_volume() -> None:
    plaintext = random_bytes(3 * UNIT, 1)
    whole, part = bytearray(3 * UNIT), bytearray(UNIT)
    kernel = XtsKernel(KEY)
    kernel.encrypt_units(7, plaintext, whole)
    kernel.encrypt_units(9, plaintext[2 * UNIT :], part)
    assert part == whole[2 * UNIT :]


@pytest.mark.parametrize("method", ["encrypt_units", "decrypt_units", "decrypt_sparse_units"])
def test_units_beyond_the_last_tweak_are_refused(method: str) -> None:
    transform = getattr(XtsKernel(KEY), method)
    buffer = bytearray(2 * UNIT)
    transform(LAST_UNIT - 1, buffer, buffer)
    before = bytes(buffer)
    with pytest.raises(OverflowError):
        transform(LAST_UNIT, buffer, buffer)
    with pytest.raises(OverflowError):
        transform(LAST_UNIT + 1, buffer, buffer)
    with pytest.raises(OverflowError):
        transform(-1, buffer, buffer)
    assert buffer == before


def test_a_tweak_beyond_128_bits_is_refused() -> None:
    kernel, buffer = XtsKernel(KEY), bytearray(16)
    kernel.encrypt_one(2**128 - 1, buffer, buffer)
    for tweak in (2**128, -1):
        with pytest.raises(OverflowError):
            kernel.encrypt_one(tweak, buffer, buffer)


@pytest.mark.parametrize("method", ["encrypt_units", "decrypt_units", "decrypt_sparse_units"])
class TestBuffers:
    def test_empty_runs_are_allowed(self, method: str) -> None:
        getattr(XtsKernel(KEY), method)(5, b"", bytearray())

    @pytest.mark.parametrize("length", [1, 512, UNIT - 1, UNIT + 1])
    def test_part_of_a_unit_is_refused(self, method: str, length: int) -> None:
        buffer = bytearray(length)
        with pytest.raises(ValueError, match="whole data units"):
            getattr(XtsKernel(KEY), method)(0, buffer, buffer)
        assert is_zero(buffer)

    def test_different_lengths_are_refused(self, method: str) -> None:
        with pytest.raises(ValueError, match="differ in length"):
            getattr(XtsKernel(KEY), method)(0, bytes(2 * UNIT), bytearray(UNIT))

    @pytest.mark.parametrize("shift", [1, 512, UNIT, 2 * UNIT - 1])
    def test_partial_overlap_is_refused(self, method: str, shift: int) -> None:
        buffer = bytearray(random_bytes(4 * UNIT, 2))
        before = bytes(buffer)
        view = memoryview(buffer)
        left, right = view[: 2 * UNIT], view[shift : shift + 2 * UNIT]
        transform = getattr(XtsKernel(KEY), method)
        with pytest.raises(ValueError, match="overlap partially"):
            transform(0, left, right)
        with pytest.raises(ValueError, match="overlap partially"):
            transform(0, right, left)
        assert buffer == before

    def test_neighbours_do_not_overlap(self, method: str) -> None:
        view = memoryview(bytearray(2 * UNIT))
        getattr(XtsKernel(KEY), method)(0, view[:UNIT], view[UNIT:])

    def test_a_read_only_destination_is_refused(self, method: str) -> None:
        with pytest.raises(BufferError):
            getattr(XtsKernel(KEY), method)(0, bytes(UNIT), bytes(UNIT))

    def test_strided_buffers_are_refused(self, method: str) -> None:
        strided = memoryview(bytearray(2 * UNIT))[::2]
        with pytest.raises(BufferError):
            getattr(XtsKernel(KEY), method)(0, strided, bytearray(UNIT))

    def test_no_buffer_is_kept(self, method: str) -> None:
        """Plaintext could not be given back; a buffer that is kept keeps its size."""
        source, destination = bytearray(UNIT), bytearray(UNIT)
        getattr(XtsKernel(KEY), method)(0, source, destination)
        source.clear()
        destination.clear()

    def test_a_wiped_kernel_refuses(self, method: str) -> None:
        kernel, buffer = XtsKernel(KEY), bytearray(UNIT)
        kernel.wipe()
        kernel.wipe()
        with pytest.raises(ValueError, match="was wiped"):
            getattr(kernel, method)(0, buffer, buffer)
        assert is_zero(buffer)


@pytest.mark.parametrize("method", ["encrypt_one", "decrypt_one"])
class TestOneUnit:
    def test_units_shorter_than_a_cipher_block_are_refused(self, method: str) -> None:
        buffer = bytearray(15)
        with pytest.raises(ValueError, match="OpenSSL refused"):
            getattr(XtsKernel(KEY), method)(0, buffer, buffer)

    def test_a_wiped_kernel_refuses(self, method: str) -> None:
        kernel, buffer = XtsKernel(KEY), bytearray(16)
        kernel.wipe()
        with pytest.raises(ValueError, match="was wiped"):
            getattr(kernel, method)(0, buffer, buffer)


class TestKeys:
    @pytest.mark.parametrize("length", [0, 1, 31, 33, 48, 63, 65, 128])
    def test_wrong_lengths_are_refused(self, length: int) -> None:
        with pytest.raises(ValueError, match="has 64 bytes"):
            XtsKernel(bytes(range(length)))

    @pytest.mark.parametrize("half", [bytes(32), bytes(range(32)), bytes(16)])
    def test_equal_halves_are_refused(self, half: bytes) -> None:
        with pytest.raises(ValueError, match="halves of an XTS key must differ"):
            XtsKernel(half + half)

    def test_halves_that_differ_in_one_bit_are_accepted(self) -> None:
        XtsKernel(bytes(63) + b"\x01")
        XtsKernel(bytes(32) + b"\x80" + bytes(31))

    def test_the_key_may_be_overwritten_afterwards(self) -> None:
        material = bytearray(KEY)
        kernel = XtsKernel(material)
        material[:] = bytes(64)
        output = bytearray(UNIT)
        kernel.encrypt_units(3, bytes(UNIT), output)
        assert output == oracle_encrypt(KEY, 3, bytes(UNIT))

    def test_a_kernel_is_never_copied_or_serialised(self) -> None:
        kernel = XtsKernel(KEY)
        with pytest.raises(TypeError, match="never serialised"):
            pickle.dumps(kernel)
        with pytest.raises(TypeError, match="never serialised"):
            copy.copy(kernel)

    def test_a_kernel_shows_nothing_of_its_key(self) -> None:
        assert KEY.hex() not in repr(XtsKernel(KEY))
        assert not [name for name in dir(XtsKernel(KEY)) if "key" in name.lower()]


class TestHoles:
    """A 512-byte sector of ciphertext that is all zero was never written, and reads as zeros."""

    @given(holes=st.lists(st.booleans(), min_size=16, max_size=160), in_place=st.booleans())
    def test_the_rule_is_per_sector(self, holes: list[bool], in_place: bool) -> None:
        del holes[len(holes) // 8 * 8 :]
        plaintext = random_bytes(len(holes) * SECTOR, len(holes))
        stored = bytearray(oracle_encrypt(KEY, 11, plaintext))
        # XTS decrypts each 16-byte block by itself, so a hole does not change its neighbours.
        expected = bytearray(plaintext)
        for index, hole in enumerate(holes):
            if hole:
                sector = slice(index * SECTOR, (index + 1) * SECTOR)
                stored[sector] = expected[sector] = bytes(SECTOR)
        output = stored if in_place else bytearray(random_bytes(len(stored), 5))
        XtsKernel(KEY).decrypt_sparse_units(11, stored, output)
        assert output == expected

    @pytest.mark.parametrize("position", [0, 1, 255, 510, 511])
    def test_one_byte_makes_a_sector_data(self, position: int) -> None:
        stored = bytearray(UNIT)
        stored[3 * SECTOR + position] = 1
        output, plain = bytearray(UNIT), bytearray(UNIT)
        kernel = XtsKernel(KEY)
        kernel.decrypt_sparse_units(0, stored, output)
        kernel.decrypt_units(0, stored, plain)
        assert output[3 * SECTOR : 4 * SECTOR] == plain[3 * SECTOR : 4 * SECTOR]
        assert is_zero(output[: 3 * SECTOR])
        assert is_zero(output[4 * SECTOR :])

    def test_zeros_are_written_as_ciphertext(self) -> None:
        stored = bytearray(UNIT)
        XtsKernel(KEY).encrypt_units(0, bytes(UNIT), stored)
        assert not any(is_zero(stored[i : i + SECTOR]) for i in range(0, UNIT, SECTOR))

    @given(st.binary(max_size=200))
    def test_is_zero(self, data: bytes) -> None:
        assert is_zero(data) == (not any(data))
        assert is_zero(bytes(len(data)))

    @pytest.mark.parametrize("length", [0, 1, 2, 511, 512, 32767, 32768, 70000])
    def test_is_zero_sees_each_end(self, length: int) -> None:
        buffer = bytearray(length)
        assert is_zero(buffer)
        for position in {0, length // 2, length - 1} if length else set():
            buffer[position] = 0x80
            assert not is_zero(buffer)
            buffer[position] = 0


def test_a_kernel_per_thread_gives_the_same_bytes() -> None:
    plaintext = random_bytes(64 * UNIT, 3)
    expected = oracle_encrypt(KEY, 100, plaintext)

    def work(_: int) -> bool:
        kernel, output = XtsKernel(KEY), bytearray(len(plaintext))
        for _ in range(20):
            kernel.encrypt_units(100, plaintext, output)
            if output != expected:
                return False
            kernel.decrypt_units(100, output, output)
            if output != plaintext:
                return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


@pytest.mark.parametrize("method", ["encrypt_units", "decrypt_units", "decrypt_sparse_units"])
def test_a_large_run_releases_the_interpreter_lock(method: str) -> None:
    """Another thread sees a run half done, which it cannot while the run holds the lock."""
    source, length = random_bytes(UNIT, 4) * 8192, 8192 * UNIT

    def sees_half_a_run() -> bool:
        output = bytearray(length)
        run = threading.Thread(target=getattr(XtsKernel(KEY), method), args=(0, source, output))
        seen = False
        run.start()
        while run.is_alive():
            seen = seen or (not is_zero(output[:64]) and is_zero(output[-64:]))
        run.join()
        return seen

    assert any(sees_half_a_run() for _ in range(100))
