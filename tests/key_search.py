"""Looking for a data key: in the memory of processes, and in files.

A process holds a key not only as its 64 bytes: AES works with a *schedule* of 15 round keys for
each half, of which the first two are the half itself, and for decryption with another one. Two
neighbours give away the half, since the expansion can be undone; some of each are looked for, from
the beginning, the middle and the end, since what lies behind one another is hardly ever wiped in
part. Text counts as well: base64, as JSON carries keys, and hexadecimal.
"""

import os
import re
import struct
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

_SBOX_POLYNOMIAL = 0x11B
_PIECE_BYTES = 16 * 2**20
_PAGE_BYTES = os.sysconf("SC_PAGESIZE")
_PRESENT = 3 << 62
"""In memory, or in swap (bits of /proc/PID/pagemap)."""

ROUNDS = (0, 1, 7, 13, 14)


def _multiply(a: int, b: int) -> int:
    """In GF(2**8), as AES has it."""
    product = 0
    while b:
        if b & 1:
            product ^= a
        a <<= 1
        if a & 0x100:
            a ^= _SBOX_POLYNOMIAL
        b >>= 1
    return product


def _substitution() -> bytes:
    box = bytearray(256)
    for value in range(256):
        inverse = next((x for x in range(256) if _multiply(value, x) == 1), 0)
        bits = 0
        for shift in range(5):
            bits ^= (inverse << shift | inverse >> (8 - shift)) & 0xFF
        box[value] = bits ^ 0x63
    return bytes(box)


_SBOX = _substitution()


def schedule(half: bytes) -> list[bytes]:
    """The 15 round keys of AES-256 encryption (FIPS 197, 5.2)."""
    words = [half[i : i + 4] for i in range(0, 32, 4)]
    constant = 1
    for index in range(8, 60):
        word = words[-1]
        if index % 8 == 0:
            word = bytes(_SBOX[b] for b in (*word[1:], word[0]))
            word = bytes([word[0] ^ constant]) + word[1:]
            constant = _multiply(constant, 2)
        elif index % 8 == 4:
            word = bytes(_SBOX[b] for b in word)
        words.append(bytes(a ^ b for a, b in zip(words[index - 8], word, strict=True)))
    return [b"".join(words[i : i + 4]) for i in range(0, 60, 4)]


def decryption_schedule(half: bytes) -> list[bytes]:
    """Those of the equivalent inverse cipher (FIPS 197, 5.3.5), which processors work with."""
    first, *inner, last = schedule(half)
    return [first, *map(_inverse_mix, inner), last]


def _inverse_mix(key: bytes) -> bytes:
    mixed = bytearray()
    for column in range(0, 16, 4):
        for row in range(4):
            value = 0
            for index, factor in enumerate((14, 11, 13, 9)):
                value ^= _multiply(key[column + (row + index) % 4], factor)
            mixed.append(value)
    return bytes(mixed)


def traces(key: bytes) -> dict[str, bytes]:
    """What tells that 64 bytes of a data key are, or were, at a place; by what it is called."""
    assert len(key) == 64
    text = b64encode(key)
    found = {"base64": text[:24], "base64 end": text[-26:-2], "hex": key[:16].hex().encode()}
    for name, half in (("data", key[:32]), ("tweak", key[32:])):
        kinds = (("", schedule(half)), (" decrypting", decryption_schedule(half)))
        for kind, round_keys in kinds:
            found |= {f"{name}{kind} {i}": round_keys[i] for i in ROUNDS}
    return found


def found_in_process(pid: int, wanted: Mapping[str, bytes]) -> set[str]:
    """Which traces are in the memory of a process, however it protects itself; for root."""
    found: set[str] = set()
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for start, end in _mappings(pid):
            found |= _found(_pieces(memory.fileno(), start, end), wanted)
    return found


def mapping_flags(pid: int, needle: bytes) -> set[str]:
    """The flags (VmFlags in smaps; `lo` is locked) that all mappings with the bytes have."""
    blocks = re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", Path(f"/proc/{pid}/smaps").read_text())
    flags: list[set[str]] = []
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for block in blocks:
            if " rw" not in block.partition("\n")[0]:
                continue
            start, end = (int(text, 16) for text in block.split(" ", 1)[0].split("-"))
            if _found(_pieces(memory.fileno(), start, end), {"it": needle}):
                flags.append(set(block.partition("VmFlags:")[2].split()))
    return set.intersection(*flags) if flags else set()


def found_in_files(roots: Iterable[Path], wanted: Mapping[str, bytes]) -> dict[Path, set[str]]:
    """Which traces are in the files below some directories, also in what is deleted while open."""
    found: dict[Path, set[str]] = {}
    for root in roots:
        for path in root.rglob("*"):
            if path.is_file() and not path.is_symlink():
                with path.open("rb", buffering=0) as file:
                    size = os.fstat(file.fileno()).st_size
                    traces_there = _found(_pieces(file.fileno(), 0, size), wanted)
                if traces_there:
                    found[path] = traces_there
    return found


def _mappings(pid: int) -> Iterator[tuple[int, int]]:
    """Runs of pages that the process has written to, or may have."""
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pagemap:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            extent, permissions, *_ = line.split(" ")
            if permissions.startswith("rw"):
                start, end = (int(text, 16) for text in extent.split("-"))
                yield from _present(pagemap.fileno(), start, end)


def _present(pagemap: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    entries = os.pread(pagemap, (end - start) // _PAGE_BYTES * 8, start // _PAGE_BYTES * 8)
    begin: int | None = None
    for number, (entry,) in enumerate(struct.iter_unpack("=Q", entries)):
        here = start + number * _PAGE_BYTES
        if entry & _PRESENT and begin is None:
            begin = here
        elif not entry & _PRESENT and begin is not None:
            yield begin, here
            begin = None
    if begin is not None:
        yield begin, end


def _pieces(descriptor: int, start: int, end: int) -> Iterator[bytes]:
    """Pieces that overlap by more than a trace is long."""
    offset = start
    while offset < end:
        length = min(_PIECE_BYTES, end - offset)
        try:
            piece = os.pread(descriptor, length, offset)
        except OSError:  # a mapping of a file that is shorter
            return
        if not piece:
            return
        yield piece
        offset += len(piece)
        # A short piece ends where that file does: who stepped back would read the same for ever.
        if len(piece) == length and offset < end:
            offset -= 64


def _found(pieces: Iterator[bytes], wanted: Mapping[str, bytes]) -> set[str]:
    found: set[str] = set()
    for piece in pieces:
        found |= {name for name, needle in wanted.items() if needle in piece}
    return found
