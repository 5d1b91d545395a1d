"""Sealed documents: the worked example, every damage, and every kind of seal."""

import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import msgspec
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from volcrypt.errors import (
    BadMagicError,
    FormatError,
    IntegrityError,
    MalformedError,
    SealError,
    UnsupportedVersionError,
)
from volcrypt.formats import document
from volcrypt.formats.document import (
    MAX_DOCUMENT_BYTES,
    MacSeal,
    Sealer,
    SignatureVerifier,
    SigningSeal,
    Verifier,
    check_seal,
    decode_document,
    encode_document,
    split_document,
)

PRIVATE_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC_KEY = PRIVATE_KEY.public_key().public_bytes_raw()


class Example(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    answer: int
    text: str = ""


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    answer: int


SEALS: list[tuple[Sealer, Verifier]] = [
    (MacSeal(bytes(32)), MacSeal(bytearray(32))),
    (SigningSeal(PRIVATE_KEY), SignatureVerifier(PUBLIC_KEY)),
]
both_seals = pytest.mark.parametrize(("sealer", "verifier"), SEALS, ids=["hmac", "ed25519"])


def decode(data: bytes, verifier: Verifier = SEALS[0][1]) -> Example:
    return decode_document(data, "example", {1: Example}, verifier, what="the example")


def sealed(covered: bytes) -> bytes:
    """Any bytes with a seal that holds."""
    return covered + MacSeal(bytes(32)).seal(covered).hex().encode() + b"\n"


def test_the_worked_example_of_the_docstring() -> None:
    assert document.__doc__ is not None
    example = re.search(r"    (volcrypt example 1\n.*?)\Z", document.__doc__, re.DOTALL)
    assert example is not None
    data = example[1].replace("\n    ", "\n").encode()
    assert data.count(b"\n") == 3
    assert encode_document("example", 1, Answer(42), MacSeal(bytes(32))) == data
    verifier = MacSeal(bytes(32))
    assert decode_document(data, "example", {1: Answer}, verifier, what="it") == Answer(42)


@both_seals
@given(answer=st.integers(-(2**63), 2**63 - 1), text=st.text(st.characters(codec="utf-8")))
def test_round_trip(sealer: Sealer, verifier: Verifier, answer: int, text: str) -> None:
    data = encode_document("example", 1, Example(answer, text), sealer)
    assert data.count(b"\n") == 3
    assert decode(data, verifier) == Example(answer, text)


@both_seals
def test_truncation_at_every_byte(sealer: Sealer, verifier: Verifier) -> None:
    data = encode_document("example", 1, Example(42, "text"), sealer)
    for length in range(len(data)):
        with pytest.raises((FormatError, IntegrityError), match="the example: "):
            decode(data[:length], verifier)


@both_seals
def test_every_flipped_bit(sealer: Sealer, verifier: Verifier) -> None:
    data = encode_document("example", 1, Example(42, "text"), sealer)
    for bit in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises((FormatError, IntegrityError), match="the example: "):
            decode(bytes(damaged), verifier)


@both_seals
def test_every_inserted_or_removed_byte(sealer: Sealer, verifier: Verifier) -> None:
    data = encode_document("example", 1, Example(42, "text"), sealer)
    for position in range(len(data)):
        for damaged in [
            data[:position] + data[position + 1 :],
            data[:position] + b"\n" + data[position:],
            data[:position] + b" " + data[position:],
            data[:position] + b"0" + data[position:],
        ]:
            with pytest.raises((FormatError, IntegrityError)):
                decode(damaged, verifier)


@given(st.one_of(st.binary(), st.binary().map(lambda junk: b"volcrypt example 1\n" + junk)))
def test_junk(data: bytes) -> None:
    with pytest.raises((FormatError, IntegrityError)):
        decode(data)


@given(st.binary())
def test_a_holding_seal_makes_no_body_parse(body: bytes) -> None:
    with pytest.raises(FormatError):
        decode(sealed(b"volcrypt example 1\n" + body + b"\n"))


@pytest.mark.parametrize(
    ("header", "error"),
    [
        (b"", BadMagicError),
        (b"volcrypt", BadMagicError),
        (b"Volcrypt example 1", BadMagicError),
        (b"volcrypt ", BadMagicError),
        (b"volcrypt other 1", BadMagicError),
        (b"volcrypt example2 1", BadMagicError),
        (b"volcrypt example", MalformedError),
        (b"volcrypt example ", MalformedError),
        (b"volcrypt example one", MalformedError),
        (b"volcrypt example -1", MalformedError),
        (b"volcrypt example 1 ", MalformedError),
        (b"volcrypt example 1\r", MalformedError),
        (b"volcrypt example 0", UnsupportedVersionError),
        (b"volcrypt example 2", UnsupportedVersionError),
        (b"volcrypt example " + b"1" * 5000, UnsupportedVersionError),
        (b"volcrypt example 0000000001", UnsupportedVersionError),
    ],
)
def test_headers(header: bytes, error: type[FormatError]) -> None:
    with pytest.raises(error):
        decode(sealed(header + b'\n{"answer":42}\n'))


def test_an_unknown_version_says_what_is_known() -> None:
    with pytest.raises(UnsupportedVersionError) as caught:
        decode(sealed(b'volcrypt example 7\n{"answer":42}\n'))
    assert (caught.value.version, caught.value.known) == (7, 1)


def test_each_version_has_its_body() -> None:
    bodies: dict[int, type[msgspec.Struct]] = {1: Answer, 2: Example}
    seal = MacSeal(bytes(32))
    for version, body in ((1, Answer(1)), (2, Example(2, "two"))):
        data = encode_document("example", version, body, seal)
        assert decode_document(data, "example", bodies, seal, what="it") == body


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'{"answer":"42"}',
        b'{"answer":42,"more":1}',
        b'{"answer":1e999}',
        b'{"answer":' + b"9" * 5000 + b"}",
        b'{"answer":42,"text":"\xff"}',
        b'{"answer":42,"text":"\xed\xa0\x80"}',
        b'{"answer":' + b"[" * 200_000,
        b'{"text":' + b'{"a":' * 200_000,
        b'{"answer":42}{"answer":42}',
    ],
)
def test_bodies_that_do_not_parse(body: bytes) -> None:
    with pytest.raises(MalformedError, match="its body does not parse"):
        decode(sealed(b"volcrypt example 1\n" + body + b"\n"))


