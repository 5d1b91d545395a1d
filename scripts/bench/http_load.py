"""A load generator that costs next to nothing: requests that were signed before, sent as they are
over connections that stay open where the server lets them, by one process with one thread.

Reads its job (`Load`) as JSON from standard input and prints what came of it. As many requests are
under way as there are clients: each connection waits for its answer before it sends the next. With
a rate, requests fall due at fixed times instead, and latency counts from then, so that a server
that falls behind shows it.
"""

import json
import select
import socket
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass

WARM_UP_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class Load:
    """`address` is [host, port] or the path of a Unix socket; `requests` are sent in turn."""

    address: list[str | int] | str
    requests: list[str]
    clients: int
    seconds: float
    rate: float | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """`failures` are answers that are not 200."""

    per_second: float
    p50_ms: float
    p99_ms: float
    count: int
    failures: int


def connect(address: list[str | int] | str) -> socket.socket:
    if isinstance(address, str):
        made = socket.socket(socket.AF_UNIX)
        made.connect(address)
    else:
        made = socket.create_connection((str(address[0]), int(address[1])))
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def is_whole(answer: bytes) -> bool:
    head, found, body = answer.partition(b"\r\n\r\n")
    at = head.lower().find(b"content-length:")
    if not found or at < 0:
        return False
    length = int(head[at + 15 :].split(b"\r\n", 1)[0])
    return len(body) >= length


def run(load: Load) -> Outcome:
    requests = [text.encode("latin-1") for text in load.requests]
    connections = {}
    poll = select.epoll()

    def open_one() -> int:
        connection = connect(load.address)
        connections[connection.fileno()] = connection
        poll.register(connection.fileno(), select.EPOLLIN)
        return connection.fileno()

    idle = deque(open_one() for _ in range(load.clients))
    begun: dict[int, float] = {}
    partial: dict[int, bytes] = {}
    latencies: list[float] = []
    failures = turn = 0
    start = time.perf_counter() + WARM_UP_SECONDS
    end = start + load.seconds
    due = time.perf_counter()
    while True:
        now = time.perf_counter()
        if now >= end:
            break
        while idle and (load.rate is None or due <= now):
            number = idle.popleft()
            begun[number] = now if load.rate is None else due
            connections[number].sendall(requests[turn % len(requests)])
            turn += 1
            if load.rate is not None:
                due += 1 / load.rate
        wait = 0.1 if load.rate is None or not idle else max(0.0, due - time.perf_counter())
        for ready, _ in poll.poll(min(wait, 0.1)):
            number = ready
            data = connections[number].recv(65536)
            if not data:
                raise ConnectionError("the server closed a connection")
            answer = partial.pop(number, b"") + data
            if not is_whole(answer):
                partial[number] = answer
                continue
            now = time.perf_counter()
            if begun[number] >= start:
                latencies.append(now - begun[number])
                failures += b" 200 " not in answer[:20]
            if b"\r\nconnection: close" in answer.partition(b"\r\n\r\n")[0].lower():
                connections.pop(number).close()  # a server that does not keep them, such as moto's
                number = open_one()
            idle.append(number)
    if not latencies:
        raise RuntimeError("nothing was answered in time")
    latencies.sort()
    return Outcome(
        per_second=len(latencies) / load.seconds,
        p50_ms=latencies[len(latencies) // 2] * 1e3,
        p99_ms=latencies[len(latencies) * 99 // 100] * 1e3,
        count=len(latencies),
        failures=failures,
    )


if __name__ == "__main__":
    print(json.dumps(asdict(run(Load(**json.load(sys.stdin))))))
