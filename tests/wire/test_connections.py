"""What a real daemon does with connections that misbehave, over a real socket."""

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from tests.wire.in_process import request
from tests.wire.served import Served, served
from tests.wire.signing import signed
from volcrypt.wire.claim import HttpRequest


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A daemon with little patience."""
    directory = tmp_path_factory.mktemp("hasty")
    with served(directory, request_seconds=1, max_connections=8) as made:
        yield made


def raw(sent: HttpRequest) -> bytes:
    """A request as it goes over the wire."""
    lines = [f"{sent.method} {sent.path} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in sent.headers]
    lines.append(f"content-length: {len(sent.body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + sent.body


def list_keys() -> bytes:
    return raw(request("ListKeys", now=time.time()))


def read_answer(connection: socket.socket) -> tuple[int, bytes]:
    """Status and body of one answer."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            raise ConnectionError(f"closed after {data!r}")
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
    while len(body) < length:
        body += connection.recv(65536)
    assert len(body) == length, "two answers where one was expected"
    return int(head.split(b" ")[1]), body


def is_closed(connection: socket.socket) -> bool:
    """Whether the daemon closes the connection before long."""
    connection.settimeout(10)
    try:
        return connection.recv(65536) == b""
    except ConnectionError:
        return True


def test_a_connection_is_used_again(daemon: Served) -> None:
    with daemon.connect() as connection:
        for _ in range(3):
            connection.sendall(list_keys())
            assert read_answer(connection)[0] == 200


def test_a_request_that_comes_byte_by_byte(daemon: Served) -> None:
    with daemon.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in list_keys():
            connection.sendall(bytes([byte]))
        assert read_answer(connection)[0] == 200


def test_pipelined_requests_are_answered_in_order(daemon: Served) -> None:
    limits = [1, 2, 3, 4, 5]
    sent = b"".join(
        raw(request("GenerateRandom", {"NumberOfBytes": n}, now=time.time())) for n in limits
    )
    with daemon.connect() as connection:
        connection.sendall(sent)
        data = b""
        while data.count(b'{"Plaintext"') < len(limits) or not data.endswith(b"}"):
            data += connection.recv(65536)
    bodies = [part[: part.index(b"}") + 1] for part in data.split(b"\r\n\r\n")[1:]]
    sizes = [len(json.loads(body)["Plaintext"].rstrip("=")) for body in bodies]
    assert sizes == [2, 3, 4, 6, 7]