@pytest.mark.parametrize("seal", [b"zz", b"0", b"00 ", b"\xff\xff"])
def test_seals_that_do_not_parse(seal: bytes) -> None:
    with pytest.raises(MalformedError, match="its seal does not parse"):
        decode(b'volcrypt example 1\n{"answer":42}\n' + seal + b"\n")


@both_seals
def test_a_seal_has_one_spelling(sealer: Sealer, verifier: Verifier) -> None:
    data = encode_document("example", 1, Example(42), sealer)
    covered, seal = data[:-1].rsplit(b"\n", 1)
    assert seal != seal.upper()
    with pytest.raises(MalformedError, match="its seal does not parse"):
        decode(covered + b"\n" + seal.upper() + b"\n", verifier)


@both_seals
@pytest.mark.parametrize("seal", [b"", b"00", b"00" * 32, b"00" * 64, b"00" * 65])
def test_seals_that_do_not_hold(sealer: Sealer, verifier: Verifier, seal: bytes) -> None:
    with pytest.raises(SealError, match="the example: its seal does not hold"):
        decode(b'volcrypt example 1\n{"answer":42}\n' + seal + b"\n", verifier)


def test_the_seal_of_another_key_does_not_hold() -> None:
    data = encode_document("example", 1, Example(42), MacSeal(bytes(32)))
    with pytest.raises(SealError):
        decode(data, MacSeal(b"\x01" + bytes(31)))
    signed = encode_document("example", 1, Example(42), SigningSeal(PRIVATE_KEY))
    other = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key().public_bytes_raw()
    with pytest.raises(SealError):
        decode(signed, SignatureVerifier(other))


