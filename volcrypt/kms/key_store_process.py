"""The process of one custom key store: a PKCS#11 module by itself, where it can do no harm.

    python -m volcrypt.kms.key_store_process DESCRIPTOR

python-pkcs11 holds one library per process, and a vendor's module that crashes must not take the
KMS with it. The process takes calls from a socket (`key_store_messages`), the PIN with the first of
them; it never sees the catalogue or the home's own token, and it ends when the socket is closed.
"""

import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from volcrypt.confinement import forbid_dumps, wipe_bytes
from volcrypt.errors import (
    HsmUnavailableError,
    IntegrityError,
    InvalidArgumentError,
    InvalidCiphertextError,
    PinLockedError,
    TokenMissingError,
    VolcryptError,
    WrongPinError,
)
from volcrypt.kms.frames import receive_frame, send_frame
from volcrypt.kms.key_store_messages import (
    Answer,
    Call,
    Decrypt,
    Encrypt,
    Failure,
    Generate,
    Generation,
    Open,
    Random,
    Reply,
    Retire,
    Rewrap,
)
from volcrypt.kms.pin import HeldPin
from volcrypt.kms.pkcs11 import PORTABLE_WRAPPING, Pkcs11Materials
from volcrypt.kms.pkcs11_session import Token, logged_in

KINDS: Final = {
    kind.__name__: kind
    for kind in (
        HsmUnavailableError,
        IntegrityError,
        InvalidArgumentError,
        InvalidCiphertextError,
        PinLockedError,
        TokenMissingError,
        WrongPinError,
    )
}
"""The errors that cross the socket by name; others cross as HsmUnavailableError."""


def serve(connection: socket.socket) -> None:
    """Answer calls until the other side closes the socket."""
    call = _receive(connection)
    if not isinstance(call, Open):
        return
    try:
        with _opened(call) as store:
            send_frame(connection, _encode(Answer()))
            while (call := _receive(connection)) is not None:
                send_frame(connection, _encode(_reply(store, call)))
    except VolcryptError as error:
        send_frame(connection, _encode(_failure(error)))


@contextmanager
def _opened(call: Open) -> Iterator[Pkcs11Materials]:
    token = Token(
        module=Path(call.module),
        label=call.label,
        configuration=None if call.configuration is None else Path(call.configuration),
    )
    held = HeldPin(call.pin)
    call.pin[:] = bytes(len(call.pin))
    with held, logged_in(token, held) as session:
        yield Pkcs11Materials(
            session,
            prefix=call.prefix,
            mechanism=PORTABLE_WRAPPING,
            make_key=call.make_key,
        )


def _reply(store: Pkcs11Materials, call: Call) -> Reply:
    try:
        return _answer(store, call)
    except VolcryptError as error:
        return _failure(error)


def _answer(store: Pkcs11Materials, call: Call) -> Answer:
    match call:
        case Generate():
            return Answer(materials=[store.generate_material()])
        case Encrypt(material, plaintext, aad):
            sealed = store.encrypt(material, plaintext=plaintext, aad=aad)
            plaintext[:] = bytes(len(plaintext))
            return Answer(data=bytearray(sealed))
        case Decrypt(material, sealed, aad):
            return Answer(data=store.decrypt(material, sealed=sealed, aad=aad))
        case Random(count):
            return Answer(data=store.random(count))
        case Rewrap(materials):
            store.add_generation()
            return Answer(materials=store.rewrapped(materials))
        case Generation():
            return Answer(number=store.generation())
        case Retire(older_than):
            store.destroy_generations(older_than=older_than)
            return Answer()
        case Open():
            raise InvalidArgumentError("internal error: the token is open already")


def _failure(error: VolcryptError) -> Failure:
    for kind in type(error).__mro__:
        if kind.__name__ in KINDS:
            return Failure(kind.__name__, str(error))
    return Failure(HsmUnavailableError.__name__, str(error))


def _receive(connection: socket.socket) -> Call | None:
    """The next call; None at the end."""
    frame = receive_frame(connection)
    if frame is None:
        return None
    try:
        call: Call = msgspec.msgpack.decode(frame, type=Call)
        return call
    finally:
        frame[:] = bytes(len(frame))


def _encode(reply: Reply) -> bytearray:
    encoded = msgspec.msgpack.encode(reply)
    frame = bytearray(encoded)
    if isinstance(reply, Answer) and reply.data is not None:
        reply.data[:] = bytes(len(reply.data))
        wipe_bytes(encoded)
    return frame


def main(descriptor: int) -> None:
    # The terminal's Ctrl-C is for the KMS, which closes the socket.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    forbid_dumps()
    with socket.socket(fileno=descriptor) as connection:
        serve(connection)


if __name__ == "__main__":
    main(int(sys.argv[1]))