def test_too_many_pipelined_requests(daemon: Served) -> None:
    with daemon.connect() as connection:
        connection.sendall(list_keys() * 200)
        connection.settimeout(10)
        data = b""
        try:
            while piece := connection.recv(65536):
                data += piece
        except ConnectionError:
            pass
    assert data.count(b"HTTP/1.1 200") < 200


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x00\x01\x02\r\n\r\n", 400),
        (b"NONSENSE\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        (b"POST / HTTP/9.9\r\nhost: a\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: x\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: 99999999999999999999\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2000000\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 100_000, 431),
        (b"CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        (b"POST /\xff HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        (b"POST http://[ HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    ],
)
def test_what_is_no_proper_request(daemon: Served, sent: bytes, status: int) -> None:
    with daemon.connect() as connection:
        connection.sendall(sent)
        assert read_answer(connection)[0] == status
    with daemon.connect() as connection:  # and nobody else is troubled
        connection.sendall(list_keys())
        assert read_answer(connection)[0] == 200


def test_a_chunked_body_that_never_ends(daemon: Served) -> None:
    head = chunked(request("ListKeys", now=time.time())).removesuffix(b"0\r\n\r\n")
    chunk = b"%x\r\n%s\r\n" % (65536, bytes(65536))
    with daemon.connect() as connection:
        try:
            connection.sendall(head + chunk * 32)
            assert read_answer(connection)[0] == 413
        except ConnectionError:
            pass  # it had enough before all of it was sent
    assert resident_bytes(daemon.pid) < 300e6


def chunked(sent: HttpRequest, *, extension: bytes = b"", trailers: bytes = b"") -> bytes:
    """The request with its body in chunks."""
    head = raw(replace(sent, body=b"")).replace(b"content-length: 0", b"transfer-encoding: chunked")
    chunk = b"%x%s\r\n%s\r\n" % (len(sent.body), extension, sent.body)
    return head + chunk + b"0\r\n" + trailers + b"\r\n"


def test_a_chunked_body(daemon: Served) -> None:
    with daemon.connect() as connection:
        connection.sendall(chunked(request("ListKeys", now=time.time()), extension=b";a=b"))
        assert read_answer(connection)[0] == 200


@pytest.mark.parametrize("name", [b"x", b"content-type", b"user-agent"])
def test_trailers_end_the_connection(daemon: Served, name: bytes) -> None:
    sent = chunked(request("ListKeys", now=time.time()), trailers=name + b": y\r\n")
    with daemon.connect() as connection:
        connection.sendall(sent)
        assert is_closed(connection)


@pytest.mark.parametrize(
    "piece", [b"x: y\r\n", b"1;" + b"x" * 1000, b"1;" + b"x" * 1000 + b"\r\ny\r\n"]
)
def test_what_surrounds_a_body_is_bounded(daemon: Served, piece: bytes) -> None:
    """Trailers without end, an extension of a chunk without end, and many extensions."""
    head = chunked(request("ListKeys", now=time.time())).removesuffix(b"0\r\n\r\n")
    if piece.startswith(b"x"):
        head += b"0\r\n"
    with daemon.connect() as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(head + piece * 50_000)
        assert is_closed(connection)


def test_a_large_body_is_refused_before_it_is_sent(daemon: Served) -> None:
    with daemon.connect() as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2000000\r\n")
        connection.sendall(b"expect: 100-continue\r\n\r\n")
        status, body = read_answer(connection)
    assert (status, json.loads(body)["__type"]) == (413, "RequestEntityTooLargeException")


def test_half_sent_requests_end(hasty: Served) -> None:
    """Headers without end, a body that does not come, silence, one begun behind another: all end
    after the time for a request, while others are served."""
    half = list_keys()
    began = time.monotonic()
    with ExitStack() as stack:
        connections = []
        for sent in (half[:40], half[:-1], b"", b"POST", half + half[:-1], half + half[:40]):
            connections.append(stack.enter_context(hasty.connect()))
            connections[-1].sendall(sent)
        while time.monotonic() - began < 0.5:
            with hasty.connect() as other:
                other.sendall(list_keys())
                assert read_answer(other)[0] == 200
        for connection in connections[-2:]:
            assert read_answer(connection)[0] == 200
        assert all(is_closed(connection) for connection in connections)


def test_who_does_not_take_his_answer_is_cut_off(hasty: Served) -> None:
    with hasty.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sent = raw(request("GenerateRandom", {"NumberOfBytes": 1024}, now=time.time()))
        connection.settimeout(0.5)
        with contextlib.suppress(OSError):
            while True:
                connection.sendall(sent)
        connection.settimeout(10)
        with pytest.raises(ConnectionError):
            send_for_ever(connection, sent)


def send_for_ever(connection: socket.socket, sent: bytes) -> None:
    while True:
        time.sleep(0.2)
        connection.sendall(sent)


def test_the_number_of_connections_is_bounded(hasty: Served) -> None:
    with ExitStack() as stack:
        connections = [stack.enter_context(hasty.connect()) for _ in range(8)]
        for connection in connections:
            connection.sendall(list_keys())
            assert read_answer(connection)[0] == 200
        assert read_answer(stack.enter_context(hasty.connect()))[0] == 503
        connections[0].sendall(list_keys())
        assert read_answer(connections[0])[0] == 200
    status = 503
    while status == 503:  # until it has seen that they are gone
        with hasty.connect() as connection, contextlib.suppress(ConnectionError):
            connection.sendall(list_keys())
            status = read_answer(connection)[0]
    assert status == 200


def test_who_never_said_who_he_is_makes_room(tmp_path: Path) -> None:
    """The oldest of those goes first; who has had an answer stays."""
    with served(tmp_path, max_connections=4) as daemon, ExitStack() as stack:
        first = stack.enter_context(daemon.connect())
        first.sendall(list_keys())
        assert read_answer(first)[0] == 200
        idle = [stack.enter_context(daemon.connect()) for _ in range(2)]
        nobody = stack.enter_context(daemon.connect())
        nobody.sendall(raw(request("ListKeys", now=time.time(), secret="wrong")))
        assert read_answer(nobody)[0] == 400
        for gone in (*idle, nobody):
            late = stack.enter_context(daemon.connect())
            late.sendall(list_keys())
            assert read_answer(late)[0] == 200
            assert is_closed(gone)
        assert read_answer(stack.enter_context(daemon.connect()))[0] == 503
        first.sendall(list_keys())
        assert read_answer(first)[0] == 200


def test_sixty_four_clients_at_once(daemon: Served) -> None:
    key_id = daemon.client().create_key()["KeyMetadata"]["KeyId"]
    client = daemon.client()

    def work(_number: int) -> bool:
        made = client.generate_data_key(KeyId=key_id, NumberOfBytes=32)
        opened = client.decrypt(CiphertextBlob=made["CiphertextBlob"])
        return bool(opened["Plaintext"] == made["Plaintext"])

    with ThreadPoolExecutor(64) as pool:
        assert all(pool.map(work, range(256)))


def test_a_flood_of_nobody_leaves_no_trace_but_a_count(daemon: Served) -> None:
    audit = daemon.home / "kms" / "audit"
    daemon.client().list_keys()
    before = sum(file.stat().st_size for file in audit.glob("*.jsonl"))
    flood = raw(signed(secret="wrong", now=time.time()))

    def attack(_number: int) -> None:
        for _ in range(100):
            with daemon.connect() as connection:
                connection.sendall(flood)
                read_answer(connection)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(attack, range(8)))
    assert sum(file.stat().st_size for file in audit.glob("*.jsonl")) == before


def resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)
