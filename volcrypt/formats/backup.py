"""The backup of a home's key management state: one encrypted file, read and written as a stream.

    volcrypt backup 1\\n         magic and version, ASCII
    HEADER\\n                    one line of JSON, `BackupHeader`: not secret, and authenticated
    CHUNK CHUNK ... CHUNK       AES-256-GCM: 65,536 bytes of payload in each but the last, and a
                                tag of 16

The key of the chunks is HKDF-SHA-256 over a secret of 32 bytes, with the SHA-256 of magic and
header line as salt and `volcrypt backup chunks 1` as info: a header that was changed gives another
key. The secret is scrypt of a passphrase, or a data key that another KMS unwraps. As every backup
has a random salt or data key of its own, no key is used for two files, and nonces may count:

    nonce = number of the chunk (11 bytes, big-endian) and 1 for the last chunk, 0 for the others

So chunks cannot be reordered or dropped, nor the file cut or continued, unseen. The last chunk may
be full; it is empty only when the payload is.

The payload is files:

    length of the name (2 bytes, big-endian), the name (UTF-8, a relative path)
    length of the content (8 bytes, big-endian), the content
    ...
    0 (2 bytes)                 there are no more

A worked example, with the secret of 32 zero bytes and no files, is tests/golden/v1/backup.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from volcrypt.errors import (
    BadMagicError,
    IntegrityError,
    MalformedError,
    UnsupportedVersionError,
    WrongPassphraseError,
)

VERSION: Final = 1
CHUNK_BYTES: Final = 65_536
TAG_BYTES: Final = 16
SECRET_BYTES: Final = 32
SALT_BYTES: Final = 32
MAX_HEADER_BYTES: Final = 65_536
MAX_LOG_N: Final = 22
_MAGIC: Final = b"volcrypt backup "
_INFO: Final = b"volcrypt backup chunks 1"
_SCRYPT_R: Final = 8
_SCRYPT_P: Final = 1


class PassphraseKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """scrypt with N = 2^log_n, r = 8, p = 1."""

    log_n: int
    salt: bytes


class KmsDataKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A data key of 32 bytes, wrapped by a key of another KMS."""

    key_arn: str
    ciphertext: bytes
    encryption_context: dict[str, str]