def test_one_kind_is_not_passed_off_as_another() -> None:
    data = encode_document("other", 1, Example(42), MacSeal(bytes(32)))
    with pytest.raises(BadMagicError):
        decode(data)
    with pytest.raises(SealError):
        decode(data.replace(b"other", b"example"))


def test_a_document_may_not_be_huge() -> None:
    with pytest.raises(MalformedError, match="too long"):
        decode(b"volcrypt example 1\n" + bytes(MAX_DOCUMENT_BYTES))


def test_a_reader_that_must_look_before_it_checks() -> None:
    data = encode_document("example", 1, Example(42), MacSeal(bytes(32)))
    body, covered, seal = split_document(data, "example", {1: Example}, what="it")
    assert body == Example(42)
    assert covered + seal.hex().encode() + b"\n" == data
    check_seal(covered, seal, MacSeal(bytes(32)), what="it")
    with pytest.raises(SealError, match="it: "):
        check_seal(covered + b" ", seal, MacSeal(bytes(32)), what="it")


def test_a_fault_of_the_verifier_is_not_a_broken_seal() -> None:
    class FailingVerifier:
        def verify(self, covered: bytes, seal: bytes) -> NoReturn:
            raise ConnectionError("the token is away")

    data = encode_document("example", 1, Example(42), MacSeal(bytes(32)))
    with pytest.raises(ConnectionError):
        decode(data, FailingVerifier())


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_mac_key_has_32_bytes(length: int) -> None:
    with pytest.raises(AssertionError, match="internal error"):
        MacSeal(bytes(length))


def test_the_signature_is_that_of_rfc_8032() -> None:
    """Section 7.1, test 1: the empty message."""
    private_key = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    public_key = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    signature = (
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bac"
        "c61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
    )
    sealer = SigningSeal(Ed25519PrivateKey.from_private_bytes(private_key))
    assert sealer.seal(b"").hex() == signature
    SignatureVerifier(bytes.fromhex(public_key)).verify(b"", bytes.fromhex(signature))
    with pytest.raises(InvalidSignature):
        SignatureVerifier(bytes.fromhex(public_key)).verify(b"x", bytes.fromhex(signature))


FIRST_USE = """
import sys, threading
import msgspec
from volcrypt.formats.document import MacSeal, decode_document, encode_document, known_bodies

sys.setswitchinterval(1e-6)
seal = MacSeal(bytearray(32))
for _ in range(300):
    class Inner(msgspec.Struct, frozen=True):
        number: int
        text: str | None
        context: dict[str, str]

    class Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        inner: "Inner | None"
        numbers: "list[int]"
        data: "bytes" = b""

    value = Body(inner=Inner(1, None, {}), numbers=[1])
    data = encode_document("kind", 1, value, seal)
    bodies = known_bodies({1: Body}) if sys.argv[1] == "known" else {1: Body}
    barrier, found = threading.Barrier(8), []

    def read():
        barrier.wait()
        found.append(decode_document(data, "kind", bodies, seal, what="it"))

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [value] * 8
"""


@pytest.mark.parametrize("bodies", ["known", pytest.param("control", marks=pytest.mark.soak)])
def test_a_kind_may_be_read_first_by_several_threads(bodies: str) -> None:
    """The control crashes if the threads meet; should it never any more, msgspec learned it."""
    done = subprocess.run([sys.executable, "-c", FIRST_USE, bodies], check=False, timeout=120)
    assert done.returncode == (0 if bodies == "known" else -signal.SIGSEGV)


def test_every_kind_is_known_before_there_are_threads() -> None:
    formats = Path(document.__file__).parent
    literal = re.compile(r"\{VERSION: \w+\}")
    users = {path.name: path.read_text() for path in formats.glob("*.py")}
    found = [name for name, text in users.items() if literal.search(text)]
    assert len(found) >= 15
    for name in found:
        rest = re.sub(r"known_bodies\(\{VERSION: \w+\}\)", "", users[name])
        assert not literal.search(rest), name
