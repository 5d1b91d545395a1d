"""Frames between the KMS and the process of a key store."""

import socket
from collections.abc import Iterator

import pytest

from volcrypt.errors import MalformedError
from volcrypt.kms.frames import LENGTH, MAX_BYTES, receive_frame, send_frame


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        yield one, other


@pytest.mark.parametrize("frame", [b"", b"x", b"frame" * 1000])
def test_a_frame_arrives_and_is_wiped(
    pair: tuple[socket.socket, socket.socket], frame: bytes
) -> None:
    sent = bytearray(frame)
    send_frame(pair[0], sent)
    assert sent == bytes(len(frame))
    assert receive_frame(pair[1]) == bytearray(frame)


@pytest.mark.parametrize(
    "sent", [b"", LENGTH.pack(5)[:2], LENGTH.pack(5), LENGTH.pack(5) + b"four"]
)
def test_an_end_anywhere_is_an_end(pair: tuple[socket.socket, socket.socket], sent: bytes) -> None:
    pair[0].sendall(sent)
    pair[0].close()
    assert receive_frame(pair[1]) is None


def test_a_frame_that_would_fill_the_memory_is_refused(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    pair[0].sendall(LENGTH.pack(MAX_BYTES + 1))
    with pytest.raises(MalformedError):
        receive_frame(pair[1])