class BackupHeader(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What can be read without the secret; exactly one of `passphrase` and `kms` is there.
    `created_at` is seconds since 1970-01-01 UTC."""

    home_id: str
    account: str
    region: str
    created_at: int
    passphrase: PassphraseKey | None = None
    kms: KmsDataKey | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """A file of the payload. Its content must be read before the next file is asked for."""

    name: str
    size_bytes: int
    content: Iterator[bytes]


def encode_header(header: BackupHeader) -> bytes:
    """Magic line and header line."""
    return b"%s%d\n%s\n" % (_MAGIC, VERSION, msgspec.json.encode(header))


def split_header(data: bytes, *, what: str) -> tuple[BackupHeader, bytes]:
    """The header at the beginning of `data`, and its bytes with the magic line.

    `data` is the first MAX_HEADER_BYTES of the file, or all of it. Raises FormatError.
    """
    if not data.startswith(_MAGIC):
        raise BadMagicError(what)
    lines = data.split(b"\n", 2)
    if len(lines) < 3:
        raise MalformedError(what, "truncated or damaged")
    version = lines[0].removeprefix(_MAGIC)
    if not version.isdigit() or len(version) > 9:
        raise MalformedError(what, "no version")
    if int(version) != VERSION:
        raise UnsupportedVersionError(what, int(version), VERSION)
    try:
        header = msgspec.json.decode(lines[1], type=BackupHeader)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError(what, "truncated or damaged") from error
    if (header.passphrase is None) == (header.kms is None):
        raise MalformedError(what, "it must name a passphrase or a key of a KMS")
    if header.passphrase is not None and not 1 <= header.passphrase.log_n <= MAX_LOG_N:
        raise MalformedError(what, "its passphrase takes too much work")
    return header, lines[0] + b"\n" + lines[1] + b"\n"


def stretch_passphrase(passphrase: bytes | bytearray, parameters: PassphraseKey) -> bytes:
    """The secret that a passphrase stands for; takes as long as the parameters want."""
    return Scrypt(
        salt=parameters.salt,
        length=SECRET_BYTES,
        n=2**parameters.log_n,
        r=_SCRYPT_R,
        p=_SCRYPT_P,
    ).derive(bytes(passphrase))


def chunk_key(secret: bytes | bytearray, header: bytes) -> bytes:
    """The key of the chunks behind a header, given with its magic line."""
    assert len(secret) == SECRET_BYTES, "internal error: the secret of a backup has 32 bytes"
    salt = hashlib.sha256(header).digest()
    return HKDF(algorithm=SHA256(), length=32, salt=salt, info=_INFO).derive(bytes(secret))


def seal_chunks(key: bytes, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The chunks of a payload that comes in pieces of any size."""
    cipher = AESGCM(key)
    index = 0
    waiting = bytearray()
    for piece in pieces:
        waiting += piece
        # The last chunk is known to be that only when nothing follows: one byte is kept back.
        while len(waiting) > CHUNK_BYTES:
            yield cipher.encrypt(_nonce(index, is_last=False), bytes(waiting[:CHUNK_BYTES]), None)
            del waiting[:CHUNK_BYTES]
            index += 1
    yield cipher.encrypt(_nonce(index, is_last=True), bytes(waiting), None)


def open_chunks(
    key: bytes, read: Callable[[int], bytes], *, what: str, is_by_passphrase: bool = False
) -> Iterator[bytes]:
    """The payload, chunk by chunk; `read` gives so many bytes, fewer only at the end of the file.

    Each piece is authentic when it comes out; that nothing is missing is known only at the end.
    Raises IntegrityError; WrongPassphraseError where the key is of a passphrase and opens nothing.
    """
    cipher = AESGCM(key)
    index = 0
    sealed = read(CHUNK_BYTES + TAG_BYTES)
    while True:
        following = read(CHUNK_BYTES + TAG_BYTES)
        try:
            piece = cipher.decrypt(_nonce(index, is_last=not following), sealed, None)
        except (InvalidTag, ValueError) as error:
            if is_by_passphrase and index == 0:
                raise WrongPassphraseError(
                    f"{what}: wrong passphrase, or damaged or cut in its first chunk"
                ) from error
            raise IntegrityError(
                f"{what}: wrong passphrase or key, or damaged or cut in chunk {index}"
            ) from error
        if not piece and index:
            raise IntegrityError(f"{what}: an empty chunk {index} at the end")
        yield piece
        if not following:
            return
        sealed = following
        index += 1


def encode_files(files: Iterable[tuple[str, int, Iterable[bytes]]]) -> Iterator[bytes]:
    """The payload of files, each (name, size, content in pieces)."""
    for name, size, content in files:
        encoded = name.encode()
        check_name(name, what="a backup to be made")
        yield len(encoded).to_bytes(2, "big") + encoded + size.to_bytes(8, "big")
        written = 0
        for piece in content:
            written += len(piece)
            yield piece
        assert written == size, "internal error: a file has another size than was said"
    yield bytes(2)


def decode_files(pieces: Iterable[bytes], *, what: str) -> Iterator[FileEntry]:
    """The files of a payload. Raises MalformedError."""
    source = _Source(pieces, what)
    seen: set[str] = set()
    while True:
        length = int.from_bytes(source.exactly(2), "big")
        if not length:
            break
        try:
            name = source.exactly(length).decode()
        except UnicodeDecodeError as error:
            raise MalformedError(what, "a name is not UTF-8") from error
        check_name(name, what=what)
        if name in seen:
            raise MalformedError(what, f"{name} stands twice in it")
        seen.add(name)
        size = int.from_bytes(source.exactly(8), "big")
        content = source.pieces(size)
        yield FileEntry(name=name, size_bytes=size, content=content)
        for _ in content:
            pass  # what the caller did not want
    source.check_end()


def check_name(name: str, *, what: str) -> None:
    """A relative path that stays below where it starts. Raises MalformedError."""
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\0" in name or len(name) > 1000:
        raise MalformedError(what, "it names a file outside of the home")


def _nonce(index: int, *, is_last: bool) -> bytes:
    return index.to_bytes(11, "big") + bytes([is_last])


class _Source:
    """A payload, to be read in other pieces than it comes in."""

    def __init__(self, pieces: Iterable[bytes], what: str) -> None:
        self._pieces = iter(pieces)
        self._what = what
        self._left = b""

    def exactly(self, size: int) -> bytes:
        return b"".join(self.pieces(size))

    def pieces(self, size: int) -> Iterator[bytes]:
        while size:
            if not self._left:
                self._left = next(self._pieces, b"")
                if not self._left:
                    raise MalformedError(self._what, "it ends in the middle of a file")
            piece, self._left = self._left[:size], self._left[size:]
            size -= len(piece)
            yield piece

    def check_end(self) -> None:
        """Reads on to the last chunk, which says that nothing was cut off."""
        if self._left or next(self._pieces, b""):
            raise MalformedError(self._what, "something follows its last file")
